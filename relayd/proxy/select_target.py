"""Target selection: the targets of an exchange in their order, or a local response.

A route names its upstream, splits its requests over several, or selects by the model. With selection by the model, the
model list and a dialect's local responses (stored responses, token counts) are answered here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from urllib.parse import unquote

from relayd.access.identity import Identity
from relayd.money import amount_text
from relayd.plan.plan import Plan, Resilience, Target
from relayd.protocols.dialect import Dialect, Refused, RequestContext
from relayd.protocols.model_list import page, requested_listing, shape_for
from relayd.proxy.ai_request import AiRequest, refused_answer, rendered_answer
from relayd.proxy.authorisation import check_model, require_model
from relayd.proxy.cost import image_steps, record_cost
from relayd.proxy.exchange import Exchange
from relayd.proxy.request_context import context_of
from relayd.proxy.request_model import FormFinder, deciding_model, is_form, model_decides
from relayd.proxy.respond import WAIT, Answer, Wait, answer
from relayd.proxy.retry_loop import RetryLoop
from relayd.upstream.shares import fraction_of
from relayd.wire.body import inspect_json
from relayd.wire.json_steps import Steps

Filter = Callable[[str], bool]


def select(exchange: Exchange, resume: Callable[[Exchange], None]) -> Answer | Wait | None:
    """Select the targets of an exchange in their order, or return the response. Raises ExchangeError.

    With a result of WAIT, a large body is read in several turns of the event loop, then `resume` is called.
    """
    route = exchange.route
    assert route is not None
    resilience = route.resilience
    if resilience is None:
        check_model(exchange, None)
        exchange.retry_loop = RetryLoop(route.targets)
        return None
    body = exchange.body.data
    if resilience.dialect is None:
        check_model(exchange, None)
        targets = (pick_target(resilience, split_position(exchange, resilience, body)), *resilience.fallbacks)
    else:
        ai_request = exchange.ai_request
        if ai_request is None:
            ai_request = exchange.ai_request = make_ai_request(exchange, resilience, resilience.dialect)
            is_counted_here = ai_request.is_token_count and not counting_targets(exchange, resilience, ai_request)
            steps = ai_request.selection_steps(is_counted_here)
            deferred = ai_request.is_slow_to_inspect
            if steps is not None and not exchange.work(steps, partial(resume, exchange), deferred=deferred):
                return WAIT
        try:
            check_model(exchange, ai_request)
            if not resilience.by_model:
                restrict_listing(exchange, ai_request)
            if not images_are_counted(exchange, ai_request, resume):
                return WAIT
            found = choose_targets(exchange, resilience, ai_request)
        except Refused as refused:
            return refused_answer(route, refused, exchange.request_id.decode("latin-1"))
        if isinstance(found, Answer):
            return found
        if not isinstance(found, tuple):
            return local_answer_of(ai_request) if exchange.work(found, partial(resume, exchange)) else WAIT
        targets = found
    affinity = None if targets[0].upstream.affinity is None else hash_key(exchange, targets[0], body)
    exchange.retry_loop = RetryLoop(targets, affinity)
    return None


def make_ai_request(exchange: Exchange, resilience: Resilience, dialect: Dialect) -> AiRequest:
    """Create the AI request of an exchange. Raises ExchangeError if the model decides and is ambiguous."""
    head, body, probe = exchange.head, exchange.body, exchange.body.probe
    form = probe if isinstance(probe, FormFinder) else None
    if body.data and body.json_body is None and not is_form(head):
        body.json_body = inspect_json(body.data)
    if head.model is None and model_decides(resilience, exchange.identity):
        head.model = deciding_model(head, body.data, body.json_body, form)
    ai_request = AiRequest(
        dialect, head, body.data, partial(make_context, exchange), is_socket=exchange.down.socket_memory is not None,
        json_body=body.json_body, form=form,
    )
    if exchange.route is not None:
        ai_request.backend_names = exchange.route.config.backend_names
        if exchange.route.config.tells_cost and exchange.plan.prices is not None:
            ai_request.cost_text = partial(cost_text_of, exchange)
    return ai_request


def make_context(exchange: Exchange) -> RequestContext:
    """The context of a request for dialects."""
    gateway = exchange.gateway
    memory = gateway.memory(exchange.consumer or f"@{exchange.record.client}")
    return context_of(exchange.head, exchange.request_id, memory, gateway.seal_key, exchange.down.socket_memory)


def images_are_counted(exchange: Exchange, ai_request: AiRequest, resume: Callable[[Exchange], None]) -> bool:
    """Count the images of a request if a price depends on them. Returns False if `resume` is called later."""
    prices = exchange.plan.prices
    if prices is None or not prices.counts_images or ai_request.images >= 0:
        return True
    return exchange.work(image_steps(ai_request, exchange.head.path), partial(resume, exchange))


def cost_text_of(exchange: Exchange) -> str:
    """The cost of an exchange whose response is complete, and its currency; empty if it is unknown."""
    record, prices, loop, ai_request = exchange.record, exchange.plan.prices, exchange.retry_loop, exchange.ai_request
    if prices is None or loop is None or ai_request is None or exchange.attempt is None:
        return ""
    for filter_ in exchange.attempt.filters:
        filter_.account(record)
    record_cost(record, prices, ai_request, loop.target)
    return "" if record.cost_nano is None else f"{amount_text(record.cost_nano)} {record.currency}"


def choose_targets(
    exchange: Exchange, resilience: Resilience, ai_request: AiRequest
) -> tuple[Target, ...] | Answer | Steps[None]:
    """The first target and its fallbacks, or the response, or the steps after which there is a local response. Raises
    Refused."""
    answers_locally = ai_request.dialect.answers_locally
    if answers_locally and ai_request.has_local_answer and (local := local_answer_of(ai_request)) is not None:
        return local
    if not resilience.by_model:
        first = pick_target(resilience, split_position(exchange, resilience, ai_request.body))
        if not ai_request.differs_in_dialect(first) and not ai_request.names_stored:
            return (first, *resilience.fallbacks)
        found = ai_request.stored_answer_steps() or local_answer_of(ai_request)
        return (first, *resilience.fallbacks) if found is None else found
    if ai_request.is_token_count and (counting := counting_targets(exchange, resilience, ai_request)):
        return counting
    if answers_locally and (found := ai_request.stored_answer_steps() or local_answer_of(ai_request)) is not None:
        return found
    if (listing := model_list_answer(exchange, ai_request)) is not None:
        return listing
    if not ai_request.model and ai_request.is_translatable:
        ai_request.require_model()
    model = ai_request.model
    targets = targets_for_model(exchange.plan, model, exchange.identity)
    if not resilience.fallbacks:
        return targets
    present = {(target.upstream, target.model or model) for target in targets}
    return (*targets, *(one for one in resilience.fallbacks if (one.upstream, one.model or model) not in present))


def counting_targets(exchange: Exchange, resilience: Resilience, ai_request: AiRequest) -> tuple[Target, ...]:
    """The targets that count tokens themselves: those of the client's dialect. Empty if relayd counts."""
    targets: tuple[Target, ...] = tuple(target for _, target in resilience.split)
    if resilience.by_model:
        try:
            targets = targets_for_model(exchange.plan, ai_request.model)
        except Refused:
            return ()
    own = tuple(target for target in targets if not ai_request.differs_in_dialect(target))
    return own if own and own[0] is targets[0] else ()


