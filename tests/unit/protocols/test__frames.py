"""Ends of frames, against the splitter that reads them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols._frames import OVERLAP, complete, first_complete
from relayd.wire.sse import SseSplitter

LINES = st.lists(st.sampled_from([b"data: a", b": c", b"x", b""]), max_size=8)


@given(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"]), st.binary(max_size=2))
def test_the_end_is_where_the_splitter_has_dispatched_all(lines: list[bytes], end: bytes, rest: bytes) -> None:
    rest = rest.replace(b"\n", b"").replace(b"\r", b"")
    stream = b"".join(line + end for line in [b"data: 1", *lines]) + rest
    splitter = SseSplitter()
    events = splitter.feed(stream)
    assert complete(stream) == len(stream) - len(splitter.rest)
    assert first_complete(stream) == (len(events[0].raw) if events else 0)
    for seen in range(len(stream)):
        if not complete(stream[:seen]):
            assert complete(stream, seen - OVERLAP) == complete(stream)
