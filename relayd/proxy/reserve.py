"""The phase `reserve`: rates and budgets of consumer, group, route and client, and those of each target's upstream.

1. All counters of a request are reserved in one step, or none; so a refused request uses nothing.
2. A request may wait for room (`wait:`), in order of arrival and no longer than the rate permits. It leaves the queue
   with the end of its exchange.
3. The reservations are settled by `Charge.settle` in the end of the exchange.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from relayd import clock
from relayd.errors import ExchangeError
from relayd.limits.counter import COST, REQUESTS, TOTAL, Counter, format_span
from relayd.limits.ledger import Exceeded, Reservation
from relayd.limits.limit_set import LimitSet, Selectors
from relayd.limits.rate_queue import MOST_WAITING, RateQueue
from relayd.limits.shared_reservation import SharedReservation
from relayd.limits.window import Moment
from relayd.money import amount_text
from relayd.plan.plan import Target
from relayd.proxy.charge import Charge
from relayd.proxy.exchange import Exchange
from relayd.proxy.queue_time import record_wait
from relayd.proxy.rate_fields import rate_lines
from relayd.proxy.respond import WAIT, Wait
from relayd.proxy.shared_reserve import ask, is_asking, pop_decision

Again = Callable[[Exchange], None]


def limit_sets(exchange: Exchange) -> tuple[LimitSet, ...]:
    """The rates and budgets of the consumer, its group, and the route."""
    identity, route = exchange.identity, exchange.route
    own = () if identity is None else identity.limit_sets
    return own if route is None or route.limit_set is None else (*own, route.limit_set)


def refuse_used_up(exchange: Exchange) -> None:
    """Refuse a request early if a counter is used up that applies to every request. Raises ExchangeError."""
    shared = exchange.gateway.shared
    for one in limit_sets(exchange):
        counter = one.used_up() if shared is None else shared.used_up(one.early)
        if counter is not None:
            now = exchange.gateway.ledger.now()
            exchange.gateway.ledger.observer.exceeded(counter)
            raise refusal(exchange, Exceeded(counter, 1, counter.wait_s(1, now)), (counter,))


def reserve(exchange: Exchange, resume: Again) -> Wait | None:
    """Reserve what the request may use of the rates and budgets of its consumer, group and route. Raises ExchangeError.

    With a result of WAIT, `resume` is called when there may be room.
    """
    sets, ai_request = limit_sets(exchange), exchange.ai_request
    is_priced = exchange.plan.prices is not None and ai_request is not None and ai_request.may_cost
    if not sets:
        if is_priced:
            charge_of(exchange, True)
        return None
    loop = exchange.retry_loop
    assert loop is not None
    charge = charge_of(exchange, is_priced)
    counters: tuple[Counter, ...] = ()
    for one in sets:
        if one.by_tokens and not charge.is_estimated:
            charge.estimate(ai_request)
        counters += one.always if not one.selective else counters_of(exchange, one, charge.model)
    if counters:
        charge.reserved_for = loop.target
        charge.own = claim(exchange, charge, counters, loop.target, resume, counters)
        if charge.own is None:
            return WAIT
    return None


def reserve_upstream(exchange: Exchange, target: Target, again: Again) -> bool:
    """Reserve what the request may use of the rates and budgets of a target's upstream; what was reserved for another
    target is taken back. Returns False if it waits: `again` is called when there may be room. Raises ExchangeError."""
    if exchange.charge is not None and exchange.charge.upstream is not None:
        exchange.charge.upstream.refund()
        exchange.charge.upstream = None
    has = exchange.charge
    if has is not None and has.own is not None and has.reserved_for is not target and has.price(target) is None:
        require_price(exchange, has, [counter for counter, _, _ in has.own.entries], target)
    limits = target.limit_set
    if limits is None:
        return True
    charge = charge_of(exchange, limits.by_tokens)
    counters = counters_of(exchange, limits, target.model or charge.model)
    if counters:
        charge.upstream = claim(exchange, charge, counters, target, again)
    return not counters or charge.upstream is not None


def charge_of(exchange: Exchange, by_tokens: bool) -> Charge:
    """The charge of an exchange, made on first use. `by_tokens`: an estimate of its tokens is needed."""
    charge, ai_request = exchange.charge, exchange.ai_request
    if charge is None:
        model = (ai_request.model if ai_request is not None else exchange.head.model) or ""
        charge = exchange.charge = Charge(model, exchange.plan.prices)
    if by_tokens and not charge.is_estimated:
        charge.estimate(ai_request)
    return charge


def counters_of(exchange: Exchange, limits: LimitSet, model: str) -> tuple[Counter, ...]:
    """The counters of an exchange in these limits, with this model."""
    return limits.counters(Selectors(model, exchange.consumer or "", exchange.record.client))


# ---- one reservation


def claim(
    exchange: Exchange, charge: Charge, counters: Sequence[Counter], target: Target, again: Again,
    shown: Sequence[Counter] = (),
) -> Reservation | SharedReservation | None:
    """Reserve all counters. Returns None if the exchange waits. A refusal tells the client what it has left of the
    counters `shown`. Raises ExchangeError."""
    ledger = exchange.gateway.ledger
    found: Reservation | SharedReservation | Exceeded | None = None
    if charge.asked is not None:
        if is_asking(charge):
            return None
        found = pop_decision(charge)
    else:
        if charge.price(target) is None:
            require_price(exchange, charge, counters, target)
        demands = charge.demands(counters, target)
        now = ledger.now()
        for counter, amount in demands:
            queue = counter.window.queue
            if queue and queue.is_behind(exchange):
                found = Exceeded(counter, amount, wait_behind_s(counter, amount + queue.amount_before(exchange), now))
                break
        else:
            shared = exchange.gateway.shared
            found = ledger.reserve(demands, now) if shared is None else ask(exchange, charge, shared, demands, again)
    if found is None:
        return None
    if not isinstance(found, Exceeded):
        if charge.queue is not None:
            leave_queue(exchange)
        for counter in found.let_through:
            ledger.observer.exceeded(counter)
        return found
    if wait_for_room(exchange, charge, found, again):
        return None
    leave_queue(exchange)
    ledger.observer.exceeded(found.counter)
    raise refusal(exchange, found, shown)


def require_price(exchange: Exchange, charge: Charge, counters: Sequence[Counter], target: Target) -> None:
    """Refuse or log a request whose model has no price if a budget applies to it. Raises ExchangeError."""
    prices, ai_request = exchange.plan.prices, exchange.ai_request
    if prices is None or ai_request is None:
        return
    budgets = [counter for counter in counters if counter.rule.measure == COST]
    if not budgets or not ai_request.reports_usage or ai_request.is_token_count:
        return
    model = target.model or charge.model
    if prices.refuses_unpriced and (hard := next((one for one in budgets if not one.counts_only), None)) is not None:
        raise ExchangeError("unpriced_model", f"{hard.window.key}: model {model[:80]} at {target.upstream.name}")
    exchange.gateway.ledger.observer.unpriced(budgets[0], target.upstream.name, model)


def wait_behind_s(counter: Counter, amount: int, now: Moment) -> float | None:
    """Seconds until there is room for this amount, which may need several spans."""
    counter.advance(now)
    spans, rest = divmod(amount - 1, counter.limit)
    wait_s = counter.wait_s(rest + 1, now)
    return None if wait_s is None else wait_s + spans * counter.rule.span.length_ms / 1000


def wait_for_room(exchange: Exchange, charge: Charge, found: Exceeded, again: Again) -> bool:
    """Wait until there may be room. Returns False if the request must be refused."""
    counter, now_s = found.counter, clock.monotonic()
    if not counter.rule.wait_s or found.retry_after_s is None:
        return False
    if charge.deadline_s < 0:
        charge.deadline_s = now_s + counter.rule.wait_s
    queue = counter.window.queue
    if queue is None:
        queue = counter.window.queue = RateQueue()
    if now_s + found.retry_after_s > charge.deadline_s or (charge.queue is not queue and len(queue) >= MOST_WAITING):
        return False
    if charge.queue is not queue:
        leave_queue(exchange)
    retry = partial(continue_waiting, exchange, again)
    queue.join(exchange, found.amount, partial(call_soon, exchange, retry))
    delay_s = charge.deadline_s - now_s if queue.is_behind(exchange) else found.retry_after_s
    charge.queue = queue
    charge.cancel_timer = exchange.call_later(delay_s, partial(on_timer, charge, retry))
    exchange.cancel_timer = partial(leave_queue, exchange)
    if exchange.waiting_since_s < 0:
        exchange.waiting_since_s = now_s
    exchange.enter("queue")
    return True


def on_timer(charge: Charge, retry: Callable[[], None]) -> None:
    """There may be room now, or the time is over."""
    charge.cancel_timer = None
    retry()


def call_soon(exchange: Exchange, step: Callable[[], None]) -> None:
    """Run a step in a later turn of the loop."""
    exchange.call_later(0.0, step)


def continue_waiting(exchange: Exchange, again: Again) -> None:
    """It is the turn of this request, or its time is over: try again, unless it does not wait any more."""
    charge = exchange.charge
    if charge is not None and charge.queue is not None:
        charge.stop_timer()
        again(exchange)


def leave_queue(exchange: Exchange) -> None:
    """End the waiting, if the exchange waits."""
    charge = exchange.charge
    if charge is None or charge.queue is None:
        return
    charge.stop_timer()
    queue, charge.queue = charge.queue, None
    exchange.cancel_timer = None
    record_wait(exchange)
    queue.leave(exchange)


# ---- what the client gets to know


def refusal(exchange: Exchange, found: Exceeded, counters: Sequence[Counter]) -> ExchangeError:
    """The error for a refused request. Without a time at which it fits, SDKs are shown not to repeat it."""
    counter, rule, retry_after_s = found.counter, found.counter.rule, found.retry_after_s
    is_budget = rule.measure == COST
    if retry_after_s is None:
        fields = [("x-should-retry", "false")]
        when = "It cannot succeed later."
    else:
        seconds = max(1, math.ceil(retry_after_s))
        fields = [("Retry-After", str(seconds))]
        when = f"Try again in {seconds} s."
    if is_budget:
        what = "The budget does not suffice for this request."
    elif rule.measure == REQUESTS:
        what = f"More than {counter.limit} requests in {format_span(rule.span)}."
    else:
        kind = "" if rule.measure == TOTAL else f"{rule.measure} "
        what = (f"The request may need {found.amount} {kind}tokens; the limit is {counter.limit} in "
                f"{format_span(rule.span)}.")  # fmt: skip
    fields += fields_of(rate_lines(exchange.route, exchange.gateway.ledger, counters))
    show = amount_text if is_budget else str
    detail = f"{counter.window.key} {counter.value}".rstrip() + (
        f": {show(counter.window.used)} of {show(counter.limit)} used, {show(found.amount)} needed"
    )
    return ExchangeError("budget_exceeded" if is_budget else "rate_limited", detail, fields, f"{what} {when}")


def fields_of(lines: bytes) -> list[tuple[str, str]]:
    """Lines of a head as names and values."""
    parts = [line.partition(": ") for line in lines.decode("latin-1").split("\r\n") if line]
    return [(name, value) for name, _, value in parts]
