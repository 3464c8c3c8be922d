"""Applications inside relayd, which answer the requests of a route without an endpoint (`upstream: admin`).

An application receives a request and a Responder, and returns a Handler. As in response_writer.py, this interface
carries structure, not framed bytes: a head, pieces of the body, the end. The same application serves a route
(local_response.py) and a Unix socket (server/admin.py), and is independent of both.

1. No response body is buffered for a slow client: `Responder.body` returns False, and `Handler.unhold` is called later.
2. The request body arrives in pieces. The client is paused while a handler's `queued` bytes exceed a bound.
3. `Handler.close` is called exactly once, in the turn of the loop in which the exchange ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from relayd.proxy.request_body import Recipient
from relayd.proxy.respond import Answer, answer
from relayd.wire.response import ResponseHead


@dataclass(frozen=True, slots=True)
class LocalRequest:
    """A request to an application. `path` excludes the route's prefix and the query. `may_write` is True if the request
    may change state."""

    method: str
    path: str
    may_write: bool


class Responder(Protocol):
    """The client's side of one request."""

    def head(self, response: ResponseHead) -> None:
        """Set the head of the response; it is sent with the first piece of the body or with the end."""

    def body(self, data: bytes) -> bool:
        """Send a piece of the body. Returns False if the client is slow: then wait for `unhold`."""

    def end(self, data: bytes = b"") -> None:
        """Send the last piece of the body, which may be empty, and end the response."""

    def fail(self) -> None:
        """Abandon the response: an error response if nothing was sent yet, else an incomplete one."""

    def resume_body(self) -> None:
        """Report that the handler has consumed queued bytes of the request body."""

    def is_superseded(self) -> bool:
        """True if the configuration that admitted the request has been replaced by a newer one."""


class Handler(Protocol):
    """The application's side of one request."""

    @property
    def queued(self) -> int:
        """Bytes of the request body that are not consumed yet."""

    def feed(self, piece: bytes, last: bool) -> None:
        """Receive the next piece of the request body. `last` is True exactly once, also without a body."""

    def unhold(self) -> None:
        """Resume sending: the client can receive more."""

    def close(self) -> None:
        """End: the exchange is over, and its Responder accepts no more calls."""


class LocalTransfer(Recipient, Protocol):
    """The interface of an exchange to the application that answers it (local_response.py)."""

    def unhold(self) -> None: ...
    def close(self) -> None: ...


class Application(Protocol):
    """Start to answer a request; the response may already be complete on return."""

    def __call__(self, request: LocalRequest, responder: Responder) -> Handler: ...


class CompletedHandler:
    """The handler of a request whose response is complete."""

    queued = 0

    def feed(self, piece: bytes, last: bool) -> None:
        """Ignored."""

    def unhold(self) -> None:
        """Nothing is paused."""

    def close(self) -> None:
        """Nothing is held."""


def send_answer(responder: Responder, whole: Answer) -> Handler:
    """Send a complete response."""
    responder.head(whole.response)
    responder.end(whole.body)
    return CompletedHandler()


def not_running(request: LocalRequest, responder: Responder) -> Handler:
    """The application used if none was installed."""
    return send_answer(responder, answer(503, "text/plain; charset=utf-8", b"the admin application is not running\n"))
