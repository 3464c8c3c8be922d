"""The event stream of the dashboard: the whole state once, then the changes, once a second.

1. The state is read, compared and encoded once for all clients, in steps, and not at all without clients.
2. An event has the id EPOCH-NUMBER. A browser that reconnects sends the last one (Last-Event-ID), and gets what has
   changed since then if that is still known, else the whole state.
3. A slow client holds at most one event in memory. It misses changes, and then gets the whole state once it has read.
   One that reads nothing for STALLED_TICKS is disconnected.
4. At most MAX_STREAMS streams are open, MAX_OF_OWNER of one consumer, and MAX_OF_SESSION of one session. ON_SOCKET of
   them are for the admin socket only.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any

from relayd.access.sessions import Session
from relayd.proxy.application import CompletedHandler, Handler, Responder
from relayd.proxy.respond import Answer
from relayd.proxy.steps import CallLater, Work
from relayd.server.dashboard_state import COLUMNS, State, difference
from relayd.server.stream_places import StreamPlaces, TooManyStreams
from relayd.wire.json_steps import Steps, write_steps

INTERVAL_S = 1.0
MAX_STREAMS, MAX_OF_OWNER, ON_SOCKET = 50, 20, 5
MAX_OF_SESSION = 6
MAX_RECENT = 30  # differences for clients that reconnect
MAX_RECENT_BYTES = 1 << 20
SILENT_TICKS = 15
STALLED_TICKS = 60


class DashboardFeed:
    """All open streams, and the timer that sends them events. One per process."""

    def __init__(self, read: Callable[[], Steps[State]], is_ending: Callable[[], bool], call_later: CallLater) -> None:
        """`is_ending`: True if the process is about to end."""
        self._read, self._is_ending, self._call_later = read, is_ending, call_later
        self._work: Work | None = None  # reads the state
        self._change = b""  # the event that leads to the newest state; empty if nothing has changed
        self._streams: set[DashboardStream] = set()
        self._places = StreamPlaces(MAX_STREAMS, MAX_OF_OWNER, ON_SOCKET)
        self._timer: asyncio.TimerHandle | None = None
        self._epoch = secrets.token_hex(4)
        self._number = 0  # of the newest state
        self._state: State = {}
        self._whole: bytes | None = None  # the newest state as an event
        self._recent: deque[tuple[int, bytes]] = deque()  # differences: the number of the state that each leads to
        self._recent_bytes = 0

    def open(
        self, responder: Responder, head: Answer, last_id: bytes | None, session: Session | None, owner: str
    ) -> Handler:
        """Begin a stream. `last_id` is the id of the last event that the client has. Raises TooManyStreams."""
        if session is not None and session.streams >= MAX_OF_SESSION:
            raise TooManyStreams(of_owner=True)
        if self._timer is None and self._work is None:
            self._work_on(self._advance(), self._send)
        self._places.take(owner)
        stream = DashboardStream(self, responder, session, owner, last_id)
        self._streams.add(stream)
        if session is not None:
            session.streams += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._tick)
        responder.head(head.response)
        if self._work is None:
            self._work_on(self._make_whole(), self._send_first)
        return stream

    def _work_on(self, steps: Steps[None], done: Callable[[], None]) -> None:
        self._work = Work(self._one_at_a_time(steps), self._call_later, done)
        if self._work.turn():
            done()

    def _one_at_a_time(self, steps: Steps[None]) -> Steps[None]:
        try:
            yield from steps
        finally:
            self._work = None

    def _send_first(self) -> None:
        """Send new streams what they have missed, or the state."""
        for stream in list(self._streams):
            if stream.is_new:
                self._begin(stream)

    def _begin(self, stream: DashboardStream) -> None:
        missed = self._since(stream.last_id)
        first = self._whole if missed is None else missed
        if first is not None:
            stream.is_new = False
            stream.send(b"retry: 2000\n\n" + first, self._number)

    def forget(self, stream: DashboardStream) -> None:
        """Remove a stream that has ended."""
        self._streams.remove(stream)
        self._places.free(stream.owner)
        if not self._streams and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if self._work is not None:
                self._work.cancel()

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._tick)
        for stream in list(self._streams):
            if self._is_ending() or stream.responder.is_superseded():
                stream.responder.end()
        if self._streams and self._work is None:
            self._work_on(self._advance(), self._send)

    def _send(self) -> None:
        """Send each stream what leads to the newest state."""
        change, before = self._change, self._number - 1
        for stream in list(self._streams):
            if stream.is_new:
                self._begin(stream)
            elif stream.is_behind:
                stream.waited += 1
                if stream.waited > STALLED_TICKS:
                    stream.responder.fail()
            elif stream.number == before and change:
                stream.send(change, self._number)
            elif stream.number != self._number:
                if self._whole is not None:
                    stream.send(self._whole, self._number)
            else:
                stream.silent += 1
                if stream.silent >= SILENT_TICKS:
                    stream.send(b":\n\n", self._number)

    def _advance(self) -> Steps[None]:
        """Read the state, and make the event with the changes."""
        new = yield from self._read()
        found = yield from difference(self._state, new)
        if not found:
            self._change = b""
            yield from self._make_whole()
            return
        event = yield from self._event("change", self._number + 1, found)
        self._state, self._change, self._whole = new, event, None
        self._number += 1
        self._recent.append((self._number, event))
        self._recent_bytes += len(event)
        while len(self._recent) > MAX_RECENT or self._recent_bytes > MAX_RECENT_BYTES:
            self._recent_bytes -= len(self._recent.popleft()[1])
        yield from self._make_whole()

    def _make_whole(self) -> Steps[None]:
        """Make the newest state as an event, if a stream needs it."""
        if self._whole is None and (not self._timer or any(map(self._needs_whole, self._streams))):
            self._whole = yield from self._event("state", self._number, {"columns": COLUMNS, "tables": self._state})

    def _needs_whole(self, stream: DashboardStream) -> bool:
        if stream.is_new:
            return self._since(stream.last_id) is None
        return not stream.is_behind and stream.number < self._number - 1

    def _since(self, last_id: bytes | None) -> bytes | None:
        """The events after the one with this id; None if they are not known."""
        epoch, separator, text = (last_id or b"").partition(b"-")
        if not separator or epoch != self._epoch.encode() or not text.isdigit() or len(text) > 15:
            return None
        number = int(text)
        if number == self._number:
            return b""
        if number > self._number or not self._recent or self._recent[0][0] > number + 1:
            return None
        return b"".join(event for leads_to, event in self._recent if leads_to > number)

    def _event(self, name: str, number: int, data: dict[str, Any]) -> Steps[bytes]:
        text = yield from write_steps(data)
        return f"id: {self._epoch}-{number}\nevent: {name}\ndata: ".encode() + text + b"\n\n"


class DashboardStream(CompletedHandler):
    """The stream of one client. `number` is that of the state that it has, `waited` counts the ticks for which it has
    read nothing, `silent` those without an event. `last_id` is that of the last event of an earlier stream. It `is_new`
    until its first event."""

    def __init__(
        self, feed: DashboardFeed, responder: Responder, session: Session | None, owner: str, last_id: bytes | None
    ) -> None:
        self._feed, self.responder, self._session, self.owner = feed, responder, session, owner
        self.last_id = last_id
        self.is_behind, self.is_new = False, True
        self.number = self.waited = self.silent = 0

    def send(self, event: bytes, number: int) -> None:
        """Write an event that leads to the state with this number."""
        self.number, self.silent = number, 0
        self.is_behind = not self.responder.body(event)

    def unhold(self) -> None:
        """The client has read all that was written."""
        self.is_behind, self.waited = False, 0

    def close(self) -> None:
        """The client has left, or its stream was ended."""
        if self._session is not None:
            self._session.streams -= 1
        self._feed.forget(self)
