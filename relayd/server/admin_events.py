"""Live events of the admin application: /events, a stream of server-sent events with the status of relayd.

1. Each event is created once for all clients, in steps, and not at all without clients.
2. A slow client misses events, never holds more than one of them in memory, and gets the newest once it has read it.
3. A stream ends when relayd drains, when another process takes over, and when a newer configuration is in force. A
   browser's EventSource reconnects, and its key is then checked by the new configuration.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relayd.proxy.application import CompletedHandler, Handler, Responder, send_answer
from relayd.proxy.respond import answer
from relayd.proxy.steps import CallLater, Work
from relayd.server.stream_places import StreamPlaces
from relayd.wire.json_steps import Steps

INTERVAL_S = 1.0
MAX_CLIENTS, MAX_OF_OWNER, ON_SOCKET = 100, 40, 10


class EventFeed:
    """The subscribed clients, and the timer that sends them events. One per process."""

    def __init__(
        self, status: Callable[[], Steps[bytes]], is_ending: Callable[[], bool], call_later: CallLater
    ) -> None:
        """`status` makes the data of an event: one line of JSON. `is_ending`: True if the process is about to end."""
        self._status, self._is_ending, self._call_later = status, is_ending, call_later
        self._work: Work | None = None  # makes an event
        self._event = b""
        self._is_due = False  # the event is for all clients, not only for new ones
        self._clients: set[EventStream] = set()
        self._places = StreamPlaces(MAX_CLIENTS, MAX_OF_OWNER, ON_SOCKET)
        self._timer: asyncio.TimerHandle | None = None

    def open(self, responder: Responder, method: str, owner: str) -> Handler:
        """Subscribe a client. Raises TooManyStreams."""
        whole = answer(200, "text/event-stream; charset=utf-8", b"", (("Cache-Control", "no-store"),))
        whole.response.length = None
        if method == "HEAD":
            return send_answer(responder, whole)
        is_made = self._work is None and self._make_event()
        self._places.take(owner)
        stream = EventStream(self, responder, owner)
        self._clients.add(stream)
        responder.head(whole.response)
        if is_made:
            self._send()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._tick)
        return stream

    def forget(self, stream: EventStream) -> None:
        """Remove a stream that has ended."""
        self._clients.remove(stream)
        self._places.free(stream.owner)
        if not self._clients and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if self._work is not None:
                self._work.cancel()

    def _make_event(self) -> bool:
        """Begin to make an event. Returns True if it is made; else it is sent later."""
        self._work = Work(self._event_steps(), self._call_later, self._send)
        return self._work.turn()

    def _event_steps(self) -> Steps[None]:
        try:
            self._event = b"event: status\ndata: " + (yield from self._status()).strip() + b"\n\n"
        finally:
            self._work = None

    def _send(self) -> None:
        event, self._event = self._event, b""
        is_due, self._is_due = self._is_due, False
        for stream in list(self._clients):
            if not stream.is_ended and (stream.is_new or (is_due and not stream.is_behind)):
                stream.send(event)

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._tick)
        for stream in list(self._clients):
            if self._is_ending() or stream.responder.is_superseded():
                stream.is_ended = True
                stream.responder.end()
        if any(not stream.is_behind for stream in self._clients):
            self._is_due = True
            if self._work is None and self._make_event():
                self._send()


class EventStream(CompletedHandler):
    """The event stream of one client."""

    def __init__(self, feed: EventFeed, responder: Responder, owner: str) -> None:
        self._feed, self.responder, self.owner = feed, responder, owner
        self.is_behind = self.is_ended = False
        self.is_new = True  # has got no event yet

    def send(self, event: bytes) -> None:
        """Write one event."""
        first, self.is_new = self.is_new, False
        self.is_behind = not self.responder.body(b"retry: 1000\n\n" + event if first else event)

    def unhold(self) -> None:
        """The next event can be written."""
        self.is_behind = False

    def close(self) -> None:
        """The client has left, or its stream was ended."""
        self._feed.forget(self)
