"""The phase that answers a request from the cache of its route, and the storing of answers.

1. It stands behind authorisation, model permissions, and the rates and budgets of consumer, group and route: a hit has
   passed what a request has to pass. It stands before everything that costs the upstream something.
2. A hit is charged one request, no tokens and no money (proxy/charge).
3. The key is a digest of everything that may change the answer: party, dialect, path, fields of the dialect and of
   `vary`, edits of the route, upstream and its `dialect`, model, and the canonical form of the body; a body above
   CANONICAL_BYTES counts byte for byte. Requests for a stream and for a plain answer differ. Equal requests that arrive
   at the same time are not combined.
4. The store never fails a request: without it, there is no cache.
5. An answer is checked and stored in steps after its exchange has ended.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from relayd import clock
from relayd.dataclass import dataclass
from relayd.errors import ExchangeError
from relayd.money import amount_text
from relayd.plan.plan import CachePolicy, PlannedRoute
from relayd.protocols.cacheable import CacheRules, is_deterministic
from relayd.protocols.dialect import Dialect
from relayd.proxy.account import more_of
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.cache_use import SPACE, CacheUse, Reason, Stored
from relayd.proxy.cached_answer import CachedAnswer, from_json, is_complete_steps, to_json
from relayd.proxy.cached_replay import CachedReplay
from relayd.proxy.exchange import Exchange
from relayd.proxy.filters.cost_field import FIELD as COST_FIELD
from relayd.proxy.ports import GatewayPort
from relayd.proxy.respond import WAIT, Wait
from relayd.proxy.steps import Work
from relayd.proxy.upstream_request import has_client_key, strips_client_keys
from relayd.stores._space import Space
from relayd.telemetry.outcome import Record
from relayd.wire.cache_control import hit_lines, parse_cache_control
from relayd.wire.canonical_json import NoCanonicalForm, canonical, parsed
from relayd.wire.json_steps import Steps, parse_steps
from relayd.wire.response import ResponseHead

CANONICAL_BYTES = 64 * 1024
KEY_CHARS = 32
_HASHED_AT_ONCE = 256 * 1024


def answer_from_cache(
    exchange: Exchange, policy: CachePolicy, resume: Callable[[Exchange], None]
) -> Wait | None:
    """Answer from the cache if it has the answer. Raises ExchangeError if the client wants no other one.

    With a result of WAIT, the answer is sent, or `resume` is called later.
    """
    ai_request, route = exchange.ai_request, exchange.route
    assert route is not None
    if ai_request is None or not ai_request.is_translatable or ai_request.is_socket:
        return None
    rules = ai_request.dialect.cache_rules
    if rules is None or not rules.generates(exchange.head.path):
        return None
    use = ai_request.cache_use
    if use is None:
        use = ai_request.cache_use = make_use(exchange, policy)
        lookup = Lookup(exchange.gateway.space(SPACE + route.name, policy.ttl_s, policy.size_bytes))
        use.reason = obstacle_of_head(exchange, route, use)
        if not use.reason and not exchange.work(
            lookup.steps(exchange, ai_request, rules, use), partial(answer_found, exchange, use, lookup, resume)
        ):
            return WAIT
        return settle(exchange, ai_request, route, use, lookup)
    return None


def answer_found(
    exchange: Exchange, use: CacheUse, lookup: Lookup, resume: Callable[[Exchange], None]
) -> None:
    """The store has replied: answer, or go on with the request. Raises ExchangeError."""
    ai_request, route = exchange.ai_request, exchange.route
    if ai_request is not None and route is not None and settle(exchange, ai_request, route, use, lookup) is None:
        resume(exchange)


def make_use(exchange: Exchange, policy: CachePolicy) -> CacheUse:
    """The use of the cache by a request, as far as its head decides it."""
    assert exchange.retry_loop is not None
    control = parse_cache_control(exchange.head.get_all(b"cache-control"))
    party = "" if policy.shared else exchange.consumer or f"@{exchange.record.client}"
    return CacheUse(policy, control, party, exchange.retry_loop.target)


def obstacle_of_head(exchange: Exchange, route: PlannedRoute, use: CacheUse) -> Reason:
    """Why the head of the request, or its body as a whole, excludes the cache; empty if it does not."""
    if use.control.no_store:
        return "no_store"
    spec = use.target.upstream.spec
    if not strips_client_keys(route, spec, exchange.plan.consumers.is_used) and has_client_key(exchange.head):
        return "client_key"  # the upstream decides if it is valid
    json_body = None if exchange.ai_request is None else exchange.ai_request.json_body
    if json_body is None or json_body.refusal_reason or None in json_body.spans.values():
        return "unclear"
    return ""


class Lookup:
    """One request's look into the cache; `found` is the answer, if it has a fresh one that the client accepts."""

    __slots__ = ("found", "space")

    def __init__(self, space: Space) -> None:
        self.space = space
        self.found: CachedAnswer | None = None

    def steps(self, exchange: Exchange, ai_request: AiRequest, rules: CacheRules, use: CacheUse) -> Steps[None]:
        """Read the request, make its key, and look it up."""
        try:
            members, body = yield from _content_steps(ai_request)
        except ValueError:
            use.reason = "unclear"
            return
        use.reason = _obstacle(rules, members, use)
        if use.reason:
            return
        digest = hashlib.sha256(_circumstances(exchange, ai_request, rules, use))
        for start in range(0, len(body), _HASHED_AT_ONCE):
            digest.update(body[start : start + _HASHED_AT_ONCE])
            yield
        use.key, use.result = digest.hexdigest()[:KEY_CHARS], "miss"
        if not use.control.no_cache:
            yield from self._find_steps(use)

    def _find_steps(self, use: CacheUse) -> Steps[None]:
        try:
            found = from_json((yield from self.space.get_steps(use.entry_key)))
        except ExchangeError:  # `on_failure: closed`
            return
        if found is None:
            return
        since_s, ttl_s = clock.wall() - found.stored_s, use.policy.ttl_s
        age_s = max(0.0, since_s)
        left_s = ttl_s - age_s
        if left_s <= 0 or since_s < -ttl_s:  # stored in the future: the clock was set back
            use.forwarded = "stale"
            self.space.delete(use.entry_key)
        elif use.control.accepts(age_s, left_s):
            self.found, use.result = found, "hit"
        else:
            use.forwarded = "request"


