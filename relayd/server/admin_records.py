"""The access records as a stream: /records of the admin socket, one JSON object per line, for `relayd tail`.

1. Without clients a record costs one comparison. With clients it is formatted once for all of them.
2. A slow client never delays relayd: at most MAX_BYTES wait for it. Further records are dropped for this client, and
   their number is sent to it as soon as it reads again: `{"event":"records_dropped","count":...}`.
3. Records are collected for INTERVAL_S, then written at once. A stream ends when relayd drains or another process
   takes over.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from relayd.proxy.application import CompletedHandler, Handler, Responder, send_answer
from relayd.proxy.respond import answer
from relayd.server.stream_places import StreamPlaces
from relayd.telemetry.access_log import AccessLog
from relayd.telemetry.outcome import Record
from relayd.telemetry.telemetry import Telemetry

INTERVAL_S = 0.05
MAX_BYTES = 256 * 1024
MAX_CLIENTS, MAX_OF_OWNER, ON_SOCKET = 20, 10, 4
FOLLOWING = b'{"event":"records_follow"}\n'


class RecordFeed:
    """The clients that follow the access records. One per process."""

    def __init__(self, telemetry: Telemetry, is_ending: Callable[[], bool]) -> None:
        """`is_ending`: True if the process is about to end."""
        self._telemetry, self._is_ending = telemetry, is_ending
        self._format = AccessLog("off")
        self._clients: set[RecordStream] = set()
        self._places = StreamPlaces(MAX_CLIENTS, MAX_OF_OWNER, ON_SOCKET)
        self._timer: asyncio.TimerHandle | None = None

    def open(self, responder: Responder, method: str, owner: str) -> Handler:
        """Subscribe a client. Raises TooManyStreams."""
        whole = answer(200, "application/x-ndjson", b"", (("Cache-Control", "no-store"),))
        whole.response.length = None
        if method == "HEAD":
            return send_answer(responder, whole)
        self._places.take(owner)
        stream = RecordStream(self, responder, owner)
        self._clients.add(stream)
        self._telemetry.on_record = self._on_record
        responder.head(whole.response)
        stream.add(FOLLOWING)
        stream.flush()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._tick)
        return stream

    def forget(self, stream: RecordStream) -> None:
        """Remove a stream that has ended."""
        self._clients.remove(stream)
        self._places.free(stream.owner)
        if not self._clients:
            self._telemetry.on_record = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _on_record(self, record: Record) -> None:
        line = self._format.json_line(record).encode("utf-8", "backslashreplace")
        for stream in self._clients:
            stream.add(line)

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._tick)
        for stream in list(self._clients):
            stream.flush()
            if self._is_ending() or stream.responder.is_superseded():
                stream.responder.end()


class RecordStream(CompletedHandler):
    """The stream of one client. `dropped`: records that it has missed since the last notice."""

    def __init__(self, feed: RecordFeed, responder: Responder, owner: str) -> None:
        self._feed, self.responder, self.owner = feed, responder, owner
        self._waiting: list[bytes] = []
        self._size = 0
        self._is_behind = False
        self.dropped = 0

    def add(self, line: bytes) -> None:
        """Add a line that the next flush writes."""
        if self._size + len(line) > MAX_BYTES:
            self.dropped += 1
            return
        self._waiting.append(line)
        self._size += len(line)

    def flush(self) -> None:
        """Write the waiting lines, unless the client has not yet read the previous ones."""
        if self._is_behind or not (self._waiting or self.dropped):
            return
        lines, self._waiting, self._size = self._waiting, [], 0
        if self.dropped:
            lines.append(json.dumps({"event": "records_dropped", "count": self.dropped}).encode() + b"\n")
            self.dropped = 0
        self._is_behind = not self.responder.body(b"".join(lines))

    def unhold(self) -> None:
        """The client has read what was written."""
        self._is_behind = False

    def close(self) -> None:
        """The client has left, or its stream was ended."""
        self._feed.forget(self)
