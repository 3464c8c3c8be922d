"""Reservations in a server that several instances share: the exchange waits for the decision, one round trip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from relayd.errors import ExchangeError
from relayd.limits.ledger import Demand, Exceeded
from relayd.limits.shared_ledger import SharedLedger
from relayd.limits.shared_reservation import Decision, SharedReservation, Unavailable
from relayd.proxy.charge import Asked, Charge
from relayd.proxy.exchange import Exchange

Found = SharedReservation | Exceeded


def is_asking(charge: Charge) -> bool:
    """True if a decision has been asked for and is not there yet."""
    return charge.asked is not None and charge.asked.decision is None


def pop_decision(charge: Charge) -> Found | None:
    """The decision that was asked for, once. Raises ExchangeError."""
    asked, charge.asked = charge.asked, None
    return None if asked is None or asked.decision is None else checked(asked.decision)


def ask(
    exchange: Exchange, charge: Charge, shared: SharedLedger, demands: Sequence[Demand],
    again: Callable[[Exchange], None],
) -> Found | None:
    """Ask for a reservation. With a result of None, `again` is called when the decision is there. Raises
    ExchangeError."""
    asked = Asked()
    decision = shared.reserve(demands, partial(on_decided, exchange, asked, again))
    if decision is None:
        charge.asked = asked
        return None
    return checked(decision)


def on_decided(exchange: Exchange, asked: Asked, again: Callable[[Exchange], None], decision: Decision) -> None:
    """Continue with the decision; if the exchange has ended meanwhile, take the reservation back."""
    asked.decision = decision
    if not exchange.is_over:
        exchange.guard(partial(again, exchange))
    elif isinstance(decision, SharedReservation):
        decision.refund()


def checked(decision: Decision) -> Found:
    """A decision that was made. Raises ExchangeError if the server is not available and the counter closed."""
    if isinstance(decision, Unavailable):
        raise ExchangeError("limits_unavailable", decision.counter.rule.key, (("Retry-After", "1"),))
    return decision
