"""The event stream of the dashboard over the admin socket, read in a thread: the whole state once, then differences.

A connection that is lost is opened again, with the id of the last event, so that only what has changed since then is
sent if relayd still knows it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

from relayd.cli.admin_client import UnixConnection, Unreachable, send_request, socket_paths
from relayd.dataclass import dataclass
from relayd.wire.sse import SseError, SseSplitter

EVENTS, SESSION = "/dashboard/events", "/dashboard/session"
CONNECT_S = 5.0
SILENT_S = 40.0  # relayd sends at least a comment every 15 seconds
RETRY_S = 1.0
PIECE = 64 * 1024
LONGEST_EVENT = 64 * 1024 * 1024
MOST_WAITING = 64  # events that the reader has not processed


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """`kind` is state, change, session, lost (`text` says why) or done (the answer to an action)."""

    kind: str
    data: dict[str, Any]
    text: str = ""
    is_fault: bool = False


class Refused(Exception):
    """The running relayd does not send the stream. The text gives the reason."""


class Feed:
    """Reads the stream from `start` to `close`. `notify` is called in its threads after each event."""

    def __init__(self, arguments: argparse.Namespace, notify: Callable[[], None]) -> None:
        self._arguments, self._notify = arguments, notify
        self._events: queue.Queue[FeedEvent] = queue.Queue(MOST_WAITING)
        self._closed = threading.Event()
        self._last_id = b""
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and the connection."""
        self._closed.set()
        with contextlib.suppress(OSError):
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)

    def taken(self) -> list[FeedEvent]:
        """The events since the last call."""
        found: list[FeedEvent] = []
        with contextlib.suppress(queue.Empty):
            while len(found) < MOST_WAITING:
                found.append(self._events.get_nowait())
        return found

    def act(self, path: str) -> None:
        """Request an action of the admin application. Its answer is an event."""
        threading.Thread(target=self._act, args=(path,), daemon=True).start()

    def _act(self, path: str) -> None:
        try:
            answer = send_request(self._arguments, "POST", path, self._arguments.timeout)
            data = json.loads(answer.body)
            fault = "" if answer.status == 200 else str(data["error"]["message"])
        except (Unreachable, ValueError, KeyError, TypeError) as failed:
            fault = f"not done: {failed}"
        self._put(FeedEvent("done", {}, fault or "done", bool(fault)))

    def _put(self, event: FeedEvent) -> None:
        while not self._closed.is_set():
            try:
                self._events.put(event, timeout=0.2)
            except queue.Full:
                continue
            self._notify()
            return

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._read(*self._connect())
                why = "relayd stops or is replaced"
            except (OSError, http.client.HTTPException, Refused, SseError, ValueError) as failed:
                why = str(failed) or type(failed).__name__
            self._put(FeedEvent("lost", {}, why, True))
            self._closed.wait(RETRY_S)

    def _connect(self) -> tuple[UnixConnection, http.client.HTTPResponse]:
        """Open the stream. Raises OSError, HTTPException, Refused."""
        self._put(FeedEvent("session", json.loads(get(self._arguments, SESSION))))
        fields = {"Last-Event-ID": self._last_id.decode("latin-1")} if self._last_id else {}
        connection, response = opened(self._arguments, EVENTS, fields)
        self._socket = connection.sock
        return connection, response

    def _read(self, connection: UnixConnection, response: http.client.HTTPResponse) -> None:
        with contextlib.closing(connection), contextlib.closing(response):
            splitter = SseSplitter(LONGEST_EVENT, LONGEST_EVENT)
            splitter.keeps_raw = False
            while not self._closed.is_set() and (piece := response.read1(PIECE)):
                for event in splitter.feed(piece):
                    if event.data is not None:
                        self._put(FeedEvent(event.event.decode("latin-1"), json.loads(event.data)))
                    self._last_id = event.id or self._last_id


def get(arguments: argparse.Namespace, path: str) -> bytes:
    """A page of the admin application. Raises Refused."""
    try:
        answer = send_request(arguments, "GET", path, CONNECT_S)
    except Unreachable as failed:
        raise Refused(str(failed)) from failed
    if answer.status != 200:
        raise Refused(f"the running relayd answers {answer.status}; it may be an older one")
    return answer.body


def opened(
    arguments: argparse.Namespace, path: str, fields: dict[str, str]
) -> tuple[UnixConnection, http.client.HTTPResponse]:
    """A stream of the admin application. Raises OSError, HTTPException, Refused."""
    failures = []
    for name in socket_paths(arguments):
        connection = UnixConnection(name, CONNECT_S)
        try:
            connection.connect()
            sock = connection.sock  # http.client drops it if the response announces no further one
            connection.request("GET", path, headers=fields)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            failures.append(f"{name}: {getattr(error, 'strerror', None) or error}")
            continue
        if response.status == 200:
            sock.settimeout(SILENT_S)
            connection.sock = sock
            return connection, response
        response.close()
        connection.close()
        raise Refused(f"{name}: the running relayd answers {response.status}" + (
            ": too many dashboards are open" if response.status in (429, 503) else "; it may be an older one"
        ))
    raise Refused("; ".join(failures))


def whole_state(arguments: argparse.Namespace) -> dict[str, Any]:
    """The current state, read once. Raises OSError, HTTPException, Refused, SseError, ValueError."""
    connection, response = opened(arguments, EVENTS, {})
    with contextlib.closing(connection), contextlib.closing(response):
        splitter = SseSplitter(LONGEST_EVENT, LONGEST_EVENT)
        while piece := response.read1(PIECE):
            for event in splitter.feed(piece):
                if event.event == b"state" and event.data is not None:
                    data: dict[str, Any] = json.loads(event.data)
                    return data
    raise Refused("the stream ended without a state")
