"""Numbered events as bytes: frames of an event stream, text frames of a WebSocket, or nothing for a plain answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


class Frames:
    """The frames of one answer, waiting to be taken; owned by its renderer. `form` is sse, text or none."""

    __slots__ = ("_form", "_number", "_waiting")

    def __init__(self, form: str) -> None:
        self._form, self._number = form, 0
        self._waiting: list[bytes] = []

    @property
    def begun(self) -> bool:
        """Whether an event has been written."""
        return self._number > 0

    @property
    def silent(self) -> bool:
        """Whether events go nowhere, so that nobody need make them."""
        return self._form == "none"

    def event(self, kind: str, members: Mapping[str, Any]) -> None:
        """Write an event."""
        if self._form != "none":
            self._put(kind, _json.write({"type": kind, "sequence_number": self._number, **members}))

    def lifecycle(self, kind: str, response: Mapping[str, Any], echo: bytes) -> None:
        """Write an event with the whole response, whose last members are `echo`, written already."""
        if self._form != "none":
            number = b'{"type":"%b","sequence_number":%d,"response":' % (kind.encode("ascii"), self._number)
            self._put(kind, b"%b%b,%b}" % (number, _json.write(response)[:-1], echo[1:]))

    def delta(self, kind: str, place: bytes, text: str) -> None:
        """Write a delta, of which there are thousands: `place` is its other members as `,"name":value` text."""
        if self._form != "none":
            number = b'{"type":"%b","sequence_number":%d' % (kind.encode("ascii"), self._number)
            self._put(kind, b'%b%b,"delta":%b}' % (number, place, _json.write_string(text)))

    def done(self) -> None:
        """Write what ends a stream."""
        if self._form == "sse":
            self._waiting.append(DONE)

    def unnumbered(self, value: Mapping[str, Any]) -> None:
        """Write an object that is outside the run of events."""
        self._waiting.append(_json.write(value))

    def take(self) -> list[bytes]:
        """What was written since."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def _put(self, kind: str, data: bytes) -> None:
        self._number += 1
        if self._form == "sse":
            data = b"event: %b\ndata: %b\n\n" % (kind.encode("ascii"), data)
        self._waiting.append(data)


def place_of(members: Mapping[str, Any]) -> bytes:
    """The members of a delta that stay the same, for `Frames.delta`."""
    return b"," + _json.write(members)[1:-1]
