"""What would become of a request that is only imagined, as plain values for people and programs.

1. The decisions are made by the rooms of the data path, not by a second opinion.
2. No key is ever in it: the upstream's is replaced before the request is built, the client's are masked by their
   names.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, cast

from relayd.access.cors import preflight
from relayd.config.address import parse_listen
from relayd.config.listener import Listener
from relayd.errors import ExchangeError
from relayd.plan.diff import looks_secret
from relayd.plan.plan import Plan, PlannedRoute, Target, merged_timeouts
from relayd.protocols.dialect import Refused
from relayd.proxy import pipeline
from relayd.proxy.call import Call, ask_of, model_in_body, model_in_path
from relayd.proxy.choose import by_model
from relayd.proxy.crossing import crossing_fields, crossing_target
from relayd.proxy.downstream import Downstream
from relayd.proxy.exchange import Exchange
from relayd.proxy.outgoing import fields_of, forwarding_of, request_id_of, strips_keys, target_of
from relayd.proxy.respond import redirect_answer
from relayd.routing.explain import explain
from relayd.schema import Secret
from relayd.schema.units import format_duration, format_size
from relayd.telemetry.outcome import Record
from relayd.upstream.spec import AuthSpec, UpstreamSpec
from relayd.wire.forwarded import TrustedNetworks
from relayd.wire.headers import name_of
from relayd.wire.http1 import RequestHead
from relayd.wire.redact import mask_fields, mask_query

_FRAMING = (b"content-length", b"transfer-encoding")  # rebuilt for each side, told as `body`
_MINTED = b"(made for each request)"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request in mind. `scheme` is http, https or empty when only a path was given."""

    head: RequestHead
    scheme: str
    peer: str
    body: bytes | None = None


@dataclass(slots=True)
class _Client:
    """As much of a client connection as outgoing fields are made of."""

    peer: str
    trusted: bool
    networks: TrustedNetworks
    tls: bool
    listener: str = ""
    forwarding_cache: tuple[object, bytes, list[bytes]] | None = None
    socket_memory: None = None


@dataclass(slots=True)
class _Imagined:
    """As much of an exchange as the rooms match and authorise look at."""

    head: RequestHead
    plan: Plan
    phase: str = ""
    route: PlannedRoute | None = None
    consumer: str | None = None
    record: Record = field(default_factory=Record)


def explanation(plan: Plan, asked: Asked) -> dict[str, Any]:
    """What each listener and each route says, what relayd answers itself (`answer`) and what it sends on (`sent`)."""
    head, config = asked.head, plan.config
    head.model = model_in_path(head.path) or (model_in_body(head, asked.body) if asked.body else None) or ""
    listeners = {name: _listener(one, asked) for name, one in config.listeners.items()}
    told: dict[str, Any] = {
        "request": {
            "method": _text(head.method), "scheme": asked.scheme, "host": _text(head.authority),
            "target": _text(head.path) + _query(plan, head.query),
        },
        "listeners": [
            {"name": name, "address": config.listeners[name].address, "takes": takes, "why": why}
            for name, (takes, why) in listeners.items()
        ],
        "routes": [
            {"name": one.route.name, "outcome": one.outcome, "condition": one.condition, "reason": one.reason}
            for one in explain(plan.table, head)
        ],
        "route": None, "consumer": None, "answer": None, "sent": None,
    }
    imagined = _Imagined(head, plan)
    exchange = cast(Exchange, imagined)  # these two rooms read nothing else of it
    try:
        route = pipeline.match(exchange)
    except ExchangeError as refused:
        told["answer"] = _refusal(refused)
        if refused.kind.code == "ambiguous_path":
            told["answer"]["why"] = _other_reading(plan, head) or refused.detail
        return told
    told["route"] = route.name
    taken = next((config.listeners[name] for name, (takes, _) in listeners.items() if takes), None)
    client = _client(taken, asked)
    answers = [_preflight(route, head)]
    if answers == [None]:
        try:
            pipeline.authorise(exchange, route.allow)
        except ExchangeError as refused:
            answers.append(_refusal(refused))
        known = imagined.record.consumer or None
        if route.allow is not None or known is not None:
            told["consumer"] = {"allowed": sorted(route.allow or ()), "known": known}
        answers.append(_local(route, asked))
        if route.action == "proxy":
            try:
                told["sent"] = _sent(plan, route, asked, client, known)
            except ExchangeError as refused:
                answers.append(_refusal(refused))
            except Refused as refused:
                answers.append({"status": refused.status, "code": refused.code or "bad_body", "why": refused.message})
    told["answer"] = next((one for one in answers if one is not None), None)  # the first room that refuses
    return told


