"""Applications inside relayd: they answer the requests of routes that end in relayd itself (`upstream: admin`).

An application is handed a request and a Responder, and returns its Handler. Structure crosses this seam, as in
response_writer.py: a head, pieces of the body, the end. The same application serves a route (local_response.py) and a
Unix socket (server/admin.py), and knows neither.

1. Nothing is kept for a client that is behind: `Responder.body` returns False, and `Handler.unhold` follows.
2. The request body comes piece by piece. While a handler holds more than a bound in `queued`, the client is paused.
3. `Handler.close` is called once, in the turn in which the exchange ends, whatever ended it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from relayd.proxy.request_body import Recipient
from relayd.proxy.respond import Answer, answer
from relayd.wire.response import ResponseHead


@dataclass(frozen=True, slots=True)
class LocalRequest:
    """A request as an application sees it. `path` is below the route's prefix and without the query; `may_write` says
    whether the request may change something."""

    method: str
    path: str
    may_write: bool


class Responder(Protocol):
    """The client's side of one request."""

    def head(self, response: ResponseHead) -> None:
        """The head of the response; it leaves with the first piece of the body or with the end."""

    def body(self, data: bytes) -> bool:
        """A piece of the body; False when the client is behind, and then nothing more should come until `unhold`."""

    def end(self, data: bytes = b"") -> None:
        """The last piece of the body, which may be empty, and the end of the response."""

    def fail(self) -> None:
        """There will be no response, or no more of it: an error where nothing was sent yet, else a broken end."""

    def resume_body(self) -> None:
        """The handler has used some of what was queued of the request body."""

    def is_superseded(self) -> bool:
        """Whether a newer configuration is in force than the one the request was admitted by."""


class Handler(Protocol):
    """The application's side of one request."""

    @property
    def queued(self) -> int:
        """Bytes of the request body that wait to be used."""

    def feed(self, piece: bytes, last: bool) -> None:
        """The next piece of the request body; `last` comes once, also for a request without a body."""

    def unhold(self) -> None:
        """The client can take more."""

    def close(self) -> None:
        """The exchange is over; its Responder takes nothing more."""


class LocalTransfer(Recipient, Protocol):
    """What an exchange knows of the application that answers it (local_response.py)."""

    def unhold(self) -> None: ...
    def close(self) -> None: ...


class Application(Protocol):
    """Begins to answer a request; may have answered it when it returns."""

    def __call__(self, request: LocalRequest, responder: Responder) -> Handler: ...


class CompletedHandler:
    """The handler of a request that was answered at once."""

    queued = 0

    def feed(self, piece: bytes, last: bool) -> None:
        """Nobody reads it."""

    def unhold(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held."""


def send_answer(responder: Responder, whole: Answer) -> Handler:
    """Give a whole response at once."""
    responder.head(whole.response)
    responder.end(whole.body)
    return CompletedHandler()


def not_running(request: LocalRequest, responder: Responder) -> Handler:
    """Stands where no application was given."""
    return send_answer(responder, answer(503, "text/plain; charset=utf-8", b"the admin application is not running\n"))
