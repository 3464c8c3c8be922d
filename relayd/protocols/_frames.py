"""The ends of the frames of an event stream, found without parsing them, for code that inspects passing streams."""

from __future__ import annotations

import re
from collections.abc import Iterator

from relayd.lazy_regex import lazy_regex

_BLANK_LINE = lazy_regex(rb"\n\r?\n|\r\r")
OVERLAP = 3  # bytes of a frame's end that may have arrived before


def last_frame_end(data: bytes | bytearray, start: int = 0) -> int:
    """The position after the last blank line, searched from `start`; 0 if none is found.

    A line ends with LF, CRLF or CR, and all lines of a stream alike. A caller that has searched up to a position
    continues at that position minus OVERLAP.
    """
    if data.endswith((b"\n\n", b"\n\r\n")):
        return len(data)
    start = max(start, 0)
    last = data.rfind(b"\n\n", start)
    end = last + 2 if last >= 0 else 0
    if (last := data.rfind(b"\n\r\n", start)) >= 0:
        end = max(end, last + 3)
    if (last := data.rfind(b"\r\r", start)) >= 0:
        end = max(end, last + 2)
    return end


def first_frame_end(data: bytes) -> int:
    """The position after the first blank line; 0 if none is found."""
    found = [
        position + len(mark) for mark in (b"\n\n", b"\n\r\n", b"\r\r") if (position := data.find(mark)) >= 0
    ]
    return min(found, default=0)


def split_frames(frames: bytes, most: int) -> Iterator[bytes]:
    """Split whole frames into pieces of at most `most` bytes; a longer frame is a piece of its own."""
    start, size = 0, len(frames)
    while size - start > most:
        end = last_frame_end(frames[start : start + most])
        if not end:
            blank = _BLANK_LINE.search(frames, start + most - OVERLAP)
            end = (size if blank is None else blank.end()) - start
        yield frames[start : start + end]
        start += end
    if start < size:
        yield frames[start:] if start else frames


def frames_with_mark(frames: bytes, mark: re.Pattern[bytes]) -> Iterator[tuple[int, int]]:
    """Start and end of every frame that contains the mark. Linear: no byte is scanned twice."""
    position = 0
    while (match := mark.search(frames, position)) is not None:
        begin = last_frame_end(frames[position : match.start()]) + position
        blank = _BLANK_LINE.search(frames, match.end())
        position = len(frames) if blank is None else blank.end()
        yield begin, position