def _listener(listener: Listener, asked: Asked) -> tuple[bool, str]:
    """Whether a client that writes this URL arrives at this listener."""
    if not asked.scheme:
        return True, "takes it, like every listener: only a path was given"
    address = parse_listen(listener.address)
    if (asked.scheme == "https") != (listener.tls is not None):
        return False, f"speaks {'plain HTTP' if listener.tls is None else 'TLS'}, the URL does not"
    if address.kind == "unix":
        return True, "takes it from a client that connects to this socket"
    if address.kind == "systemd":
        return True, "takes it if systemd's socket has the URL's port"
    authority = asked.head.authority.decode("latin-1")
    _, colon, written = authority.rpartition(":")
    port = int(written) if colon and written.isdigit() else {"http": 80, "https": 443}[asked.scheme]
    if port != address.port:
        return False, f"has another port than the URL's {port}"
    return True, "takes it"


def _client(listener: Listener | None, asked: Asked) -> Downstream:
    networks = TrustedNetworks(() if listener is None else listener.trusted_proxies)
    made = _Client(asked.peer, networks.contains(asked.peer), networks, asked.scheme == "https")
    return cast(Downstream, made)  # nothing is ever written to it


def _refusal(refused: ExchangeError) -> dict[str, Any]:
    return {"status": refused.kind.status, "code": refused.kind.code, "why": refused.detail or refused.kind.message}


def _other_reading(plan: Plan, head: RequestHead) -> str:
    """Which reading of the path reaches another route; empty where there is none, or where they are too many."""
    try:
        route = plan.table.match(head)
        reading = plan.table.contradiction(head, route, route is not None and route.moves_path)
    except ExchangeError:
        return ""
    if reading is None:
        return ""
    other = plan.table.match_as(head, reading)
    if other is route:
        return f"read as {_text(reading)} the path would climb out of where its route puts it"
    return f"read as {_text(reading)} the path would reach " + ("no route" if other is None else f"route {other.name}")


def _preflight(route: PlannedRoute, head: RequestHead) -> dict[str, Any] | None:
    origin, method = head.get(b"origin"), head.get(b"access-control-request-method")
    if route.cors is None or head.method != b"OPTIONS" or origin is None or method is None:
        return None
    names = head.get(b"access-control-request-headers") or b""
    granted = preflight(route.cors, _text(origin), _text(method), _text(names))
    why = "a CORS preflight that is " + ("not granted" if granted is None else "granted")
    return {"status": 403 if granted is None else 204, "code": "", "why": why}


def _local(route: PlannedRoute, asked: Asked) -> dict[str, Any] | None:
    """What a route that ends in relayd answers, or the refusal of a body that is too large."""
    length = asked.head.length
    if length is not None and route.body_limit and length > route.body_limit:
        why = f"{length} bytes; this route takes {format_size(route.body_limit)}"
        return {"status": 413, "code": "body_too_large", "why": why}
    if route.action == "redirect":
        try:
            answer = redirect_answer(route, asked.head, asked.scheme or "http").response
        except ExchangeError as refused:
            return _refusal(refused)
        location = next((line for line in answer.keep if line.lower().startswith(b"location:")), b"")
        return {"status": answer.status, "code": "", "why": f"a redirect, {_text(location.strip())}"}
    if route.action == "respond" and route.respond is not None:
        return {"status": route.respond.status, "code": "", "why": "a fixed response"}
    if route.action == "admin":
        return {"status": 200, "code": "", "why": "a page of the admin application"}
    if route.action == "unavailable":
        return _refusal(ExchangeError("not_in_force", "needs a part of relayd that is not in force yet"))
    return None


def _targets(plan: Plan, route: PlannedRoute, asked: Asked) -> tuple[Target, ...]:
    """Where the request goes, and where it would go then. Raises Refused."""
    resilience = route.resilience
    if resilience is None or not (resilience.by_model or resilience.split):
        assert route.upstream is not None
        return (Target(route.upstream),)
    if resilience.by_model:
        return (*by_model(plan, asked.head.model or ""), *resilience.fallbacks)
    return (resilience.split[0][1], *resilience.fallbacks)