def _obstacle(rules: CacheRules, members: dict[str, Any], use: CacheUse) -> Reason:
    if found := rules.obstacle(members, shared=use.policy.shared):
        return found
    when = use.policy.when
    asked = when == "always" or use.control.asks or (when == "deterministic" and is_deterministic(members))
    return "" if asked else "not_deterministic"


def _content_steps(ai_request: AiRequest) -> Steps[tuple[dict[str, Any], bytes]]:
    """The members of the body, and the bytes that stand for it in the key. Raises ValueError."""
    body, json_body = ai_request.body, ai_request.json_body
    if body is None or json_body is None:
        raise NoCanonicalForm("no body")
    if len(body) <= CANONICAL_BYTES:
        members = parsed(body)
        yield
        return members, b"canonical " + canonical(members)
    if json_body.scanner is not None:
        members = yield from parse_steps(json_body)
    else:
        members = json_body.value if json_body.value is not None else parsed(body)
        yield
    return members, body


def _circumstances(exchange: Exchange, ai_request: AiRequest, rules: CacheRules, use: CacheUse) -> bytes:
    """Everything except the body that may change the answer, as text that is different if any of it is."""
    head, target = exchange.head, use.target
    fields = [
        [name.decode("latin-1"), *(value.decode("latin-1") for value in head.get_all(name))]
        for name in (*rules.fields, *use.policy.vary)
    ]
    return json.dumps([
        use.policy.version, use.party, ai_request.dialect.name, head.path.decode("latin-1"),
        head.query.decode("latin-1"), target.upstream.name, target.upstream.spec.protocol,
        repr(target.upstream.spec.dialect), target.model, fields,
    ]).encode() + b"\n"  # fmt: skip


