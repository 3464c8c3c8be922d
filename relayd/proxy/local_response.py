"""The response of an application inside relayd to the request of a route: its Responder, written to the exchange's
writer like an attempt's response."""

from __future__ import annotations

from relayd.errors import ExchangeError
from relayd.proxy.application import Application, Handler, LocalRequest
from relayd.proxy.exchange import Exchange
from relayd.proxy.respond import Answer
from relayd.proxy.response_writer import ResponseWriter
from relayd.wire.response import ResponseHead


class LocalResponse:
    """One request of a route to an application; owned by its exchange, as `local`. A response that is given whole is
    an Answer like all others of relayd's own; one that comes in pieces is a transfer."""

    __slots__ = ("_exchange", "_handler", "_head", "_is_over")

    read_at = 0.0  # nothing is taken back from an application: there is no other one to send it to

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._handler: Handler | None = None
        self._head: ResponseHead | None = None
        self._is_over = False

    def begin(self, application: Application, request: LocalRequest) -> None:
        """Hand the request to the application."""
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
        """Keep it for what follows."""
        self._head = response

    def body(self, data: bytes) -> bool:
        """Write a piece; False when the client is behind."""
        return not self._is_over and self._begun().body(data)

    def end(self, data: bytes = b"") -> None:
        """Write the rest, and end the exchange."""
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
        """Read on if the client was paused."""
        if not self._is_over:
            self._exchange.body.on_drained(self)

    def is_superseded(self) -> bool:
        """Whether the plan of the exchange is not in force any more."""
        return self._exchange.plan is not self._exchange.gateway.current()

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
        """Bytes of the request body that the application has not used."""
        return 0 if self._handler is None else self._handler.queued

    def feed(self, piece: bytes, last: bool) -> None:
        """The next piece of the request body."""
        if self._handler is not None:
            self._handler.feed(piece, last)

    def unhold(self) -> None:
        """The client can take more."""
        if self._handler is not None:
            self._handler.unhold()

    def close(self) -> None:
        """The exchange is over."""
        self._is_over = True
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.close()
