"""The pipeline of a request: PHASES, from the accepted head to the first attempt.

A phase returns None (continue with the next phase), an Answer (the response), or WAIT (`resume` will be called, which
runs the phase again). Errors are ExchangeErrors; `run` turns them into the response. The order is a safety property:
nothing is sent upstream before all phases have passed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

from relayd.access.cors import preflight, refusal
from relayd.access.key_store import KeysBehind
from relayd.acme.state import CHALLENGE_PATH
from relayd.errors import ExchangeError
from relayd.limits.ticket import Refused as NoPermit
from relayd.limits.ticket import retry_after
from relayd.plan.plan import PlannedRoute, Resilience
from relayd.proxy import forward, mirror, select_target
from relayd.proxy.answer_cache import answer_from_cache
from relayd.proxy.application import LocalRequest
from relayd.proxy.authorisation import KeysAwaited, identify, wait_for_keys
from relayd.proxy.body_inspection import BodyInspection, is_inspected
from relayd.proxy.browser_origin import fault_of_page, is_cross_site
from relayd.proxy.browser_session import path_of
from relayd.proxy.exchange import Exchange
from relayd.proxy.find_session import find_session
from relayd.proxy.local_response import LocalResponse
from relayd.proxy.request_model import (
    FormFinder,
    agreed_model,
    deciding_model,
    form_finder,
    is_form,
    model_decides,
    require_readable,
)
from relayd.proxy.reserve import refuse_used_up
from relayd.proxy.reserve import reserve as reserve_limits
from relayd.proxy.respond import WAIT, Answer, Wait, answer, fixed_answer, https_redirect_answer, redirect_answer
from relayd.proxy.session_document import answer_document
from relayd.proxy.sign_in import Browser
from relayd.proxy.tracing import begin_trace
from relayd.proxy.upstream_request import origin_for, request_id_of
from relayd.proxy.websocket_session import open_session
from relayd.routing.matchers import ModelWanted
from relayd.routing.table import Table
from relayd.wire.body import PARSED_BYTES
from relayd.wire.headers import TOKENS
from relayd.wire.http1 import ALLOW, RequestHead
from relayd.wire.path import may_be_ambiguous
from relayd.wire.redact import mask_path

_ASKS_PREFLIGHT = b"access-control-request-method"


Step = Answer | Wait | None
Phase = Callable[[Exchange], Step]


def run(exchange: Exchange, index: int = 0) -> None:
    """Run an exchange through its phases, starting with the one at `index`. It ends with the phase that waits or
    answers. An exception becomes the response."""
    try:
        try:
            for phase in PHASES[index:] if index else PHASES:
                step = phase(exchange)
                if step is not None:
                    if step is WAIT:
                        wait_in(exchange, phase)
                    else:
                        exchange.respond(step)
                    return
        except ExchangeError as refused:
            exchange.fail(refused)
        except KeysBehind as behind:
            wait_in(exchange, phase)
            exchange.work(behind.steps, partial(resume, exchange), deferred=True)
        except KeysAwaited as awaited:
            wait_in(exchange, phase)
            wait_for_keys(exchange, awaited.source, partial(resume, exchange))
    except Exception:  # rescue door: a fault of relayd itself ends one exchange
        exchange.fail_internally()


def wait_in(exchange: Exchange, phase: Phase) -> None:
    """The phase waits: it is run again by `resume`. What arrives of the body meanwhile is kept."""
    exchange.resume_index = PHASES.index(phase)
    body = exchange.body
    if exchange.phase == "over" or exchange.local is not None:
        return
    if exchange.head.expect:  # it may send once all phases before the attempt have accepted the request
        body.await_recipient()
    if exchange.retry_loop is not None:
        return
    if not body.is_buffering:
        body.hold()
    elif body.is_held:  # in a later turn, because it may end the waiting
        exchange.call_later(0.0, body.replay_held)


def resume(exchange: Exchange) -> None:
    """Run the waiting phase again."""
    if exchange.phase != "over":
        exchange.body.end_hold()
        run(exchange, exchange.resume_index)


def accept(exchange: Exchange) -> Step:
    """Set the request id and the client. Answer OPTIONS that end at this hop (RFC 9110 7.6.2) and challenges of ACME,
    and redirect to HTTPS."""
    head, record, down = exchange.head, exchange.record, exchange.down
    header_names = exchange.plan.header_names
    request_id = request_id_of(header_names, down, head) if down.trusted else None
    is_own = request_id is None
    if request_id is None:
        request_id = random.randbytes(16).hex().encode()
    exchange.request_id = exchange.writer.request_id = request_id
    record.id = request_id.decode("latin-1")
    if (sampler := exchange.gateway.tracing.sampler) is not None:
        begin_trace(record, head, sampler, tls=down.tls, own_id=is_own)
    record.method, record.host = head.method.decode("latin-1"), head.host.decode("latin-1")
    record.path, record.query = mask_path(head.path.decode("latin-1")), head.query.decode("latin-1")
    if down.trusted:
        origin = exchange.origin = origin_for(down, head)
        record.client = down.peer if origin is None else origin.client
    if head.method == b"OPTIONS" and (found := options_here(head)) is not None:
        return found
    if head.path.startswith(CHALLENGE_PATH) and (found := challenge_answer(exchange)) is not None:
        return found
    redirects = exchange.plan.https_redirects
    if redirects and down.listener in redirects and (exchange.origin is None or exchange.origin.proto != b"https"):
        return https_redirect_answer(head, exchange.origin, redirects[down.listener])
    return None


def options_here(head: RequestHead) -> Step:
    """Answer OPTIONS that end at this hop; count a hop of others (RFC 9110 7.6.2)."""
    forwards = head.get(b"max-forwards")
    if head.target == b"*" or (forwards is not None and forwards.strip(b"0") == b""):
        return answer(200, "", b"", ALLOW)
    if forwards is not None and forwards.isdigit() and len(forwards) < 10:
        fewer = b"Max-Forwards: %d" % (int(forwards) - 1)
        head.keep = [fewer if line.lower().startswith(b"max-forwards:") else line for line in head.keep]
    return None


def challenge_answer(exchange: Exchange) -> Answer | None:
    """The response to a pending challenge of ACME (RFC 8555 8.3); other requests of this path are ordinary ones."""
    respond = exchange.gateway.challenge_response
    if respond is None or exchange.head.method not in (b"GET", b"HEAD"):
        return None
    content = respond(exchange.head.path)
    return None if content is None else answer(200, "application/octet-stream", content)


def match(exchange: Exchange) -> Step:
    """Find the route: the first match wins."""
    exchange.phase = "match"
    head = exchange.head
    try:
        route = find_route(exchange.plan.table, head)
    except ModelWanted:
        if not model_is_read(exchange):
            return WAIT
        route = find_route(exchange.plan.table, head)
    if route is None:
        raise ExchangeError("no_route")
    exchange.route = exchange.writer.route = route
    exchange.record.route = route.name
    if head.upgrade is not None:
        is_served = route.resilience is not None and route.resilience.serves_websocket
        if not is_served and (not route.upgrade or b"h2c" in TOKENS[head.upgrade]):
            head.upgrade = None  # RFC 9110 7.8: a server may ignore Upgrade; h2c would hide requests from the gate
    return None


def model_is_read(exchange: Exchange) -> bool:
    """Read the model for a rule on models. Returns False if the body must arrive or be inspected first.

    Raises ExchangeError if the model is ambiguous; these errors have the format of the first route that may match.
    """
    head, body, go_on = exchange.head, exchange.body, partial(resume, exchange)
    candidates = exchange.plan.table.candidates(head)
    error_route = candidates[0] if candidates else None
    exchange.use_error_format_of(error_route)
    if not body.whole:
        limit = limit_before_match(exchange, candidates)
        require_readable(head)
        exchange.phase = "admit"
        body.start_buffering(limit, go_on, exchange, head.length, form_finder(head, whole=True)
                    or BodyInspection(exchange, error_route))  # fmt: skip
        exchange.use_error_format_of(None)  # the route is not known yet
        return False
    if not is_form(head) and not is_inspected(exchange, error_route, go_on):
        exchange.use_error_format_of(None)
        return False
    head.model = deciding_model(head, body.data, body.json_body, form_of(exchange))
    exchange.use_error_format_of(None)
    return True


def form_of(exchange: Exchange) -> FormFinder | None:
    """The reader of the form, or of its beginning."""
    probe = exchange.body.probe
    return probe if isinstance(probe, FormFinder) else None


def find_route(table: Table[PlannedRoute], head: RequestHead) -> PlannedRoute | None:
    """The first route that matches. A path is refused if another reading of it leads to another route, or if a field
    names a path for some servers (X-Original-URL) that does.

    Raises ModelWanted, ExchangeError.
    """
    route = table.match(head)
    if head.overrides or may_be_ambiguous(head.path):
        rewrites_path = route is not None and route.rewrites_path
        if table.contradiction(head, route, rewrites_path) is not None:
            raise ExchangeError("ambiguous_path", "another reading leads elsewhere")
    return route


def limit_before_match(exchange: Exchange, candidates: Sequence[PlannedRoute]) -> int:
    """The size limit of a body that is read to find its route. Refuses a consumer that no candidate route allows."""
    if not candidates:  # only the normalised path matches the rule on models
        raise ExchangeError("ambiguous_path", "another reading leads elsewhere")
    if all(route.allow is not None for route in candidates):
        identify(exchange, candidates)
    limits = [route.body_limit for route in candidates]
    limit, length = max(limits) if all(limits) else 0, exchange.head.length
    if limit and length is not None and length > limit:
        raise ExchangeError("body_too_large", f"{length} bytes")
    return limit


def cors(exchange: Exchange) -> Step:
    """Answer a CORS preflight. It carries no key, so it comes before `authorise`."""
    head, route = exchange.head, exchange.route
    if route is None or route.cors is None or head.method != b"OPTIONS":
        return None
    origin, method = head.get(b"origin"), head.get(_ASKS_PREFLIGHT)
    if origin is None or method is None:
        return None
    asked = head.get(b"access-control-request-headers") or b""
    fields = preflight(route.cors, origin.decode("latin-1"), method.decode("latin-1"), asked.decode("latin-1"))
    exchange.writer.adds_cors = False  # the response has its own CORS fields
    if fields is None:
        return answer(403, "", b"", tuple(refusal(route.cors)))
    return answer(204, "", b"", tuple(fields))


def authorise(exchange: Exchange) -> Step:
    """Identify the consumer, and check that the route allows it."""
    assert exchange.route is not None
    if exchange.route.allow is not None or exchange.plan.consumers.is_used:
        identify(exchange, (exchange.route,))
    return None


def admit(exchange: Exchange) -> Step:
    """Refuse the request if relayd drains or is overloaded, or if the body is too large."""
    exchange.phase = "admit"
    route = exchange.route
    assert route is not None
    if exchange.gateway.draining:
        raise ExchangeError("draining", headers=(("Retry-After", "1"),))
    if route.action == "proxy":
        try:
            exchange.gateway.overload.admit(forward.priority_of(exchange))
        except NoPermit as refused:
            raise ExchangeError("overloaded", headers=(("Retry-After", retry_after(refused.retry_after_s)),)) from None
    refuse_used_up(exchange)
    if route.body_limit:
        length = exchange.head.length if exchange.head.length is not None else exchange.record.bytes_in
        if length > route.body_limit:
            raise ExchangeError("body_too_large", f"{length} bytes")
    return None


def use_session(exchange: Exchange) -> Step:
    """Find the session of the client, on routes that use sessions."""
    return find_session(exchange, resume) if exchange.route.uses_session else None  # type: ignore[union-attr]  # found


def answer_locally(exchange: Exchange) -> Step:
    """Answer routes without an upstream, and start WebSocket sessions."""
    route, head = exchange.route, exchange.head
    assert route is not None
    if route.action == "proxy":
        if head.upgrade is not None and not route.upgrade:
            return open_session(exchange, begin_turn)
        return None
    if route.action == "redirect":
        return redirect_answer(route, head, exchange.origin)
    if route.action == "respond":
        return fixed_answer(route)
    if route.action == "admin":
        host = (exchange.origin.host if exchange.origin is not None else None) or head.authority
        cross_site = is_cross_site(head.get(b"sec-fetch-site"), head.get(b"origin"), host)
        method = head.method.decode("latin-1")
        by_key = exchange.identity is not None and exchange.session is None
        browser = None if route.allow is None or by_key else Browser(exchange)
        request = LocalRequest(
            method, path_of(route, head), route.admin_write, cross_site, head.get, browser, exchange.consumer or "",
            exchange.record.client or exchange.record.peer, fault_of_page(exchange, host),
        )
        LocalResponse(exchange).begin(exchange.gateway.admin, request)
        return WAIT
    if route.action == "sessions":
        return answer_document(exchange, resume)
    raise ExchangeError("not_in_force", route.name)


def begin_turn(turn: Exchange) -> None:
    """Run a turn of a WebSocket session through the phases."""
    turn.gateway.begin(turn)


def read_body(exchange: Exchange) -> Step:
    """Read the part of the body that target selection needs: the whole, or a form up to its model."""
    body, route = exchange.body, exchange.route
    if route is None or route.resilience is None:
        return None
    head, decides = exchange.head, model_decides(route.resilience, exchange.identity)
    if body.data is None:
        if body.present and body.probe is None and needs_buffering(route.resilience, head, decides):
            if decides:
                require_readable(head)
            body.start_buffering(
                route.body_limit, partial(resume, exchange), exchange, head.length,
                form_finder(head, refuses=decides) or BodyInspection(exchange, route if decides else None),
            )
            return WAIT
    elif len(body.data) > PARSED_BYTES and not is_form(head) and not is_inspected(
        exchange, route if decides else None, partial(resume, exchange)
    ):
        return WAIT
    if head.model is None and body.probe is not None and (form := form_of(exchange)) is not None:
        if decides and body.whole:
            head.model = deciding_model(head, body.data, None, form)
        else:
            head.model = agreed_model(head, form.model or "") if decides else form.model or ""
    return None


def needs_buffering(resilience: Resilience, head: RequestHead, decides: bool) -> bool:
    """True if the body is read before target selection: if it decides, or for a dialect unless it is a file."""
    if resilience.needs_body or decides or resilience.dialect is None:
        return resilience.needs_body or decides
    kind = (head.get(b"content-type") or b"").lower()
    return not kind.startswith((b"multipart/", b"audio/", b"image/", b"video/", b"application/octet-stream"))


def select(exchange: Exchange) -> Step:
    """Select the targets in their order, or answer from relayd's own data."""
    return select_target.select(exchange, resume)


