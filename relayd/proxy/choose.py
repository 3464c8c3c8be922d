"""Which targets an exchange has, in the order in which they are tried; what needs none is answered here.

A route names its upstream, shares requests out among several, or lets the model choose. A request for the list of
models and what a dialect keeps by itself (stored responses, token counts) never goes upstream where the model chooses.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import unquote

from relayd.errors import ExchangeError
from relayd.limits.gate import Gate
from relayd.plan.plan import Plan, PlannedRoute, Resilience, Target
from relayd.protocols.dialect import Ask, Dialect, Refused
from relayd.protocols.model_list import page, shape_for
from relayd.proxy.call import Call, ask_of, listing_asked, refused_answer, rendered_answer
from relayd.proxy.course import Course
from relayd.proxy.exchange import Exchange
from relayd.proxy.passage import passes
from relayd.proxy.respond import answer
from relayd.proxy.shadow import cast
from relayd.upstream.shares import roll_of

NO_RESILIENCE = Resilience()


def choose(exchange: Exchange, route: PlannedRoute, body: bytes | None, whole: bool) -> None:
    """Find the targets and begin the course, or answer. Raises ExchangeError."""
    exchange.phase = "admit"
    resilience = route.resilience or NO_RESILIENCE
    call = None
    if resilience.dialect is not None:
        call = call_of(exchange, resilience.dialect, body if whole else None)
        try:
            targets = targets_of(exchange, route, resilience, call)
        except Refused as refused:
            code = "unknown_model" if refused.status == 404 else "bad_body"
            exchange.respond(refused_answer(route, refused, exchange.request_id.decode("latin-1")), code)
            return
    else:
        first = picked(resilience, route, roll(exchange, resilience, body if whole else None))
        targets = (first, *resilience.fallbacks)
    if not targets or (call is not None and whole and passes(exchange, route, resilience, targets, call)):
        return
    plan, consumer = exchange.plan, exchange.consumer or ""
    passed = [gate for gate, _ in exchange.held]
    gates: list[Gate] = [
        gate for gate in (plan.consumer_gates.get(consumer), resilience.gate) if gate is not None and gate not in passed
    ]
    key = hash_key(exchange, targets[0], body if whole else None)
    course = Course(exchange, route, targets, call, body, whole, gates, plan.priorities.get(consumer, 0), key)
    exchange.course = course
    mirror = resilience.mirror if whole and random.random() < resilience.mirror_share else None
    if mirror is not None and mirror.upstream is not targets[0].upstream:
        cast(exchange, route, mirror, call, body)
    course.begin()


def call_of(exchange: Exchange, dialect: Dialect, body: bytes | None) -> Call:
    """The AI side of this exchange."""
    head, gateway, socket_memory = exchange.head, exchange.gateway, exchange.down.socket_memory

    def asking() -> Ask:
        memory = gateway.memory(exchange.consumer or f"@{exchange.record.client}")
        return ask_of(head, exchange.request_id, memory, gateway.seal_key, socket_memory)

    return Call(dialect, head, body, asking, is_socket=socket_memory is not None)


def targets_of(exchange: Exchange, route: PlannedRoute, resilience: Resilience, call: Call) -> tuple[Target, ...]:
    """The first target and the fallbacks behind it; none where the answer has been given. Raises Refused."""
    if not resilience.by_model:
        first = picked(resilience, route, roll(exchange, resilience, call.body))
        if call.crosses_dialects(first) and answered_locally(exchange, call):
            return ()
        return (first, *resilience.fallbacks)
    if answered_locally(exchange, call) or listed(exchange, call):
        return ()
    if not call.model and call.translates:
        call.check()
    mine = by_model(exchange.plan, call.model)
    asked = {(target.upstream, target.model or call.model) for target in mine}
    more = [target for target in resilience.fallbacks if (target.upstream, target.model or call.model) not in asked]
    return (*mine, *more)


def by_model(plan: Plan, model: str) -> tuple[Target, ...]:
    """The targets of a model by `models:`. Raises Refused."""
    models = plan.models
    assert models is not None
    if not model:
        raise Refused("The request names no model.", param="model")
    found = models.resolve(model)
    if found is None:
        raise Refused(models.unknown(model), param="model", code="model_not_found", status=404)
    targets = plan.model_targets[found.rule]
    if found.model == (targets[0].model or model):
        return targets
    return (replace(targets[0], model=found.model), *targets[1:])


def roll(exchange: Exchange, resilience: Resilience, body: bytes | None) -> float:
    """From 0 up to 1: by chance, or always the same for what belongs together at the route's own upstream."""
    if len(resilience.split) > 1:
        key = hash_key(exchange, resilience.split[0][1], body)
        if key is not None:
            return roll_of(key)
    return random.random()


def picked(resilience: Resilience, route: PlannedRoute, roll: float) -> Target:
    """One of the targets among which the route shares its requests out."""
    split = resilience.split
    if not split:
        assert route.upstream is not None
        return Target(route.upstream)
    if len(split) == 1:
        return split[0][1]
    place = roll * sum(weight for weight, _ in split)
    for weight, target in split:
        place -= weight
        if place < 0:
            return target
    return split[-1][1]


def answered_locally(exchange: Exchange, call: Call) -> bool:
    """What the client's dialect keeps by itself."""
    if call.dialect.local is None:
        return False
    rendered = call.dialect.local(call.ask, call.body or b"")
    if rendered is None:
        return False
    exchange.respond(rendered_answer(rendered))
    return True


def listed(exchange: Exchange, call: Call) -> bool:
    """The models of the configuration, as the client's maker has the list. Raises Refused for an unknown one."""
    models = exchange.plan.models
    if exchange.head.method not in (b"GET", b"HEAD") or models is None:
        return False
    asked = listing_asked(call.ask.path)
    if asked is None:
        raise Refused("This path is not served here; a request that chooses by the model names one.", status=404)
    listing, made_s = models.listed(more=told_by_upstreams(exchange.plan)), exchange.plan.made_s
    shape = shape_for(call.dialect, call.ask.path, call.ask.headers)
    if not asked:
        told = page(shape, listing, made_s, call.ask.query)
    else:
        name = unquote(asked)
        upstream = dict(listing).get(name)
        if upstream is None:
            raise Refused(models.unknown(name), param="model", code="model_not_found", status=404)
        told = shape.one(name, upstream, made_s)
    exchange.respond(answer(200, "application/json", json.dumps(told).encode() + b"\n"))
    return True


def told_by_upstreams(plan: Plan) -> Iterator[tuple[str, str]]:
    """The models that upstreams list themselves, by their names there, and the upstreams."""
    for upstream in plan.upstreams.values():
        if upstream.model_list is not None:
            yield from ((name, upstream.name) for name in upstream.model_list.names)


def hash_key(exchange: Exchange, target: Target, body: bytes | None) -> int | None:
    """What consistent_hash chooses by, where this upstream does."""
    affinity = target.upstream.affinity
    if affinity is None:
        return None
    return affinity.key(exchange.head.get, exchange.consumer or "", exchange.record.client, body)


__all__ = ["ExchangeError", "choose"]
