"""The Responder of a route: writes an application's response to the exchange's writer, as an attempt does."""

from __future__ import annotations

from relayd.errors import ExchangeError
from relayd.proxy.application import Application, Handler, LocalRequest
from relayd.proxy.browser_session import is_over
from relayd.proxy.exchange import Exchange
from relayd.proxy.respond import Answer
from relayd.proxy.response_writer import ResponseWriter
from relayd.wire.response import ResponseHead


class LocalResponse:
    """One request of a route to an application; owned by its exchange, as `local`. A response given in one call is sent
    like every Answer of relayd itself; a response in pieces is a transfer."""

    __slots__ = ("_exchange", "_handler", "_head", "_is_over")

    read_at = 0.0  # the body cannot be replayed: there is no other application

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._handler: Handler | None = None
        self._head: ResponseHead | None = None
        self._is_over = False

    def begin(self, application: Application, request: LocalRequest) -> None:
        """Pass the request to the application."""
        self._exchange.local = self
        handler = application(request, self)
        if self._is_over:
            handler.close()
            return
        self._handler = handler
        body = self._exchange.body
        if body.whole:
            handler.feed(body.data or b"", True)
        else:
            body.attach(self)

    # ---- the application's side

    def head(self, response: ResponseHead) -> None:
        """Store the head until the next call."""
        self._head = response

    def body(self, data: bytes) -> bool:
        """Write a piece of the body. Returns False if the client is slow."""
        return not self._is_over and self._begun().body(data)

    def end(self, data: bytes = b"") -> None:
        """Write the last piece, and end the exchange."""
        if self._is_over:
            return
        if self._head is not None:
            self._exchange.respond(Answer(self._head, data))
            return
        if data:
            self._begun().body(data)
        self._exchange.complete("relayd")

    def fail(self) -> None:
        """End the exchange with an error."""
        if not self._is_over:
            self._exchange.fail(ExchangeError("internal", "the application failed"))

    def resume_body(self) -> None:
        """Resume reading the request body if it was paused."""
        if not self._is_over:
            self._exchange.body.on_drained(self)

    def is_superseded(self) -> bool:
        """True if the plan of the exchange is no longer in force, or the session of its browser has ended."""
        return self._exchange.plan is not self._exchange.gateway.current() or is_over(self._exchange)

    def _begun(self) -> ResponseWriter:
        exchange = self._exchange
        if self._head is not None:
            head, self._head = self._head, None
            exchange.enter("transfer")
            exchange.writer.head(head)
        return exchange.writer

    # ---- the exchange's side

    @property
    def queued(self) -> int:
        """Bytes of the request body that the application has not consumed."""
        return 0 if self._handler is None else self._handler.queued

    def feed(self, piece: bytes, last: bool) -> None:
        """Pass on the next piece of the request body."""
        if self._handler is not None:
            self._handler.feed(piece, last)

    def unhold(self) -> None:
        """Resume sending: the client can receive more."""
        if self._handler is not None:
            self._handler.unhold()

    def close(self) -> None:
        """The exchange is over."""
        self._is_over = True
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.close()