def reserve(exchange: Exchange) -> Step:
    """Reserve what the request may use of rates and budgets, or wait for room."""
    return reserve_limits(exchange, resume)


def use_cache(exchange: Exchange) -> Step:
    """Answer from the cache of the route, if it has one."""
    policy = exchange.route.cache  # type: ignore[union-attr]  # `match` has found the route
    return None if policy is None else answer_from_cache(exchange, policy, resume)


PHASES: tuple[Phase, ...] = (
    accept,  # the request gets its id; challenges and requests that end at this hop are answered
    match,  # the route determines all further phases; a rule on models may read the body
    cors,  # a preflight has no key, so it precedes authorise
    authorise,  # no work for a consumer that the route does not allow
    admit,  # no body is read that relayd has no capacity for
    use_session,  # the session may be the answer, and selects the endpoint
    answer_locally,  # redirects, fixed responses, session documents, the admin application, WebSocket sessions
    read_body,  # the model, a form field or a stored conversation may select the target
    select,  # the targets in their order, or a local response (model list, stored response)
    reserve,  # rates and budgets of consumer, group and route; nothing is sent without room
    use_cache,  # a hit has passed all of the above, and costs the upstream nothing
    mirror.send_copies,  # a copy is never queued and takes no permit of the route
    forward.begin,  # permits of the target, attempt, retry, fallback
)
