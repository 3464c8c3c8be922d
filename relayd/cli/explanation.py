"""Explains how relayd would handle a hypothetical request, as plain data.

1. The data path itself makes the decisions, in a dry run (proxy/dry_run.py).
2. The result contains no key: keys of upstreams are replaced before the request is built, fields and parameters of the
   client are masked by name.
"""

from __future__ import annotations

from typing import Any

from relayd.access.identity import Identity
from relayd.config.address import parse_listen
from relayd.config.listener import Listener
from relayd.dataclass import dataclass
from relayd.errors import ExchangeError
from relayd.plan.diff import looks_secret
from relayd.plan.plan import Plan, PlannedRoute, Target
from relayd.proxy.dry_run import DryRun, Sent, dry_run
from relayd.proxy.request_model import is_form, probable_model
from relayd.routing.explain import explain
from relayd.schema.units import format_duration
from relayd.upstream.discovered import url_parts
from relayd.upstream.spec import AuthSpec, EndpointSpec, UpstreamSpec
from relayd.wire.body import inspect_json
from relayd.wire.forwarded import Networks
from relayd.wire.headers import name_of
from relayd.wire.http1 import RequestHead
from relayd.wire.redact import mask_fields, mask_path, mask_query

_FRAMING = (b"content-length", b"transfer-encoding")  # rebuilt for each side, shown as `body`


@dataclass(frozen=True, slots=True)
class HypotheticalRequest:
    """A request that is not sent. `scheme`: http, https, or empty if only a path was given."""

    head: RequestHead
    scheme: str
    peer: str
    body: bytes | None = None


def explanation(plan: Plan, request: HypotheticalRequest) -> dict[str, Any]:
    """The decision of each listener and route, relayd's own response (`answer`) and the upstream request (`sent`)."""
    head, config = request.head, plan.config
    body = request.body or None
    head.model = probable_model(head, body, None if body is None or is_form(head) else inspect_json(body))
    listeners = {name: _listener(one, request) for name, one in config.listeners.items()}
    path, shown = _text(head.path), mask_path(_text(head.path))
    result: dict[str, Any] = {
        "request": {
            "method": _text(head.method), "scheme": request.scheme, "host": _text(head.authority),
            "target": shown + _query(plan, head.query),
        },
        "listeners": [
            {"name": name, "address": config.listeners[name].address, "takes": takes, "why": why}
            for name, (takes, why) in listeners.items()
        ],
        "routes": [
            {
                "name": one.route.name, "outcome": one.outcome, "condition": one.condition,
                "reason": one.reason.replace(path, shown),
            }
            for one in explain(plan.table, head)
        ],
        "route": None, "consumer": None, "cache": None, "answer": None, "sent": None,
    }
    accepting = next((config.listeners[name] for name, (takes, _) in listeners.items() if takes), None)
    networks = Networks(() if accepting is None else accepting.trusted_proxies)
    probable, head.model = head.model, None  # determined again, by the rules of real requests
    run = dry_run(plan, head, request.body, request.peer, networks, request.scheme == "https")
    head.model = run.model or probable
    if run.answer is not None:
        result["answer"] = {"status": run.answer.status, "code": run.answer.code, "why": run.answer.why}
        if run.answer.code == "ambiguous_path":
            result["answer"]["why"] = _other_reading(plan, head) or run.answer.why
    route = run.route
    if route is None:
        return result
    result["route"] = route.name
    if route.allow is not None or run.identity is not None:
        result["consumer"] = _consumer(route, run.identity)
    if route.cache is not None:
        result["cache"] = _cache(run)
    if run.sent is not None:
        result["sent"] = _sent(run, run.sent, route, request)
    return result


def _cache(run: DryRun) -> dict[str, Any]:
    """Whether the request is looked up in the cache of the route, under which key, and why not."""
    use = run.cache_use
    if use is None:
        return {"used": False, "reason": "other_request", "key": None}
    return {"used": use.result != "bypass", "reason": use.reason or None, "key": use.key or None}


def _consumer(route: PlannedRoute, identity: Identity | None) -> dict[str, Any]:
    """The consumers that the route allows, and the consumer of the request with its restrictions."""
    found: dict[str, Any] = {"allowed": sorted(route.allow or ()), "known": None}
    if identity is not None:
        found |= {
            "known": identity.name, "group": identity.group or None,
            "routes": None if identity.routes is None else sorted(identity.routes),
            "models": None if identity.models is None else list(identity.models),
        }
    return found


