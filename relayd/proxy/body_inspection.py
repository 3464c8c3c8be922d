"""Inspection of a request body while it arrives, with bounded work per turn of the event loop.

Rules:
1. A body of usual size is not inspected before it is complete; then it is parsed in one step.
2. A larger body is scanned by the work queue, which all exchanges share: in the turn in which a piece arrives, nothing
   is scanned. The client is paused while the scanner has pending data, so that only few pieces wait.
3. If the model decides the route or target, an invalid body ends the exchange as soon as the fault is found. Otherwise
   the scan stops there.
"""

from __future__ import annotations

from collections.abc import Callable

from relayd import clock
from relayd.plan.plan import PlannedRoute
from relayd.proxy.exchange import Exchange
from relayd.proxy.model_names import unclear
from relayd.wire.body import PARSED_BYTES, inspect_json, inspect_scanned
from relayd.wire.json_scanner import JsonFault, JsonScanner
from relayd.wire.json_steps import TURN_S


class BodyInspection:
    """Owned by the inspected request body, as its probe. The result is stored as `json_body` of the body."""

    __slots__ = (
        "_error_route", "_exchange", "_fault", "_first_pieces", "_is_due", "_is_paused", "_on_inspected", "_scanner",
        "_size", "reads_all",
    )

    def __init__(self, exchange: Exchange, error_route: PlannedRoute | None) -> None:
        """An invalid body is refused in the dialect of `error_route`; None: an invalid body is not refused."""
        self._exchange, self._error_route = exchange, error_route
        self._first_pieces: list[bytes] = []  # while the body may still be of usual size
        self._size = 0
        self._scanner: JsonScanner | None = None
        self._fault = ""
        self._is_due = self._is_paused = False
        self._on_inspected: Callable[[], None] | None = None  # set when the body is complete
        self.reads_all = True

    def feed(self, data: bytes) -> bool:
        """Inspect the next piece. Always returns False: the whole body is required. Raises ExchangeError."""
        scanner = self._scanner
        if scanner is None:
            self._first_pieces.append(data)
            self._size += len(data)
            if self._size <= PARSED_BYTES:
                return False
            scanner = self._scanner = JsonScanner()
            for piece in self._first_pieces:
                scanner.feed(piece)
            self._first_pieces = []
        elif self._fault:
            return False
        else:
            scanner.feed(data)
        if not self._is_due:
            self._defer()
        return False

    def finish(self, on_inspected: Callable[[], None]) -> bool:
        """The body is complete. Returns True if it is inspected; otherwise `on_inspected` is called in a later turn.
        Raises ExchangeError."""
        body = self._exchange.body
        if self._scanner is None:
            body.json_body = inspect_json(body.data) if body.data else None
            return True
        self._on_inspected = on_inspected
        if not self._is_due:
            if self._scanner.pending:
                self._defer()
            else:
                self._scan()
        return body.json_body is not None

    def _scan(self) -> None:
        """Scan for at most TURN_S. Raises ExchangeError."""
        scanner, body = self._scanner, self._exchange.body
        assert scanner is not None
        end_s = clock.monotonic() + TURN_S
        try:
            while scanner.pending:
                scanner.step()
                if clock.monotonic() > end_s:
                    self._defer()
                    return
            if self._on_inspected is not None and not self._fault:
                scanner.end()
        except JsonFault as fault:
            self._refuse(fault.reason)
        if self._is_paused:
            self._is_paused = False
            body.resume_body()
        if self._on_inspected is not None:
            body.json_body = inspect_scanned(body.data or b"", scanner, self._fault)

    def _defer(self) -> None:
        self._is_due = True
        if not self._is_paused and self._on_inspected is None:
            self._is_paused = True
            self._exchange.body.pause_body()
        self._exchange.call_later(0.0, self._resume)

    def _resume(self) -> None:
        """Continue the scan. Raises ExchangeError, like `feed`."""
        self._is_due = False
        self._scan()
        if self._on_inspected is not None and not self._is_due:
            self._on_inspected()

    def _refuse(self, reason: str) -> None:
        self._fault = reason
        self._scanner = JsonScanner()  # the scan stops here
        if self._error_route is not None:
            self._exchange.use_error_format_of(self._error_route)
            raise unclear(reason)


def is_inspected(exchange: Exchange, error_route: PlannedRoute | None, on_inspected: Callable[[], None]) -> bool:
    """Inspect a whole body. Returns True if `body.json_body` is set; otherwise `on_inspected` is called later. Raises
    ExchangeError."""
    body = exchange.body
    if body.json_body is not None or not body.data:
        return True
    inspection = body.probe
    if not isinstance(inspection, BodyInspection):
        body.probe = inspection = BodyInspection(exchange, error_route)
        if len(body.data) > PARSED_BYTES:
            inspection.feed(body.data)
    return inspection.finish(on_inspected)
