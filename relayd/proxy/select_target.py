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
from relayd.protocols.dialect import Dialect, Refused, RequestContext
from relayd.protocols.model_list import page, shape_for
from relayd.proxy.ai_request import AiRequest, context_of, refused_answer, rendered_answer, requested_listing
from relayd.proxy.exchange import Exchange
from relayd.proxy.request_model import FormFinder, deciding_model, model_decides
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
        targets = (pick_target(resilience, split_position(exchange, resilience, body)), *resilience.fallbacks)
    else:
        ai_request = exchange.ai_request
        if ai_request is None:
            ai_request = exchange.ai_request = make_ai_request(exchange, resilience, resilience.dialect)
            is_counted_here = ai_request.is_token_count and not counting_targets(exchange, resilience, ai_request)
            steps = ai_request.selection_steps(is_counted_here)
            if steps is not None and not exchange.work(steps, partial(resume, exchange), deferred=ai_request.is_slow_to_inspect):
                return WAIT
        try:
            found = choose_targets(exchange, resilience, ai_request)
        except Refused as refused:
            return refused_answer(route, refused, exchange.request_id.decode("latin-1"))
        if isinstance(found, Answer):
            return found
        targets = found
    exchange.retry_loop = RetryLoop(targets, hash_key(exchange, targets[0], body))
    return None


def make_ai_request(exchange: Exchange, resilience: Resilience, dialect: Dialect) -> AiRequest:
    """The AI side of this exchange. Raises ExchangeError where the model decides and is not clear."""
    head, gateway, socket_memory = exchange.head, exchange.gateway, exchange.down.socket_memory
    body, probe = exchange.body, exchange.body.probe
    form = probe if isinstance(probe, FormFinder) else None
    if head.model is None and model_decides(resilience):
        head.model = deciding_model(head, body.data, body.json_body, form)

    def make_context() -> RequestContext:
        memory = gateway.memory(exchange.consumer or f"@{exchange.record.client}")
        return context_of(head, exchange.request_id, memory, gateway.seal_key, socket_memory)

    ai_request = AiRequest(dialect, head, body.data, make_context, is_socket=socket_memory is not None, json_body=body.json_body, form=form)
    if exchange.route is not None:
        ai_request.backend_names = exchange.route.config.backend_names
    return ai_request


def choose_targets(exchange: Exchange, resilience: Resilience, ai_request: AiRequest) -> tuple[Target, ...] | Answer:
    """The first target and the fallbacks behind it, or the response. Raises Refused."""
    if not resilience.by_model:
        first = pick_target(resilience, split_position(exchange, resilience, ai_request.body))
        local = local_answer_of(ai_request) if ai_request.differs_in_dialect(first) else None
        return (first, *resilience.fallbacks) if local is None else local
    if ai_request.is_token_count and (counting := counting_targets(exchange, resilience, ai_request)):
        return counting
    local = local_answer_of(ai_request) or model_list_answer(exchange, ai_request)
    if local is not None:
        return local
    if not ai_request.model and ai_request.is_translatable:
        ai_request.require_model()
    targets = targets_for_model(exchange.plan, ai_request.model)
    asked = {(target.upstream, target.model or ai_request.model) for target in targets}
    fallbacks = [target for target in resilience.fallbacks if (target.upstream, target.model or ai_request.model) not in asked]
    return (*targets, *fallbacks)


def counting_targets(exchange: Exchange, resilience: Resilience, ai_request: AiRequest) -> tuple[Target, ...]:
    """The targets that count the tokens of a request themselves, because they speak the client's dialect; none where
    relayd counts."""
    targets: tuple[Target, ...] = tuple(target for _, target in resilience.split)
    if resilience.by_model:
        try:
            targets = targets_for_model(exchange.plan, ai_request.model)
        except Refused:
            return ()
    own = tuple(target for target in targets if not ai_request.differs_in_dialect(target))
    return own if own and own[0] is targets[0] else ()


def targets_for_model(plan: Plan, model: str) -> tuple[Target, ...]:
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


def split_position(exchange: Exchange, resilience: Resilience, body: bytes | None) -> float:
    """From 0 up to 1: by chance, or always the same for what belongs together at the route's own upstream."""
    if len(resilience.split) > 1:
        key = hash_key(exchange, resilience.split[0][1], body)
        if key is not None:
            return fraction_of(key)
    return random.random()


def pick_target(resilience: Resilience, split_position: float) -> Target:
    """One of the targets among which the route shares its requests out."""
    split = resilience.split
    if len(split) == 1:
        return split[0][1]
    position = split_position * sum(weight for weight, _ in split)
    for weight, target in split:
        position -= weight
        if position < 0:
            return target
    return split[-1][1]


def local_answer_of(ai_request: AiRequest) -> Answer | None:
    """What the client's dialect keeps by itself."""
    rendered = ai_request.local_answer()
    return None if rendered is None else rendered_answer(rendered)


def model_list_answer(exchange: Exchange, ai_request: AiRequest) -> Answer | None:
    """The models of the configuration, as the client's maker has the list. Raises Refused for an unknown one."""
    models = exchange.plan.models
    if exchange.head.method not in (b"GET", b"HEAD") or models is None:
        return None
    asked = requested_listing(ai_request.context.path)
    if asked is None:
        raise Refused("This path is not served here; a request that chooses by the model names one.", status=404)
    listing, created_s = models.listed(more=models_from_upstreams(exchange.plan)), exchange.plan.created_s
    shape = shape_for(ai_request.dialect, ai_request.context.path, ai_request.context.headers)
    if not asked:
        document = page(shape, listing, created_s, ai_request.context.query)
    else:
        name = unquote(asked)
        upstream = dict(listing).get(name)
        if upstream is None:
            raise Refused(models.unknown(name), param="model", code="model_not_found", status=404)
        document = shape.one(name, upstream, created_s)
    return answer(200, "application/json", json.dumps(document).encode() + b"\n")


def models_from_upstreams(plan: Plan) -> Iterator[tuple[str, str]]:
    """The models that upstreams list themselves, by their names there, and the upstreams."""
    for upstream in plan.upstreams.values():
        if upstream.model_list is not None:
            yield from ((name, upstream.name) for name in upstream.model_list.names)


def hash_key(exchange: Exchange, target: Target, body: bytes | None) -> int | None:
    """What consistent_hash chooses by, where this upstream does."""
    affinity = target.upstream.affinity
    if affinity is None:
        return None
    json_body = exchange.body.json_body
    return affinity.key(exchange.head.get, exchange.consumer or "", exchange.record.client, body, json_body)
