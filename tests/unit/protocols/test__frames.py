"""Ends of frames, against the splitter that reads them."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols._frames import OVERLAP, first_frame_end, frames_with_mark, last_frame_end, split_frames
from relayd.wire.sse import SseSplitter

LINES = st.lists(st.sampled_from([b"data: a", b": c", b"x", b""]), max_size=8)


@given(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"]), st.binary(max_size=2))
def test_the_end_is_where_the_splitter_has_dispatched_all(lines: list[bytes], end: bytes, rest: bytes) -> None:
    rest = rest.replace(b"\n", b"").replace(b"\r", b"")
    stream = b"".join(line + end for line in [b"data: 1", *lines]) + rest
    splitter = SseSplitter()
    events = splitter.feed(stream)
    assert last_frame_end(stream) == len(stream) - len(splitter.rest)
    assert first_frame_end(stream) == (len(events[0].raw) if events else 0)
    for seen in range(len(stream)):
        if not last_frame_end(stream[:seen]):
            assert last_frame_end(stream, seen - OVERLAP) == last_frame_end(stream)


FRAMES = st.lists(st.sampled_from([b"data: a\n\n", b"data: MARK\n\n", b": " + b"x" * 30 + b"\n\n", b"data: MARK\ndata: MARK\n\n"]))


@given(FRAMES, st.integers(8, 60))
def test_pieces_are_whole_frames_of_a_bounded_size(frames: list[bytes], most: int) -> None:
    found = list(split_frames(b"".join(frames), most))
    assert b"".join(found) == b"".join(frames)
    assert all(piece.endswith(b"\n\n") and (len(piece) <= most or piece.count(b"\n\n") == 1) for piece in found)


@given(FRAMES)
def test_every_frame_with_the_mark_is_found_once(frames: list[bytes]) -> None:
    whole = b"".join(frames)
    found = [whole[begin:end] for begin, end in frames_with_mark(whole, re.compile(b"MARK"))]
    assert found == [frame for frame in frames if b"MARK" in frame]
