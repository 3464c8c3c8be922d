"""The short way of an exchange that has limits or retries and, as nearly always, need neither wait nor be tried again.

1. Permits that are free are taken at once, and the exchange is its own sink, as one without any limits.
2. Where one is not free, or the attempt fails before the client has seen anything, a course takes over as if it had
   been there from the beginning: with the permits that are held, the attempt that was made, and its endpoint.
"""

from __future__ import annotations

from relayd.limits.gate import Gate
from relayd.limits.ticket import Room
from relayd.plan.plan import PlannedRoute
from relayd.proxy.attempt import Attempt
from relayd.proxy.course import Course
from relayd.proxy.exchange import Exchange


def has_permits(exchange: Exchange, route: PlannedRoute, consumer: str | None) -> bool:
    """Take every permit that this exchange needs; False where it has to take the long way."""
    resilience = route.resilience
    if resilience is not None and resilience.direct is None:
        return False
    if consumer and not take(exchange, exchange.plan.consumer_gates.get(consumer), None):
        return False
    if resilience is None:
        return True
    target = resilience.direct
    if target is None or not take(exchange, resilience.gate, None):
        return False
    if target.gate is not None and not take(exchange, target.gate, target.upstream.has_room):
        return False
    exchange.rescue = rescued
    return True


def take(exchange: Exchange, gate: Gate | None, room: Room | None) -> bool:
    """One more permit, if there is a gate that wants one."""
    if gate is None:
        return True
    ticket = gate.at_once(exchange.consumer or exchange.record.client, room)
    if ticket is None:
        return False
    exchange.held = (*exchange.held, (gate, ticket))
    return True


def rescued(exchange: Exchange) -> Attempt:
    """Make the course of an exchange whose direct attempt has failed; who judges the attempt from now on."""
    route, slot, endpoint = exchange.route, exchange.slot, exchange.endpoint
    assert route is not None and route.resilience is not None and route.resilience.direct is not None
    assert slot is not None and endpoint is not None
    exchange.rescue = None
    body = slot.body if exchange.head.has_body else None
    whole = body is not None or not exchange.head.has_body
    priority = exchange.plan.priorities.get(exchange.consumer or "", 0)
    course = Course(exchange, route, (route.resilience.direct,), None, body, whole, [], priority, None)
    exchange.course = course
    attempt = slot.sink = Attempt(exchange, course)
    course.take_over(endpoint, attempt)
    return attempt