def settle(
    exchange: Exchange, ai_request: AiRequest, route: PlannedRoute, use: CacheUse, lookup: Lookup
) -> Wait | None:
    """Send the answer that was found. Otherwise prepare the recording of the endpoint's. Raises ExchangeError."""
    found, gateway, record = lookup.found, exchange.gateway, exchange.record
    exchange.cancel_timer = None
    if found is not None and not gateway.buffers.has_capacity(len(found.body)):
        found, use.result, use.reason = None, "bypass", "memory"
    gateway.cache_counts.used(route.name, use.result)
    use.record(record)
    if found is not None:
        send(exchange, route, use, found)
        return WAIT
    if use.control.only_if_cached:
        raise ExchangeError("not_cached")
    if use.result == "miss":
        keeping = Keeping(
            gateway, lookup.space, use.entry_key, ai_request.dialect, ai_request.stream, record, route.name
        )
        use.on_complete, use.on_dropped = keeping.begin, keeping.count
    return None


def send(exchange: Exchange, route: PlannedRoute, use: CacheUse, found: CachedAnswer) -> None:
    """Replay an answer."""
    age_s = max(0.0, clock.wall() - found.stored_s)
    head = ResponseHead(200, b"")
    head.keep = [f"Content-Type: {found.content_type}\r\n".encode("latin-1")]
    if found.is_stream:
        head.keep += b"Cache-Control: no-cache\r\n", b"X-Accel-Buffering: no\r\n"
    else:
        head.length = len(found.body)
    if exchange.charge is not None:
        exchange.charge.from_cache = True
    exchange.annotate_head(head, None)
    head.keep = [line for line in head.keep if not line.startswith(b"X-Relayd-Attempts:")]  # there were none
    head.keep += hit_lines(use.key, age_s, max(0.0, use.policy.ttl_s - age_s))
    if route.config.tells_cost and exchange.plan.prices is not None:
        head.keep.append(f"{COST_FIELD}: 0 {exchange.plan.prices.currency}\r\n".encode())
    record_saving(exchange, route, use, found, age_s)
    CachedReplay(exchange, found).begin(head)


def record_saving(exchange: Exchange, route: PlannedRoute, use: CacheUse, found: CachedAnswer, age_s: float) -> None:
    """Record the age of the answer, and what the first one has cost by today's prices."""
    more, usage, prices, ai_request = more_of(exchange.record), found.usage, exchange.plan.prices, exchange.ai_request
    more["cache_age_s"] = round(age_s, 3)
    if usage is None:
        return
    more["saved_input"], more["saved_output"] = usage.input, usage.output
    cost_nano = 0
    if prices is not None and ai_request is not None:
        name = ai_request.model
        price = prices.price(use.target.upstream.name, use.target.model or name, name)
        if price is not None:
            cost_nano = price.cost(usage)
            more["saved_cost"] = f"{amount_text(cost_nano)} {prices.currency}"
    exchange.gateway.cache_counts.saved(route.name, usage.input, usage.output, cost_nano)


# ---- storing


@dataclass(frozen=True, slots=True)
class Keeping:
    """What the storing of an answer needs after its exchange. `record` has the tokens by then."""

    gateway: GatewayPort
    space: Space
    entry_key: str
    dialect: Dialect
    stream: bool
    record: Record
    route: str

    def count(self, result: Stored) -> None:
        """Count how the recording ended."""
        self.gateway.cache_counts.recorded(self.route, result)

    def begin(self, sizes: Sequence[int], body: bytes, content_type: str) -> None:
        """Check and store a complete answer, in later turns of the loop."""
        Work(self._steps(tuple(sizes), body, content_type), self.gateway.call_later, _nothing).defer()

    def _steps(self, sizes: tuple[int, ...], body: bytes, content_type: str) -> Steps[None]:
        if not (yield from is_complete_steps(self.dialect, body, self.stream)):
            self.count("incomplete")
            return
        more = self.record.more or {}
        model = str(more.get("model_served") or more.get("model_there") or more.get("model") or "")
        found = CachedAnswer(clock.wall(), content_type, sizes, body, self.record.usage, model)
        yield from self.space.put_steps(self.entry_key, to_json(found))
        self.count("refused" if self.space.lost(self.entry_key) else "stored")


def _nothing() -> None:
    """Nothing waits for the storing."""
