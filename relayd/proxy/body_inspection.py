"""A request body looked at while its pieces arrive, in bounded turns of the event loop.

Rules:
1. A body of usual size is not looked at before it is whole: then it is parsed at once.
2. A larger one is scanned. The client is not read from while the scanner is behind, so that no more than some pieces
   wait for it.
3. Where the model decides, what is wrong with the body ends the exchange as soon as it is known. Elsewhere nothing
   more of the body is looked at.
"""

from __future__ import annotations

from collections.abc import Callable

from relayd import clock
from relayd.plan.plan import PlannedRoute
from relayd.proxy.exchange import Exchange
from relayd.proxy.model_of_request import unclear
from relayd.proxy.steps import TURN_S
from relayd.wire.body import PARSED_BYTES, inspect_json, inspect_scanned
from relayd.wire.json_scanner import JsonFault, JsonScanner


class BodyInspection:
    """Owned by the request body that it looks at, as its probe; the result is the body's `look`."""

    __slots__ = (
        "_exchange", "_fault", "_first", "_is_due", "_is_paused", "_scanner", "_size", "_speaker", "_then", "reads_all",
    )

    def __init__(self, exchange: Exchange, speaker: PlannedRoute | None) -> None:
        """`speaker` is the route in whose dialect a body is refused, None where an unreadable body is none of relayd's
        business."""
        self._exchange, self._speaker = exchange, speaker
        self._first: list[bytes] = []  # as long as the body may still be of usual size
        self._size = 0
        self._scanner: JsonScanner | None = None
        self._fault = ""
        self._is_due = self._is_paused = False
        self._then: Callable[[], None] | None = None  # the body is whole
        self.reads_all = True

    def feed(self, data: bytes) -> bool:
        """The next piece; never enough. Raises ExchangeError."""
        scanner = self._scanner
        if scanner is None:
            self._first.append(data)
            self._size += len(data)
            if self._size <= PARSED_BYTES:
                return False
            scanner = self._scanner = JsonScanner()
            for piece in self._first:
                scanner.feed(piece)
            self._first = []
        elif self._fault:
            return False
        else:
            scanner.feed(data)
        if not self._is_due:
            self._turn()
        return False

    def finish(self, then: Callable[[], None]) -> bool:
        """The body is whole: whether it is known now; else `then` is called in a later turn. Raises ExchangeError."""
        body = self._exchange.body
        if self._scanner is None:
            body.look = inspect_json(body.data) if body.data else None
            return True
        self._then = then
        if not self._is_due:
            self._turn()
        return body.look is not None

    def _turn(self) -> None:
        """Scan for a while. Raises ExchangeError."""
        scanner, body = self._scanner, self._exchange.body
        assert scanner is not None
        end_s = clock.monotonic() + TURN_S
        try:
            while scanner.pending:
                scanner.step()
                if clock.monotonic() > end_s:
                    self._wait()
                    return
            if self._then is not None and not self._fault:
                scanner.end()
        except JsonFault as fault:
            self._refuse(fault.reason)
        if self._is_paused:
            self._is_paused = False
            body.resume_body()
        if self._then is not None:
            body.look = inspect_scanned(body.data or b"", scanner, self._fault)

    def _wait(self) -> None:
        self._is_due = True
        if not self._is_paused and self._then is None:
            self._is_paused = True
            self._exchange.body.pause_body()
        self._exchange.later(0.0, self._go_on)

    def _go_on(self) -> None:
        """Raises ExchangeError, as in the turn in which a piece arrives."""
        self._is_due = False
        self._turn()
        if self._then is not None and not self._is_due:
            self._then()

    def _refuse(self, reason: str) -> None:
        self._fault = reason
        self._scanner = JsonScanner()  # nothing more is looked at
        if self._speaker is not None:
            self._exchange.speak_for(self._speaker)
            raise unclear(reason)


def is_looked_at(exchange: Exchange, speaker: PlannedRoute | None, then: Callable[[], None]) -> bool:
    """Look at a whole body: whether `body.look` is there now; else `then` is called in a later turn.
    Raises ExchangeError."""
    body = exchange.body
    if body.look is not None or not body.data:
        return True
    inspection = body.probe
    if not isinstance(inspection, BodyInspection):
        body.probe = inspection = BodyInspection(exchange, speaker)
        if len(body.data) > PARSED_BYTES:
            inspection.feed(body.data)
    return inspection.finish(then)
