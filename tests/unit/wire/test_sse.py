"""Event streams: every line end, every cut, nothing lost, nothing late."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.json_steps import Steps
from relayd.wire.sse import Event, SseError, SseSplitter
from tests.aids.growth import linear
from tests.aids.steps import units_of

Fields = tuple[bytes, bytes | None, bytes | None]


def fields(events: list[Event]) -> list[Fields]:
    return [(event.event, event.data, event.id) for event in events]


def fields_of_blocks(events: list[Event]) -> list[Fields]:
    """The fields of the events that are not merely blank lines."""
    first = [event.raw.removeprefix(b"\xef\xbb\xbf") for event in events[:1]]
    raw = first + [event.raw for event in events[1:]]
    return [one for one, text in zip(fields(events), raw, strict=True) if text.strip(b"\r\n")]


def slow(stream: bytes) -> list[Fields]:
    """The standard's algorithm, byte for byte and without haste; blank lines without a block are left out."""
    lines = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]
    if lines:
        lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
    events: list[Fields] = []
    kind, data, identity, is_empty = b"", None, None, True
    for line in lines:
        if not line:
            if not is_empty:
                events.append((kind, data, identity))
            kind, data, identity, is_empty = b"", None, None, True
            continue
        is_empty = False
        name, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if name == b"data":
            data = value if data is None else data + b"\n" + value
        elif name == b"event":
            kind = value
        elif name == b"id" and b"\x00" not in value:
            identity = value
    return events


STREAMS = st.lists(
    st.sampled_from([b"data: a", b"data:b", b"data", b"event: x", b"id: 7", b"id: \x00", b": hi", b"retry: 1", b"da",
                     b"\n", b"\r", b"\r\n", b"\n\n", b"\xef\xbb\xbf", b"\xff", b":", b" "]),
    max_size=30,
).map(b"".join)  # fmt: skip


@given(STREAMS, st.lists(st.integers(0, 120), max_size=12))
def test_every_cut_gives_the_events_of_the_standard_and_loses_no_byte(stream: bytes, cuts: list[int]) -> None:
    splitter = SseSplitter()
    events: list[Event] = []
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    for start, end in itertools.pairwise(places):
        events += splitter.feed(stream[start:end])
    assert fields_of_blocks(events) == slow(stream)
    assert b"".join(event.raw for event in events) + splitter.rest == stream


BLOCKS = st.lists(
    st.sampled_from([b"data: a", b"data:  b ", b"data:b", b"data", b"event: x\ndata: y", b"id: 7", b": hi", b"\xef\xbb\xbfdata: z",
                     b"data: a\ndata: b", b"\ndata: early", b"data: cr\r", b"data: \xff\nid: 1\n\ndata: two"]),
    min_size=1, max_size=12,
)  # fmt: skip


@given(BLOCKS, st.integers(1, 3))
def test_pieces_that_are_whole_blocks_give_the_events_of_the_standard(blocks: list[bytes], at_once: int) -> None:
    pieces = [b"".join(block + b"\n\n" for block in blocks[at : at + at_once]) for at in range(0, len(blocks), at_once)]
    splitter = SseSplitter()
    events = [event for piece in pieces for event in splitter.feed(piece)]
    assert fields_of_blocks(events) == slow(b"".join(pieces))
    assert b"".join(event.raw for event in events) + splitter.rest == b"".join(pieces)


def test_whole_blocks_are_bounded_as_others_are() -> None:
    for bound in ({"max_line": 20}, {"max_event": 20}):
        splitter = SseSplitter(**bound)
        splitter.feed(b"data: a\n\n")
        with pytest.raises(SseError):
            splitter.feed(b"data: " + b"x" * 30 + b"\n\n")


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_an_event_is_out_with_its_blank_line_for_every_line_end(end: bytes) -> None:
    splitter = SseSplitter()
    assert splitter.feed(b"event: delta" + end + b"data: {}" + end) == []
    assert fields(splitter.feed(end)) == [(b"delta", b"{}", None)]
    assert fields(splitter.feed(b"data: 2" + end + end)) == [(b"", b"2", None)]


def test_data_lines_are_joined_and_one_blank_is_taken() -> None:
    assert fields(SseSplitter().feed(b"data:  a\ndata\ndata:b\nid\n\n")) == [(b"", b" a\n\nb", b"")]


def test_a_comment_is_a_block_of_its_own_without_data() -> None:
    [event] = SseSplitter().feed(b": keep-alive\n\n")
    assert (event.raw, event.data) == (b": keep-alive\n\n", None)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_blank_lines_that_arrive_together_are_one_event(end: bytes) -> None:
    events = SseSplitter(max_event=40).feed(b"data: 1" + end * 100 + b"data: 2" + end * 2)
    assert [event.data for event in events] == [b"1", None, b"2"]
    assert [event.raw for event in events] == [b"data: 1" + end * 2, end * 98, b"data: 2" + end * 2]


def test_a_stream_that_is_cut_leaves_its_last_block_in_rest() -> None:
    splitter = SseSplitter()
    splitter.feed(b"data: 1\n\ndata: half")
    assert splitter.rest == b"data: half"


@pytest.mark.parametrize("cut", [1, 10, 1000])
def test_lines_and_events_are_bounded(cut: int) -> None:
    for stream, rule in ((b"data: " + b"x" * 200, "line_size"), (b"data: y\n" * 100, "event_size")):
        splitter = SseSplitter(max_line=100, max_event=400)
        with pytest.raises(SseError) as refused:
            for at in range(0, len(stream), cut):
                splitter.feed(stream[at : at + cut])
        assert refused.value.rule == rule


def test_one_byte_at_a_time_costs_linear_time() -> None:
    def read(size: int) -> None:
        splitter = SseSplitter()
        stream = b"data: " + b"x" * size + b"\n\n"
        assert sum(len(splitter.feed(stream[at : at + 1])) for at in range(len(stream))) == 1

    assert linear(read, 12_500)


@pytest.mark.parametrize("piece", [97, 4096, 1 << 20])
def test_a_block_of_many_lines_has_the_fields_of_the_standard(piece: int) -> None:
    block = b"event: early\nid: 1\n" + b"data: a\n:\ndata\n" * 500 + b"event: late\nid: \x00\n" + b": b\n" * 500 + b"\n"
    stream = block + b"data: next\n\n" + block
    splitter = SseSplitter()
    events = [event for at in range(0, len(stream), piece) for event in splitter.feed(stream[at : at + piece])]
    assert fields_of_blocks(events) == slow(stream)
    assert b"".join(event.raw for event in events) == stream


@pytest.mark.parametrize("line", [b":\n", b"data\n", b"x\n"])
def test_the_end_of_a_block_of_many_lines_takes_no_longer_than_its_pieces(line: bytes) -> None:
    stream = line * 60_000 + b"\n"

    def reading() -> Steps[None]:
        splitter = SseSplitter()
        for at in range(0, len(stream), 4096):
            splitter.feed(stream[at : at + 4096])
            yield

    assert units_of(reading, 3) < 6