def _listener(listener: Listener, request: HypotheticalRequest) -> tuple[bool, str]:
    """True if a client with this URL reaches this listener, and the reason."""
    if not request.scheme:
        return True, "accepts it, like every listener: only a path was given"
    address = parse_listen(listener.address)
    if (request.scheme == "https") != (listener.tls is not None):
        return False, f"speaks {'plain HTTP' if listener.tls is None else 'TLS'}, the URL does not"
    if address.kind == "unix":
        return True, "accepts it from a client that connects to this socket"
    if address.kind == "systemd":
        return True, "accepts it if systemd's socket has the URL's port"
    authority = request.head.authority.decode("latin-1")
    _, colon, written = authority.rpartition(":")
    port = int(written) if colon and written.isdigit() else {"http": 80, "https": 443}[request.scheme]
    if port != address.port:
        return False, f"has another port than the URL's {port}"
    return True, "accepts it"


def _other_reading(plan: Plan, head: RequestHead) -> str:
    """The interpretation of the path that reaches another route; empty if none does, or if there are too many."""
    try:
        route = plan.table.match(head)
        reading = plan.table.contradiction(head, route, route is not None and route.rewrites_path)
    except ExchangeError:
        return ""
    if reading is None:
        return ""
    other, shown = plan.table.match(head, reading), mask_path(_text(reading))
    if other is route:
        return f"read as {shown} the path would leave the folder to which its route maps it"
    return f"read as {shown} the path would reach " + ("no route" if other is None else f"route {other.name}")


def _sent(run: DryRun, sent: Sent, route: PlannedRoute, request: HypotheticalRequest) -> dict[str, Any]:
    """The upstream request, as sent to the first endpoint."""
    head, target, limits = request.head, sent.target, run.timeouts
    spec = target.upstream.spec
    # The transport's notation: `Name:` suppresses a field of libcurl, `Name;` is a field with an empty value.
    fields = [line[:-1] + b":" if line.endswith(b";") and b":" not in line else line
              for line in sent.fields if not line.endswith(b":")]
    received = set(head.lines)
    dialect = None if route.resilience is None else route.resilience.dialect
    return {
        "upstream": spec.name, "protocol": spec.protocol, "http": "2" if spec.http2 else "1.1",
        "endpoints": [_endpoint(one.spec, spec) for one in target.upstream.endpoints],
        "translated": f"from {dialect.name} to {spec.protocol}" if sent.translated and dialect is not None else "",
        "model": None if not run.model else {"asked": run.model, "there": target.model or run.model},
        "then": [_fallback(one) for one in run.targets[1:]],
        "target": _target(sent.wire_target, spec),
        "fields": _masked(fields),
        "added": _masked([line for line in fields if line not in received]),
        "removed": _masked([line for line in head.lines if line not in fields and name_of(line) not in _FRAMING]),
        "body": _body(sent),
        "key": None if spec.auth is None else f"{_key_location(spec.auth)}, from {spec.auth.value.source}",
        "warning": "" if spec.tls.verify else "the endpoint's certificate is not verified",
        "timeouts": {
            name: format_duration(seconds) if seconds else "off"
            for name, seconds in (
                ("connect", limits.connect_s), ("first_byte", limits.first_byte_s), ("idle", limits.idle_s),
                ("total", limits.total_s),
            )
        },
    }


def _endpoint(endpoint: EndpointSpec, upstream: UpstreamSpec) -> str:
    """Scheme and address of an endpoint."""
    if upstream.discovery is not None and url_parts(upstream.discovery) is None:
        return f"{endpoint.label}, with its own scheme and path"
    return f"{'https' if endpoint.tls else 'http'} {endpoint.label}"


def _body(sent: Sent) -> str:
    if sent.length is None:
        return "none"
    if sent.length < 0:
        return "chunked, as it arrives"
    return f"{sent.length} bytes, translated" if sent.translated else f"{sent.length} bytes (Content-Length)"


def _fallback(target: Target) -> str:
    """A fallback as text."""
    model = f" as {target.model}" if target.model else ""
    return f"{target.upstream.name}{model}, for {', '.join(sorted(target.on)) or 'nothing'}"


def _key_location(auth: AuthSpec) -> str:
    return {"bearer": "Authorization: Bearer", "header": f"field {auth.name}"}.get(auth.kind, f"parameter {auth.name}")


def _target(target: bytes, spec: UpstreamSpec) -> str:
    path, mark, query = target.partition(b"?")
    extra = {spec.auth.name.lower().replace("-", "_")} if spec.auth is not None and spec.auth.kind == "query" else set()
    return mask_path(_text(path)) + mask_query(_text(mark + query), extra)


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