def targets_for_model(plan: Plan, model: str, identity: Identity | None = None) -> tuple[Target, ...]:
    """The targets of a model according to `models:`. Raises Refused with a list of the models that the consumer may
    use."""
    models = plan.models
    assert models is not None
    if not model:
        raise Refused("The request names no model.", param="model")
    found = models.resolve(model)
    if found is None:
        raise Refused(models.unknown(model, usable_models(identity)), param="model", code="model_not_found", status=404)
    targets = plan.model_targets[found.rule]
    if found.model == (targets[0].model or model):
        return targets
    return (replace(targets[0], model=found.model), *targets[1:])


def usable_models(identity: Identity | None) -> Filter | None:
    """True for the names of models that the consumer may use; None if it may use all."""
    return None if identity is None or identity.models is None else identity.may_use


def split_position(exchange: Exchange, resilience: Resilience, body: bytes | None) -> float:
    """The position in the split, in [0, 1): random, or derived from the affinity key of the route's first upstream."""
    if len(resilience.split) > 1:
        key = hash_key(exchange, resilience.split[0][1], body)
        if key is not None:
            return fraction_of(key)
    return random.random()


def pick_target(resilience: Resilience, split_position: float) -> Target:
    """The target at a position of the route's weighted split."""
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
    """The local response of the client's dialect, None if it has none."""
    rendered = ai_request.local_answer()
    return None if rendered is None else rendered_answer(rendered)


def model_list_answer(exchange: Exchange, ai_request: AiRequest) -> Answer | None:
    """The model list, or one model, in the format of the client's API. Raises Refused for an unknown model."""
    models = exchange.plan.models
    if exchange.head.method not in (b"GET", b"HEAD") or models is None:
        return None
    asked = requested_listing(ai_request.context.path)
    if asked is None:
        raise Refused("This path is not served here; on this route, a request must name a model.", status=404)
    usable, created_s = usable_models(exchange.identity), exchange.plan.created_s
    listing = models.listed(usable, models_from_upstreams(exchange.plan))
    shape = shape_for(ai_request.dialect, ai_request.context.path, ai_request.context.headers)
    if not asked:
        document = page(shape, listing, created_s, ai_request.context.query)
    else:
        name = unquote(asked)
        upstream = dict(listing).get(name)
        if upstream is None:
            raise Refused(models.unknown(name, usable), param="model", code="model_not_found", status=404)
        document = shape.one(name, upstream, created_s)
    return answer(200, "application/json", json.dumps(document).encode() + b"\n")


def restrict_listing(exchange: Exchange, ai_request: AiRequest) -> None:
    """Restrict an endpoint's list of models to those that the consumer may use. Raises ExchangeError for another
    model."""
    usable = usable_models(exchange.identity)
    if usable is None or exchange.head.method not in (b"GET", b"HEAD"):
        return
    asked = requested_listing(ai_request.context.path)
    if asked:
        require_model(exchange, unquote(asked))
    elif asked is not None and exchange.head.method == b"GET":
        ai_request.lists_only = usable


def models_from_upstreams(plan: Plan) -> Iterator[tuple[str, str]]:
    """The models from the model lists of upstreams, as (model name at the upstream, upstream)."""
    for upstream in plan.upstreams.values():
        if upstream.model_list is not None:
            yield from ((name, upstream.name) for name in upstream.model_list.names)


def hash_key(exchange: Exchange, target: Target, body: bytes | None) -> int | None:
    """The affinity key for consistent_hash, None if the upstream does not use it."""
    affinity = target.upstream.affinity
    if affinity is None:
        return None
    json_body = exchange.body.json_body
    session = "" if exchange.client_session is None else exchange.client_session.key
    return affinity.key(exchange.head.get, exchange.consumer or "", exchange.record.client, body, json_body, session)
