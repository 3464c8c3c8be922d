"""Compiles the configuration into the plan: every decision that needs no request is made here.

1. Compiling has no side effects and opens nothing; the plan can be discarded. A reload compiles in a thread.
2. All faults are collected before ConfigError is raised.
3. A route that cannot be served yet answers with an error. It is not left out, because its requests would then match
   the next route, and it is never partly served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from relayd import clock
from relayd.access.credential import USUAL_KEY_FIELDS
from relayd.access.key_store import KeyStore
from relayd.config.https import redirect_port
from relayd.config.model import AddedHeaders, Config
from relayd.config.route import Route
from relayd.errors import ConfigError, Finding
from relayd.limits.gates import Gates
from relayd.limits.ledger import Ledger
from relayd.plan.caches import cache_policy
from relayd.plan.consumers import compile_consumers
from relayd.plan.gates import gate_limits
from relayd.plan.identities import Identities
from relayd.plan.plan import HeaderNames, Plan, PlannedRoute, merged_timeouts
from relayd.plan.prices import prices_of
from relayd.plan.rates import limit_sets
from relayd.plan.resilience import Parts, dialects_of, model_table, model_targets, resilience_of
from relayd.plan.rewriting import Rewriting, field_edits, rewriting
from relayd.plan.specs import upstream_spec
from relayd.protocols import registry
from relayd.routing.matchers import Matcher, matcher
from relayd.routing.table import Table
from relayd.upstream.spec import Timeouts, UpstreamSpec
from relayd.upstream.upstream import Upstream
from relayd.wire.headers import FORWARDING

T = TypeVar("T")
_USUAL_RESPONSE_FIELDS = frozenset({b"x-process-time", b"x-proxy-by"})
NO_BUILT_INS: Mapping[str, UpstreamSpec] = MappingProxyType({})


class _Faults:
    """Collects faults; owned by one compilation."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def collect(self, path: str, make: Callable[[], T], otherwise: T) -> T:
        """The result of `make`. If it raises ValueError, the fault is collected under `path` and `otherwise`
        returned."""
        try:
            return make()
        except ValueError as error:
            self.found.append((path, str(error)))
            return otherwise


def compile_plan(
    config: Config,
    generation: int,
    previous: Plan | None = None,
    *,
    builtin: Mapping[str, UpstreamSpec] = NO_BUILT_INS,
    gates: Gates | None = None,
    keys: KeyStore | None = None,
    ledger: Ledger | None = None,
) -> Plan:
    """The plan of a configuration.

    Live upstreams of `previous` are shared if only their endpoints differ. `builtin` holds the specs of built-in
    upstreams such as `demo`, used if a route names them; their paths are not changed. `gates` and `ledger` are those of
    the process, None if the plan will not serve requests. `keys` is the key store, None without one.
    Raises ConfigError with all faults that concern the combination of sections.
    """
    faults = _Faults()
    specs = _specs(config, builtin, faults)
    upstreams = {name: _live(spec, previous) for name, spec in specs.items()}
    limits = gate_limits(config)
    known = Gates() if gates is None else gates
    named = {name: known.get(name) for name in limits}
    counted = Ledger() if ledger is None else ledger
    sets = limit_sets(config, counted)
    parts = Parts(config, upstreams, dialects_of(config), named, sets)
    rules: list[tuple[Matcher, PlannedRoute]] = []
    for number, route in enumerate(config.routes):
        at = f"routes[{number}]"
        rule = faults.collect(f"{at}.match", lambda route=route: _matcher(route), Matcher())  # type: ignore[misc]
        rules.append((rule, _route(at, route, config, parts, faults)))
    identities = Identities(config, named, sets, counted)
    consumers = compile_consumers(config, parts.dialects, identities, faults.found, keys)
    for first, second in consumers.shared():
        faults.found.append((f"consumers.{second}", f"has the same key as {first}; relayd cannot distinguish them"))
    if faults.found:
        raise ConfigError(Finding("configuration", 0, 0, path, message) for path, message in faults.found)
    return Plan(
        generation=generation,
        config=config,
        table=Table(rules),
        routes=tuple(route for _, route in rules),
        upstreams=MappingProxyType(upstreams),
        endpoints=MappingProxyType({name: spec.endpoints for name, spec in specs.items() if spec.discovery is None}),
        consumers=consumers,
        header_names=_header_names(config.headers),
        key_fields=consumers.key_fields() - USUAL_KEY_FIELDS,
        models=model_table(config),
        created_s=int(clock.wall()),
        dialects=MappingProxyType(dict(parts.dialects)),
        model_targets=MappingProxyType(model_targets(config, parts)),
        gate_limits=MappingProxyType(limits),
        counters=tuple(counter for one in sets.values() for counter in one.fixed()),
        https_redirects=MappingProxyType({
            name: redirect_port(config.listeners) for name, one in config.listeners.items() if one.https_redirect
        }),
        prices=prices_of(config.prices),
        session_upstreams=frozenset(name for name, spec in specs.items() if spec.session_affinity),
    )


def _specs(config: Config, builtin: Mapping[str, UpstreamSpec], faults: _Faults) -> dict[str, UpstreamSpec]:
    specs: dict[str, UpstreamSpec] = {}
    for name, section in config.upstreams.items():
        nothing = UpstreamSpec(name=name, endpoints=(), protocol=section.protocol)
        specs[name] = faults.collect(
            f"upstreams.{name}", lambda name=name, section=section: upstream_spec(name, section), nothing  # type: ignore[misc]
        )
    used = {route.upstream for route in config.routes}
    specs.update((name, spec) for name, spec in builtin.items() if name in used and name not in specs)
    return specs


