"""Serialises numbered events: as frames of an event stream, as WebSocket messages, or not at all for a plain answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


class EventWriter:
    """Buffers the serialised events of one answer until `flush`; owned by its renderer. `form` is sse, text or none."""

    __slots__ = ("_form", "_pending", "_sequence_number")

    def __init__(self, form: str) -> None:
        self._form, self._sequence_number = form, 0
        self._pending: list[bytes] = []

    @property
    def discards_events(self) -> bool:
        """True if events are discarded; callers then need not build them."""
        return self._form == "none"

    def event(self, kind: str, members: Mapping[str, Any]) -> None:
        """Write an event."""
        if self._form != "none":
            self._append(kind, _json.write({"type": kind, "sequence_number": self._sequence_number, **members}))

    def lifecycle(self, kind: str, response: Mapping[str, Any], echo: bytes) -> None:
        """Write an event with the response object; `echo` is the JSON of the object's last members."""
        if self._form != "none":
            number = b'{"type":"%b","sequence_number":%d,"response":' % (kind.encode("ascii"), self._sequence_number)
            self._append(kind, b"%b%b,%b}" % (number, _json.write(response)[:-1], echo[1:]))

    def delta(self, kind: str, location: bytes, text: str) -> None:
        """Write a delta. This is the hot path: `location` is the JSON text of the other members, `,"name":value`."""
        if self._form != "none":
            number = b'{"type":"%b","sequence_number":%d' % (kind.encode("ascii"), self._sequence_number)
            self._append(kind, b'%b%b,"delta":%b}' % (number, location, _json.write_string(text)))

    def done(self) -> None:
        """Write the end marker of an event stream."""
        if self._form == "sse":
            self._pending.append(DONE)

    def unnumbered(self, value: Mapping[str, Any]) -> None:
        """Write an object without a sequence number."""
        self._pending.append(_json.write(value))

    def flush(self) -> list[bytes]:
        """Return the frames written since the last call."""
        pending, self._pending = self._pending, []
        return pending

    def _append(self, kind: str, data: bytes) -> None:
        self._sequence_number += 1
        if self._form == "sse":
            data = b"event: %b\ndata: %b\n\n" % (kind.encode("ascii"), data)
        self._pending.append(data)


def location_of(members: Mapping[str, Any]) -> bytes:
    """Serialise the constant members of a delta for `EventWriter.delta`."""
    return b"," + _json.write(members)[1:-1]
