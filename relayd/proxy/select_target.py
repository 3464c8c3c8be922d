"""Which targets an exchange has, in the order in which they are tried; what needs none is answered here.

A route names its upstream, shares requests out among several, or lets the model choose. A request for the list of
models and what a dialect keeps by itself (stored responses, token counts) never goes upstream where the model chooses.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from urllib.parse import unquote

from relayd.plan.plan import Plan, Resilience, Target
from relayd.protocols.dialect import Ask, Dialect, Refused
from relayd.protocols.model_list import page, shape_for
from relayd.proxy.call import Call, ask_of, listing_asked, refused_answer, rendered_answer
from relayd.proxy.exchange import Exchange
from relayd.proxy.model_of_request import FormFinder, decided_model, model_decides
from relayd.proxy.respond import WAIT, Answer, Wait, answer
from relayd.proxy.retry_loop import RetryLoop
from relayd.upstream.shares import fraction_of


def select(exchange: Exchange, resume: Callable[[Exchange], None]) -> Answer | Wait | None:
    """Find the targets of an exchange, in the order in which they are tried; or the response. Raises ExchangeError.

    `resume` is called where a large body must be read first and one turn of the event loop is not enough.
    """
    route = exchange.route
    assert route is not None
    resilience = route.resilience
    if resilience is None:
        exchange.retry_loop = RetryLoop(route.targets)
        return None
    body = exchange.body.data
    if resilience.dialect is None:
        targets = (picked(resilience, roll(exchange, resilience, body)), *resilience.fallbacks)
    else:
        call = exchange.call
        if call is None:
            call = exchange.call = call_of(exchange, resilience, resilience.dialect)
            is_counted_here = call.counts_tokens and not counting_targets(exchange, resilience, call)
            steps = call.early_steps(is_counted_here)
            if steps is not None and not exchange.work(steps, partial(resume, exchange), later=call.is_long):
                return WAIT
        try:
            found = targets_of(exchange, resilience, call)
        except Refused as refused:
            return refused_answer(route, refused, exchange.request_id.decode("latin-1"))
        if isinstance(found, Answer):
            return found
        targets = found
    exchange.retry_loop = RetryLoop(targets, hash_key(exchange, targets[0], body))
    return None


def call_of(exchange: Exchange, resilience: Resilience, dialect: Dialect) -> Call:
    """The AI side of this exchange. Raises ExchangeError where the model decides and is not clear."""
    head, gateway, socket_memory = exchange.head, exchange.gateway, exchange.down.socket_memory
    body, probe = exchange.body, exchange.body.probe
    form = probe if isinstance(probe, FormFinder) else None
    if head.model is None and model_decides(resilience):
        head.model = decided_model(head, body.data, body.look, form)

    def asking() -> Ask:
        memory = gateway.memory(exchange.consumer or f"@{exchange.record.client}")
        return ask_of(head, exchange.request_id, memory, gateway.seal_key, socket_memory)

    call = Call(dialect, head, body.data, asking, is_socket=socket_memory is not None, look=body.look, form=form)
    if exchange.route is not None:
        call.backend_names = exchange.route.config.backend_names
    return call


def targets_of(exchange: Exchange, resilience: Resilience, call: Call) -> tuple[Target, ...] | Answer:
    """The first target and the fallbacks behind it, or the response. Raises Refused."""
    if not resilience.by_model:
        first = picked(resilience, roll(exchange, resilience, call.body))
        local = answered_locally(call) if call.crosses_dialects(first) else None
        return (first, *resilience.fallbacks) if local is None else local
    if call.counts_tokens and (counting := counting_targets(exchange, resilience, call)):
        return counting
    local = answered_locally(call) or listed(exchange, call)
    if local is not None:
        return local
    if not call.model and call.translates:
        call.check()
    mine = by_model(exchange.plan, call.model)
    asked = {(target.upstream, target.model or call.model) for target in mine}
    more = [target for target in resilience.fallbacks if (target.upstream, target.model or call.model) not in asked]
    return (*mine, *more)


def counting_targets(exchange: Exchange, resilience: Resilience, call: Call) -> tuple[Target, ...]:
    """The targets that count the tokens of a request themselves, because they speak the client's dialect; none where
    relayd counts."""
    targets: tuple[Target, ...] = tuple(target for _, target in resilience.split)
    if resilience.by_model:
        try:
            targets = by_model(exchange.plan, call.model)
        except Refused:
            return ()
    own = tuple(target for target in targets if not call.crosses_dialects(target))
    return own if own and own[0] is targets[0] else ()


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
            return fraction_of(key)
    return random.random()


def picked(resilience: Resilience, roll: float) -> Target:
    """One of the targets among which the route shares its requests out."""
    split = resilience.split
    if len(split) == 1:
        return split[0][1]
    place = roll * sum(weight for weight, _ in split)
    for weight, target in split:
        place -= weight
        if place < 0:
            return target
    return split[-1][1]


def answered_locally(call: Call) -> Answer | None:
    """What the client's dialect keeps by itself."""
    rendered = call.local_answer()
    return None if rendered is None else rendered_answer(rendered)


def listed(exchange: Exchange, call: Call) -> Answer | None:
    """The models of the configuration, as the client's maker has the list. Raises Refused for an unknown one."""
    models = exchange.plan.models
    if exchange.head.method not in (b"GET", b"HEAD") or models is None:
        return None
    asked = listing_asked(call.ask.path)
    if asked is None:
        raise Refused("This path is not served here; a request that chooses by the model names one.", status=404)
    listing, created_s = models.listed(more=told_by_upstreams(exchange.plan)), exchange.plan.created_s
    shape = shape_for(call.dialect, call.ask.path, call.ask.headers)
    if not asked:
        told = page(shape, listing, created_s, call.ask.query)
    else:
        name = unquote(asked)
        upstream = dict(listing).get(name)
        if upstream is None:
            raise Refused(models.unknown(name), param="model", code="model_not_found", status=404)
        told = shape.one(name, upstream, created_s)
    return answer(200, "application/json", json.dumps(told).encode() + b"\n")


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
    look = exchange.body.look
    return affinity.key(exchange.head.get, exchange.consumer or "", exchange.record.client, body, look)