def _live(spec: UpstreamSpec, previous: Plan | None) -> Upstream:
    """The upstream of the previous plan if only its endpoints differ, which the commit sets; else a new one, which
    inherits the state of the previous one before it is opened (plan/carryover)."""
    live = None if previous is None else previous.upstreams.get(spec.name)
    if live is not None and replace(live.spec, endpoints=spec.endpoints) == spec:
        return live
    if live is None:
        return Upstream(spec)
    # The addresses in force are the best known ones, until the new upstream's discovery has answered.
    return Upstream(spec if spec.discovery is None else replace(spec, endpoints=live.assigned))


def _matcher(route: Route) -> Matcher:
    match = route.match
    return matcher(
        path=match.path, prefix=match.prefix, regex=match.regex, host=match.host, method=match.method,
        header=match.header, model=match.model, preflight=route.cors is not None,
    )


def _route(at: str, route: Route, config: Config, parts: Parts, faults: _Faults) -> PlannedRoute:
    upstream = parts.upstreams.get(route.upstream or "")
    action = _action(route, upstream)
    named = config.upstreams.get(route.upstream or "")
    protocol = registry.PLAIN if named is None else named.protocol
    changed = faults.collect(at, lambda: rewriting(route, protocol), Rewriting())
    auth = None if upstream is None else upstream.spec.auth
    reserved = frozenset() if auth is None or auth.kind == "query" else frozenset({auth.name.lower().encode()})
    resilience = resilience_of(route, parts) if action == "proxy" else None
    has_dialect = resilience is not None and resilience.dialect is not None
    return PlannedRoute(
        name=route.name,
        config=route,
        action=action,
        upstream=upstream if action == "proxy" else None,
        allow=frozenset(route.allow) if route.allow else None,
        strip_length=changed.strip_length,
        replacement=changed.replacement,
        replacement_template=changed.replacement_template,
        regex=changed.regex,
        request_edits=faults.collect(
            f"{at}.request_headers", lambda: field_edits(route.request_headers, reserved), None
        ),
        response_edits=faults.collect(f"{at}.response_headers", lambda: field_edits(route.response_headers), None),
        cors=route.cors,
        redirect=route.redirect,
        respond=route.respond,
        body_limit=_body_limit(route, config),
        timeouts=merged_timeouts(route.timeouts, Timeouts() if upstream is None else upstream.spec.timeouts),
        upgrade=route.upgrade,
        trailers=route.trailers,
        pass_client_key=route.pass_client_key,
        finish=route.on_disconnect == "finish",
        error_shape=_error_shape(route, upstream),
        admin_prefix=route.admin_prefix.rstrip("/").encode(),
        admin_write=route.admin_write,
        resilience=resilience,
        targets=(parts.target(upstream.name),) if action == "proxy" and upstream is not None else (),
        limit_set=parts.limit_sets.get(f"route {route.name}"),
        tells_rates=has_dialect if route.tells_rates is None else route.tells_rates,
        keepalive_s=float(route.keepalive or 0.0),
        uses_session=action == "sessions" or (action == "proxy" and route.session),
        cache=cache_policy(route) if action == "proxy" else None,
        rewrites_path=action == "proxy" and (changed != Rewriting() or _has_base(route, parts)),
    )


def _has_base(route: Route, parts: Parts) -> bool:
    """True if some endpoint of the route's upstreams has a base path, or may have one when it is discovered."""
    further = [one.upstream for one in (*route.fallbacks, route.canary, route.mirror) if one is not None]
    named = [parts.upstreams[name] for name in (route.upstream or "", *further) if name in parts.upstreams]
    return route.upstream == "by_model" or any(
        upstream.spec.discovery is not None or any(one.base_path for one in upstream.spec.endpoints)
        for upstream in named
    )


def _action(route: Route, upstream: Upstream | None) -> str:
    if route.redirect is not None:
        return "redirect"
    if route.respond is not None:
        return "respond"
    if route.upstream == "admin":
        return "admin"
    if route.upstream == "sessions":
        return "sessions"
    if upstream is None and route.upstream != "by_model":  # a built-in upstream that this process lacks
        return "unavailable"
    return "proxy"


def _body_limit(route: Route, config: Config) -> int:
    limit, size = int(route.body_limit), int(config.sessions.size)
    return limit if route.upstream != "sessions" else min(limit or size, size)


def _error_shape(route: Route, upstream: Upstream | None) -> str:
    if route.errors != "auto":
        return route.errors
    if route.upstream in ("demo", "by_model"):
        return "openai"
    protocol = route.protocol or (registry.PLAIN if upstream is None else upstream.spec.protocol)
    return "problem" if protocol == registry.PLAIN else "openai"


def _header_names(headers: AddedHeaders) -> HeaderNames:
    def name(value: str) -> bytes:
        return b"" if value.lower() in ("off", "") else value.encode()

    names = {
        key: name(getattr(headers, key))
        for key in (
            "request_id", "forwarded_for", "forwarded_proto", "forwarded_host", "real_ip", "forwarded",
            "process_time", "proxy_by",
        )
    }
    # Empty unless a field is renamed, so that the common path compares nothing.
    custom = {value.lower() for value in names.values() if value} - FORWARDING - _USUAL_RESPONSE_FIELDS
    return HeaderNames(via=name(headers.via), custom=frozenset(custom), **names)
