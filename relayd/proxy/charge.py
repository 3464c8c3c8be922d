"""The charge of one exchange: what it has reserved of rates and budgets, and what it costs in the end.

| end of the exchange | requests | tokens and money |
|---|---|---|
| no request was sent to an endpoint; the upstream failed before the client got content | none | none |
| the endpoint refused the request (4xx), or it became a tunnel | one | none |
| the endpoint reported its tokens, whether or not the response is complete | one | as reported |
| a response without a report, or cut before it | one | estimated input and the text so far, at most the reservation |
| the client left before the response, while an endpoint worked on the request | one | estimated input |
| the answer came from the cache of the route, also if the client did not read all of it | one | none |

A charge is settled once, in the end of its exchange. With prices, every request that may cost money has one, so that
its record has the estimated cost too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from relayd.limits.counter import COST, REQUESTS, Counter, tokens_of
from relayd.limits.estimate import IMAGE_TOKENS, input_tokens, output_tokens
from relayd.limits.ledger import Demand, Observer, Reservation
from relayd.limits.prices import Price, Prices
from relayd.limits.rate_queue import RateQueue
from relayd.limits.shared_reservation import Decision, SharedReservation
from relayd.plan.plan import Target
from relayd.protocols.output_limit import stated_maximum
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.cost import price_of
from relayd.proxy.retry_loop import RetryLoop
from relayd.telemetry.outcome import Record
from relayd.usage import Usage
from relayd.wire.response import ResponseHead

_LEFT = ("client_gone", "client_stalled")


class Asked:
    """A reservation that was asked for in a server; `decision` is its answer."""

    __slots__ = ("decision",)

    def __init__(self) -> None:
        self.decision: Decision | None = None


class Charge:
    """Owned by its exchange. `own` is the reservation at consumer, group and route, `upstream` that of the current
    target. `asked` is the one that is being decided. `reserved_for` is the target by whose price `own` was reserved.
    `response` is the head of the response that the client gets. `model` is the requested one.

    If a counter needs it, the tokens that the request may need are estimated: `input_tokens`, and `stated_output`, the
    maximum of output tokens that it states, None without one; `generates` is true if it asks for output.
    """

    __slots__ = (
        "_price", "_priced", "_prices", "asked", "cancel_timer", "deadline_s", "from_cache", "generates", "images",
        "input_tokens", "is_estimated", "model", "own", "queue", "reserved_for", "response", "stated_output",
        "upstream",
    )  # fmt: skip

    def __init__(self, model: str, prices: Prices | None) -> None:
        self.model, self._prices = model, prices
        self._priced: Target | None = None
        self._price: Price | None = None  # at that target
        self.is_estimated = self.generates = False
        self.input_tokens = self.images = 0
        self.stated_output: int | None = None
        self.own: Reservation | SharedReservation | None = None
        self.upstream: Reservation | SharedReservation | None = None
        self.asked: Asked | None = None
        self.reserved_for: Target | None = None
        self.response: ResponseHead | None = None
        self.from_cache = False  # the answer is one of the route's cache
        self.deadline_s = -1.0  # of waiting for room, on the monotonic clock
        self.queue: RateQueue | None = None  # in which the exchange waits now
        self.cancel_timer: Callable[[], None] | None = None  # of waiting

    def stop_timer(self) -> None:
        """Cancel the timer of waiting."""
        if self.cancel_timer is not None:
            cancel, self.cancel_timer = self.cancel_timer, None
            cancel()

    # ---- amounts

    def estimate(self, ai_request: AiRequest | None) -> None:
        """Estimate the tokens of the request. Counting tokens costs none."""
        self.is_estimated = True
        if ai_request is None:
            return
        ai_request.counts_text = True
        if ai_request.is_token_count:
            return
        json_body = ai_request.json_body
        if json_body is not None:
            self.input_tokens, self.stated_output = input_tokens(ai_request.body), stated_maximum(json_body)
            self.generates, self.images = ai_request.is_translatable, max(0, ai_request.images)
        elif ai_request.is_form:
            self.input_tokens = IMAGE_TOKENS

    def demands(self, counters: Iterable[Counter], target: Target) -> list[Demand]:
        """The amounts to reserve. If the request states no maximum of output tokens, the assumed one is not the reason
        for which it can never fit."""
        found = []
        stated, may_assume = self.stated_output, self.stated_output is None and self.generates
        for counter in counters:
            measure = counter.measure
            if measure == REQUESTS:
                amount = 1
            elif may_assume:
                amount = self._amount(measure, counter.rule.estimate, target)
                if amount > counter.limit:
                    amount = max(self._amount(measure, 0, target), counter.limit)
            else:
                amount = self._amount(measure, stated or 0, target)
            found.append((counter, amount))
        return found

    def _amount(self, measure: str, output: int, target: Target) -> int:
        if measure != COST:
            return tokens_of(measure, self.input_tokens, output)
        price = self.price(target)
        return 0 if price is None else price.most(self.input_tokens, output, self.images)

    def price(self, target: Target) -> Price | None:
        """The price of the requested model at a target, None if it is unknown."""
        if self._priced is not target and self._prices is not None:
            self._priced, model = target, self.model
            self._price = self._prices.price(target.upstream.name, target.model or model, model)
        return self._price

    def cost(self, usage: Usage, target: Target) -> int:
        """The cost in nano-units; 0 if the price is unknown."""
        price = self.price(target)
        return 0 if price is None else price.cost(usage)

    # ---- the end

    def settle(
        self, record: Record, loop: RetryLoop | None, ai_request: AiRequest | None, body_complete: bool,
        observer: Observer,
    ) -> None:
        """Settle all reservations by the end of the exchange. `observer` gets warning thresholds."""
        if loop is None or not self._counts(record, loop, body_complete):
            self.refund()
            return
        usage, limited = self._tokens(record, loop, ai_request)
        for reservation in (self.own, self.upstream):
            if reservation is None:
                continue
            amounts = []
            for counter, _, held in reservation.entries:
                measure, amount = counter.measure, 0
                if measure == REQUESTS:
                    amount = 1
                elif usage is not None:
                    if measure != COST:
                        amount = tokens_of(measure, usage.input, usage.output)
                    else:
                        amount = self.cost(usage, loop.target) if record.cost_nano is None else record.cost_nano
                amounts.append(held if limited and amount > held else amount)
            for crossed, share in reservation.settle(amounts):
                observer.warned(crossed, share)
        self.own = self.upstream = None

    def record_estimate(
        self, record: Record, loop: RetryLoop, ai_request: AiRequest | None, body_complete: bool
    ) -> None:
        """Record the estimated cost of an exchange that costs money, but whose tokens were not reported."""
        prices = self._prices
        if prices is None or record.cost_nano is not None or ai_request is None or not ai_request.may_cost:
            return
        if not self._counts(record, loop, body_complete):
            return
        usage, is_estimate = self._tokens(record, loop, ai_request)
        if usage is None or not is_estimate:
            return
        record.currency = prices.currency
        price = price_of(record, prices, ai_request, loop.target)
        if price is not None:
            record.cost_nano, record.cost_estimated = price.cost(usage, max(0, ai_request.images)), True

    def refund(self) -> None:
        """Take back all that is still reserved."""
        if self.own is not None:
            self.own.refund()
        if self.upstream is not None:
            self.upstream.refund()

    def _counts(self, record: Record, loop: RetryLoop, body_complete: bool) -> bool:
        """True if the exchange counts as a request."""
        if not record.attempts:
            return self.from_cache
        if record.status == 101:
            return True
        if self.response is not None:
            return self.response.status < 500
        if loop.last is not None:
            response = loop.last.response
            return response is not None and 400 <= response.status < 500
        return record.code in _LEFT and body_complete

    def _tokens(
        self, record: Record, loop: RetryLoop, ai_request: AiRequest | None
    ) -> tuple[Usage | None, bool]:
        """The tokens of the exchange, None for none; and true if they are an estimate."""
        response = self.response
        if record.status == 101 or (response is None and (loop.last is not None or self.from_cache)):
            return None, False
        if response is not None and response.status >= 400:
            return None, False
        if record.usage is not None:
            return record.usage, False
        characters = 0 if ai_request is None or response is None else ai_request.output_characters
        output, stated = output_tokens(characters), self.stated_output
        return Usage(input=self.input_tokens, output=output if stated is None else min(output, stated)), True