def _sent(plan: Plan, route: PlannedRoute, asked: Asked, client: Downstream, known: str | None) -> dict[str, Any]:
    """The request as it leaves, for the first endpoint. Raises ExchangeError and Refused where the data path would."""
    head = asked.head
    targets = _targets(plan, route, asked)
    first = targets[0]
    spec = _without_key(first.upstream.spec)
    endpoint = first.upstream.endpoints[0]
    _, forwarding = forwarding_of(plan.house, client, head)
    request_id = request_id_of(plan.house, client, head) or _MINTED
    strip = strips_keys(route, spec, known)
    dialect = None if route.resilience is None else route.resilience.dialect
    call = None
    if dialect is not None:
        call = Call(dialect, head, asked.body, lambda: ask_of(head, request_id, _Nothing(), b""))
    crosses = call is not None and call.crosses(first)
    body = "none"
    if head.has_body:
        body = "chunked, as it arrives" if head.length is None else f"{head.length} bytes (Content-Length)"
    if crosses and call is not None:
        request, sending = call.sending(first)
        lines = crossing_fields(
            route, plan.house, endpoint, spec, head, forwarding, request_id, sending, spec.auth, request.stream
        )
        wire, body = crossing_target(sending, endpoint, spec, spec.auth), f"{len(sending.body)} bytes, translated"
    else:
        lines = fields_of(route, plan.house, endpoint, spec, head, forwarding, request_id, strip, plan.key_fields)
        wire = target_of(route, endpoint, spec, head)
    # The transport's marks: `Name:` keeps libcurl from inventing a field, `Name;` is a field without a value.
    fields = [line[:-1] + b":" if line.endswith(b";") and b":" not in line else line
              for line in lines if not line.endswith(b":")]
    came = set(head.lines)
    limits = merged_timeouts(route.config.timeouts, spec.timeouts)
    return {
        "upstream": spec.name, "protocol": spec.protocol, "http": "2" if spec.http2 else "1.1",
        "endpoints": [f"{'https' if one.spec.tls else 'http'} {one.label}" for one in first.upstream.endpoints],
        "translated": f"from {dialect.name} to {spec.protocol}" if crosses and dialect is not None else "",
        "model": None if not head.model else {"asked": head.model, "there": first.model or head.model},
        "then": [_then(target) for target in targets[1:]],
        "target": _target(wire, spec),
        "fields": _masked(fields),
        "added": _masked([line for line in fields if line not in came]),
        "removed": _masked([line for line in head.lines if line not in fields and name_of(line) not in _FRAMING]),
        "body": body,
        "key": None if spec.auth is None else f"{_where(spec.auth)}, from {spec.auth.value.source}",
        "warning": "" if spec.tls.verify else "the endpoint's certificate is not verified",
        "timeouts": {
            name: format_duration(seconds) if seconds else "off"
            for name, seconds in (
                ("connect", limits.connect_s), ("first_byte", limits.first_byte_s), ("idle", limits.idle_s),
                ("total", limits.total_s),
            )
        },
    }


def _then(target: Target) -> str:
    """A fallback in words."""
    model = f" as {target.model}" if target.model else ""
    return f"{target.upstream.name}{model}, for {', '.join(sorted(target.on)) or 'nothing'}"


class _Nothing:
    """A memory that has nothing: what is explained is kept nowhere."""

    def get(self, key: str) -> None:
        return None

    def put(self, key: str, value: object) -> None:
        pass

    def delete(self, key: str) -> bool:
        return False


def _without_key(spec: UpstreamSpec) -> UpstreamSpec:
    if spec.auth is None:
        return spec
    hidden = AuthSpec(spec.auth.kind, spec.auth.name, Secret("masked", spec.auth.value.source))
    return dataclasses.replace(spec, auth=hidden)


def _where(auth: AuthSpec) -> str:
    return {"bearer": "Authorization: Bearer", "header": f"field {auth.name}"}.get(auth.kind, f"parameter {auth.name}")


def _target(target: bytes, spec: UpstreamSpec) -> str:
    path, mark, query = target.partition(b"?")
    extra = {spec.auth.name.lower().replace("-", "_")} if spec.auth is not None and spec.auth.kind == "query" else set()
    return _text(path) + mask_query(_text(mark + query), extra)


def _query(plan: Plan, query: bytes) -> str:
    names = {
        upstream.spec.auth.name.lower().replace("-", "_")
        for upstream in plan.upstreams.values() if upstream.spec.auth is not None
    }
    return mask_query(_text(query), names)


def _masked(lines: list[bytes]) -> list[str]:
    secret = {_text(name_of(line)) for line in lines if looks_secret(_text(name_of(line)))}
    return [_text(line) for line in mask_fields(lines, secret)]


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


