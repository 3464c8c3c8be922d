"""Applications inside relayd, which answer the requests of a route without an endpoint (`upstream: admin`).

An application receives a request and a Responder, and returns a Handler. As in response_writer.py, this interface
carries structure, not framed bytes: a head, pieces of the body, the end. The same application serves a route
(local_response.py) and a Unix socket (server/admin.py), and is independent of both.

1. No response body is buffered for a slow client: `Responder.body` returns False, and `Handler.unhold` is called later.
2. The request body arrives in pieces. The client is paused while a handler's `queued` bytes exceed a bound.
3. `Handler.close` is called exactly once, in the turn of the loop in which the exchange ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field as dataclass_field
from typing import Protocol

from relayd.access.sessions import Session
from relayd.config.sessions import SIGN_IN_COOKIE
from relayd.dataclass import dataclass
from relayd.errors import ExchangeError
from relayd.proxy.request_body import Recipient
from relayd.proxy.respond import Answer, answer
from relayd.wire.response import ResponseHead

# The pages for browsers, which may sign in to them.
DASHBOARD = "/dashboard"
SESSION_COOKIE = SIGN_IN_COOKIE.encode()


def is_public(method: str, path: str) -> bool:
    """True if a browser may request this before it has signed in: the page that asks for the key, its files, and the
    sign-in itself."""
    if method == "POST":
        return path == f"{DASHBOARD}/sign-in"
    is_page = path in (DASHBOARD, f"{DASHBOARD}/") or path.startswith(f"{DASHBOARD}/static/")
    return is_page and method in ("GET", "HEAD")


class Browser(Protocol):
    """The client of a request that may need to sign in: a route with `allow`, and no key in a header field."""

    @property
    def session(self) -> Session | None:
        """The session of the request; None before the sign-in."""

    @property
    def is_secure(self) -> bool:
        """True if the browser has an encrypted connection, to relayd or to a trusted proxy before it."""

    def sign_in(self, key: bytes, on_done: Callable[[str | ExchangeError], None]) -> None:
        """Check a key, and begin a session. `on_done` gets the token of the session, or the error."""

    def sign_out(self) -> None:
        """End the session of the request."""


@dataclass(frozen=True, slots=True)
class LocalRequest:
    """A request to an application. `path` excludes the route's prefix and the query. `may_write` is True if the request
    may change state. `cross_site` is True if a browser sent it in the name of another site (browser_origin.py).
    `page_fault` is `wrong_host` or `cross_site` if such a request is refused also for reading. `field` returns the
    value of a header field. `browser` is None if no sign-in is needed: on the admin socket, on a route without `allow`,
    and for a request with a key. `consumer` is the name of the identified consumer, `client` the address of the client,
    empty on the admin socket."""

    method: str
    path: str
    may_write: bool
    cross_site: bool = False
    field: Callable[[bytes], bytes | None] = dataclass_field(default=lambda name: None, compare=False)
    browser: Browser | None = dataclass_field(default=None, compare=False)
    consumer: str = dataclass_field(default="", compare=False)
    client: str = dataclass_field(default="", compare=False)
    page_fault: str = dataclass_field(default="", compare=False)


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
