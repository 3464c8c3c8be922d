"""Serialises numbered events: as frames of an event stream, as WebSocket messages, or not at all for a plain answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from relayd import clock
from relayd.protocols import _json
from relayd.wire.json_steps import LONG_CHARS, TURN_S, Steps, write_into, write_members_into

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
FLUSH_BYTES = 256 * 1024  # of long events, by one flush


class EventWriter:
    """Buffers the serialised events of one answer until `flush`; owned by its renderer. `form` is sse, text or none.

    Long events are serialised in steps, each after the events before it were flushed. Other work between the events
    is done in the same way.
    """

    __slots__ = ("_after", "_form", "_later", "_pending", "_pieces", "_sequence_number")

    def __init__(self, form: str) -> None:
        self._form, self._sequence_number = form, 0
        self._after = b"\n\n" if form == "sse" else b"\n"
        self._pending: list[bytes] = []
        self._later: deque[bytes | Steps[None]] = deque()  # from the first long event on
        self._pieces: list[bytes] = []  # of the long event that is being written

    @property
    def discards_events(self) -> bool:
        """True if events are discarded; callers then need not build them."""
        return self._form == "none"

    @property
    def has_more(self) -> bool:
        """Whether something waits for the next flush."""
        return bool(self._later)

    def event(self, kind: str, members: Mapping[str, Any], chars: int = 0) -> None:
        """Write an event. `chars` is about how long it is, if it may be long."""
        if self._form != "none":
            value = {"type": kind, "sequence_number": self._sequence_number, **members}
            if chars > LONG_CHARS:
                self._put_long(kind, write_into(self._pieces, value))
            else:
                self._append(kind, _json.write(value))

    def lifecycle(self, kind: str, response: Mapping[str, Any], echo: bytes, chars: int = 0) -> None:
        """Write an event with the response object; `echo` is the JSON of the object's last members."""
        if self._form != "none":
            number = b'{"type":"%b","sequence_number":%d,"response":' % (kind.encode("ascii"), self._sequence_number)
            if chars > LONG_CHARS:
                self._put_long(kind, self._response(number, response, echo))
            else:
                self._append(kind, b"%b%b,%b}" % (number, _json.write(response)[:-1], echo[1:]))

    def delta(self, kind: str, location: bytes, text: str) -> None:
        """Write a delta. This is the hot path: `location` is the JSON text of the other members, `,"name":value`."""
        if self._form != "none":
            number = b'{"type":"%b","sequence_number":%d' % (kind.encode("ascii"), self._sequence_number)
            self._append(kind, b'%b%b,"delta":%b}' % (number, location, _json.write_string(text)))

    def done(self) -> None:
        """Write the end marker of an event stream."""
        if self._form == "sse":
            (self._later or self._pending).append(DONE)

    def unnumbered(self, value: Mapping[str, Any]) -> None:
        """Write an object without a sequence number."""
        (self._later or self._pending).append(_json.write(value) + self._after)

    def work(self, steps: Steps[None]) -> None:
        """Run these steps before the events that are written after this call."""
        self._later.append(steps)

    def flush(self) -> bytes:
        """Return the frames written since the last call; of long ones as many bytes as one turn of the event loop has
        time for."""
        pending, self._pending = self._pending, []
        if self._later:
            self._go_on(pending)
        return b"".join(pending)

    def _go_on(self, ready: list[bytes]) -> None:
        end_s, size = clock.monotonic() + TURN_S, 0
        while self._later:
            first = self._later[0]
            if isinstance(first, bytes):
                ready.append(first)
            else:
                for _ in first:
                    size += self._moved(ready)
                    if size > FLUSH_BYTES or clock.monotonic() > end_s:
                        return
                size += self._moved(ready)
            self._later.popleft()

    def _moved(self, ready: list[bytes]) -> int:
        size = sum(map(len, self._pieces))
        ready += self._pieces
        self._pieces.clear()
        return size

    def _append(self, kind: str, data: bytes) -> None:
        self._sequence_number += 1
        if self._form == "sse":
            data = b"event: %b\ndata: %b\n\n" % (kind.encode("ascii"), data)
        else:
            data += b"\n"
        (self._later or self._pending).append(data)

    def _put_long(self, kind: str, data: Steps[None]) -> None:
        self._sequence_number += 1
        self._later.append(self._frame(kind, data))

    def _frame(self, kind: str, data: Steps[None]) -> Steps[None]:
        if self._form == "sse":
            self._pieces.append(b"event: %b\ndata: " % kind.encode("ascii"))
        yield from data
        self._pieces.append(self._after)

    def _response(self, number: bytes, response: Mapping[str, Any], echo: bytes) -> Steps[None]:
        self._pieces.append(number)
        yield from write_members_into(self._pieces, response)
        self._pieces.append(b",%b}" % echo[1:])


def location_of(members: Mapping[str, Any]) -> bytes:
    """Serialise the constant members of a delta for `EventWriter.delta`."""
    return b"," + _json.write(members)[1:-1]
