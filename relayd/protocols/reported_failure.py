"""The failure that a passing response reports in its body, behind status 200."""

from __future__ import annotations

from relayd.protocols.canon import Event, Failure, Request
from relayd.protocols.dialect import Dialect, Options
from relayd.protocols.no_memory import NoMemory

_OF_THE_READER = ("upstream_malformed", "upstream_cut")
"""Codes of what a reader misses: it gets only a part of the response."""


def reported_failure(dialect: Dialect, data: bytes, *, stream: bool) -> Failure | None:
    """The failure in these frames of a stream, or in this body, as the dialect's reader reads it. None if there is
    none."""
    if dialect.reader is None or not data:
        return None
    reader = dialect.reader(Request("", (), stream=stream), Options(), NoMemory())
    events: list[Event] = reader.decode(data)
    while reader.has_more:
        events += reader.decode(b"")
    if not stream:
        events += reader.finish()
    found = (event for event in events if isinstance(event, Failure) and event.code not in _OF_THE_READER)
    return next(found, None)
