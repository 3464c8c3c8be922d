"""Lines of JSON, cut anywhere."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.ndjson import LineSplitter, NdjsonError


@given(
    st.lists(st.sampled_from([b'{"a":1}', b"\n", b"\r\n", b"\r", b" ", b"x"]), max_size=30).map(b"".join),
    st.lists(st.integers(0, 90), max_size=10),
)
def test_every_cut_gives_the_same_lines(stream: bytes, cuts: list[int]) -> None:
    splitter = LineSplitter()
    lines: list[bytes] = []
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    for start, end in itertools.pairwise(places):
        lines += splitter.feed(stream[start:end])
    *whole, rest = stream.split(b"\n")
    assert lines == [line.removesuffix(b"\r") for line in whole if line.strip()]
    assert splitter.rest == rest


def test_a_last_line_without_its_end_is_given_at_the_finish() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b'{"done":false}\n{"done":true}') == [b'{"done":false}']
    assert splitter.finish() == b'{"done":true}'
    assert splitter.finish() is None


@pytest.mark.parametrize("cut", [1, 7, 100])
def test_a_line_is_bounded(cut: int) -> None:
    fits, longer = b"x" * 20 + b"\r\n", b"x" * 21 + b"\r\n"
    splitter = LineSplitter(max_line=20)
    assert [line for at in range(0, 22, cut) for line in splitter.feed(fits[at : at + cut])] == [b"x" * 20]
    with pytest.raises(NdjsonError, match="line_size"):
        for at in range(0, len(longer), cut):
            splitter.feed(longer[at : at + cut])
