"""The whole configuration: relayd.yaml as one immutable value."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

from relayd.config import https
from relayd.config.access import Consumer, Group, authenticators_of, without_client_ca
from relayd.config.fields import FRAMING, field_name_fault
from relayd.config.listener import Admin, Listener
from relayd.config.prices import PriceList, unreached
from relayd.config.resilience import fallback_faults
from relayd.config.route import Route
from relayd.config.selectors import unmatched
from relayd.config.sessions import Sessions
from relayd.config.store import Store
from relayd.config.telemetry import Telemetry
from relayd.config.unreachable import unreachable
from relayd.config.upstream import Model, Upstream
from relayd.lazy_regex import lazy_regex
from relayd.protocols import registry
from relayd.protocols.dialect import Dialect
from relayd.schema import Duration, Size, section, setting
from relayd.schema.scalars import meant, shown

NAME = lazy_regex(r"[A-Za-z0-9_.\-]{1,64}", re.ASCII)
BUILT_IN = ("admin", "demo", "by_model", "sessions")
SMALLEST_BUFFERS = 1024 * 1024


@section()
class AddedHeaders:
    """Header fields that relayd writes itself. Each takes the name to use, or `off`."""

    request_id: str = setting(default="X-Request-ID", doc="Kept if well-formed and from a trusted peer, else made; sent upstream, to the client and to the log.")
    forwarded_for: str = setting(default="X-Forwarded-For", doc="The client's address, behind those of trusted proxies.")
    forwarded_proto: str = setting(default="X-Forwarded-Proto", doc="http or https.")
    forwarded_host: str = setting(default="X-Forwarded-Host", doc="The host the client asked for.")
    real_ip: str = setting(default="X-Real-IP", doc="The client's address.")
    forwarded: str = setting(default="Forwarded", doc="The same in the form of RFC 7239.")
    via: str = setting(default="relayd", doc="Pseudonym in the Via field (RFC 9110 7.6.3); off leaves Via out and loops undetected.")
    process_time: str = setting(default="X-Process-Time", doc="Seconds to the head of the response, to the client.")
    proxy_by: str = setting(default="X-Proxy-By", doc="relayd, to the client.")

    def check(self) -> Iterable[tuple[str, str]]:
        written: dict[str, str] = {}
        for key, name in dataclasses.asdict(self).items():
            if name == "off":
                continue
            if fault := field_name_fault(name):
                yield key, f"{fault}; off leaves the field out"
            elif key != "via" and name.lower() in FRAMING:
                yield key, "belongs to the framing of the message"
            elif key != "via" and name.lower() in written:
                yield key, f"{written[name.lower()]} has this name too"
            elif key != "via":
                written[name.lower()] = key


@section()
class Overload:
    """Overload protection of relayd itself: under overload a growing share of requests is answered 503 at once with
    Retry-After, those of consumers of low priority first, instead of delaying all requests."""

    loop_lag: Duration = setting(default=Duration(1), doc="The maximum lag of the event loop.", zero_is_off=True)
    memory: Size = setting(default=Size(0), doc="The maximum memory of the process; 0 disables this check.", minimum=0, example="512MiB")
    descriptors: float = setting(default=0.95, doc="The maximum share of open file descriptors.", minimum=0, maximum=1)


@section(shorthand="size")
class RequestBuffers:
    """The memory of all request bodies together that relayd buffers whole.

    Counted are: bodies that are read before a target is chosen (`upstream: by_model`, rules on `model`, dialects), from
    their first byte until they are sent and no further attempt can need them; buffered parts of forms; WebSocket messages
    that wait or are incomplete; and the bodies of copies for `mirror`. Counted without waiting, so that they may exceed
    the limit: the copy of a body that is translated or renamed for its endpoint, and responses that must be complete
    before they are translated. The first 64 KiB of each body are not counted, so that small bodies never wait. Not
    counted: temporary data while a body is parsed, streamed bodies (at most 128 KiB of each), and stored data.
    """

    size: Size = setting(default=Size(256 * 1024 * 1024), doc="Bytes of all bodies together. A body of known length reserves its memory before it is read. If the memory is not available, the body waits unread, first come first served. A larger body is answered 413. 0 means no limit.", minimum=0)
    queue_timeout: Duration = setting(default=Duration(10), doc="How long a body may wait for memory; then it is answered 503 with Retry-After. While other bodies wait, a body of which less than 64 KiB arrive within this time is answered 408.", minimum=0.1, maximum=3600)

    def check(self) -> Iterable[tuple[str, str]]:
        if 0 < self.size < SMALLEST_BUFFERS:
            yield "size", "less than 1MiB: nearly every body would have to wait; 0 means no limit"


@section(shorthand="limit")
class FailedKeys:
    """The limit of wrong keys per client address, on routes with `allow`.

    An address that has presented `limit` different wrong keys within `per` is answered 429 (too_many_failed_keys) with
    Retry-After, whatever key it presents, until the span that began with the first of them is over. The same wrong key
    counts once, but is itself refused when it was repeated as often. Requests without a key and tokens that have expired
    are not counted. The address is that of the client as trusted proxies name it; IPv6 addresses count by their /64.
    Unix sockets and trusted proxies that name no client have no limit. Other addresses are not affected.
    """

    limit: int = setting(default=100, doc="Different wrong keys of one address; 0 means no limit.", minimum=0, maximum=10000)
    per: Duration = setting(default=Duration(60), doc="The span in which they are counted.", minimum=1, maximum=86400)


@section()
class Daemon:
    """The process itself."""

    drain_timeout: Duration = setting(default=Duration(25), doc="How long exchanges may continue after SIGTERM.", minimum=0, maximum=86400)
    handover_timeout: Duration = setting(default=Duration(3600), doc="How long exchanges may continue in a process that another process replaced (`systemctl restart`, an upgrade, `relayd upgrade`); at least `drain_timeout`.", minimum=0, maximum=86400)
    retire_timeout: Duration = setting(default=Duration(0), doc="How long exchanges may continue with a configuration that a reload replaced; 0 means no limit.", zero_is_off=True)
    overload: Overload = setting(factory=Overload, doc="Overload protection.")
    request_buffers: RequestBuffers = setting(factory=RequestBuffers, doc="Memory for request bodies that are buffered whole.")
    failed_keys: FailedKeys = setting(factory=FailedKeys, doc="Limit of wrong keys per client address.")
    connections: int = setting(default=0, doc="The maximum of client connections; 0 means the number that the file descriptors permit.", minimum=0)


@section()
class Config:
    """relayd.yaml with its included files."""

    include: tuple[str, ...] = setting(default=(), doc="Additional files, with globs, relative to this file; their sections are merged. An unreadable folder is an error, a folder that does not exist causes a warning. A key in two files is an error.", example="/etc/relayd.d/*.yaml")
    listeners: Mapping[str, Listener] = setting(factory=dict, doc="The addresses that accept clients.")
    admin: Admin = setting(factory=Admin, doc="The admin application.")
    upstreams: Mapping[str, Upstream] = setting(factory=dict, doc="Named groups of endpoints.")
    models: Mapping[str, Model] = setting(factory=dict, doc="Models by name or wildcard, for `upstream: by_model`. An exact name wins, then one that differs only in case, then the wildcard with the most literal text.")
    routes: tuple[Route, ...] = setting(default=(), doc="Ordered rules; the first match wins.")
    groups: Mapping[str, Group] = setting(factory=dict, doc="Groups of consumers, with their common limits.")
    consumers: Mapping[str, Consumer] = setting(factory=dict, doc="The parties that may use relayd, with their keys.")
    prices: PriceList | None = setting(default=None, doc="What requests to AI endpoints cost. A request keeps the prices with which it began.", example="/etc/relayd/prices.yaml")
    headers: AddedHeaders = setting(factory=AddedHeaders, doc="Header fields that relayd writes itself.")
    sessions: Sessions = setting(factory=Sessions, doc="Sessions of clients.")
    store: Store = setting(factory=Store, doc="Storage of data between requests.")
    telemetry: Telemetry = setting(factory=Telemetry, doc="Logs and metrics.")
    daemon: Daemon = setting(factory=Daemon, doc="The process itself.")

    def check(self) -> Iterable[tuple[str, str]]:
        yield from self._listeners()
        yield from https.faults(self.listeners)
        for name in BUILT_IN:
            if name in self.upstreams:
                yield f"upstreams.{name}", "this name is built in"
        names: dict[str, int] = {}
        for number, route in enumerate(self.routes):
            at = f"routes[{number}]"
            if route.name in names:
                yield f"{at}.name", f"routes[{names[route.name]}] has this name too"
            names.setdefault(route.name, number)
            yield from ((f"{at}.{path}" if path else at, fault) for path, fault in self._route(route))
        yield from self._models()
        yield from self._parties()
        yield from self._keys()
        for name in self.prices.upstreams if self.prices is not None else ():
            if name not in self.upstreams:
                yield f"prices.upstreams.{name}", unknown("upstream", name, self.upstreams)

    def _listeners(self) -> Iterator[tuple[str, str]]:
        if not self.listeners:
            yield "listeners", "at least one listener is needed"
        used = {self.admin.address: "admin"}
        for name, listener in self.listeners.items():
            chosen = listener.address.startswith("systemd:") or listener.address.endswith(":0")
            if listener.address in used and not chosen:
                yield f"listeners.{name}.address", f"{used[listener.address]} has this address too"
            used.setdefault(listener.address, f"listeners.{name}")
            if not NAME.fullmatch(name):
                yield f"listeners.{name}", "a name has letters, digits, _ . - only"
        for name in self.upstreams:
            if not NAME.fullmatch(name):
                yield f"upstreams.{name}", "a name has letters, digits, _ . - only"

    def _route(self, route: Route) -> Iterator[tuple[str, str]]:
        target = self.upstreams.get(route.upstream or "")
        if route.upstream is not None and route.upstream not in self.upstreams and route.upstream not in BUILT_IN:
            yield "upstream", unknown("upstream", route.upstream, [*self.upstreams, *BUILT_IN])
        for index, party in enumerate(route.allow):
            if party not in self.consumers and party not in self.groups:
                yield f"allow[{index}]", unknown("consumer or group", party, [*self.consumers, *self.groups])
        for key, name in _named_upstreams(route):
            if name not in self.upstreams:
                yield f"{key}.upstream", unknown("upstream", name, self.upstreams)
        yield from self._mirrored(route, target)
        if route.upstream == "by_model" and not self.models:
            yield "upstream", "by_model needs models"
        yield from self._dialects(route, target)
        if route.pass_client_key and target is not None and target.auth is not None:
            yield "pass_client_key", f"upstream {route.upstream!r} has auth; only one key can be sent"

    def _models(self) -> Iterator[tuple[str, str]]:
        for name, model in self.models.items():
            at = f"models.{name}"
            if model.upstream not in self.upstreams:
                yield f"{at}.upstream", unknown("upstream", model.upstream, self.upstreams)
            for index, one in enumerate(model.fallbacks):
                if one.upstream not in self.upstreams:
                    yield f"{at}.fallbacks[{index}].upstream", unknown("upstream", one.upstream, self.upstreams)
            if "*" not in name and model.model is None:  # its name at the upstream is its own name
                reported = set(fallback_faults(model.upstream, None, model.fallbacks))  # by Model itself
                found = fallback_faults(model.upstream, name, model.fallbacks)
                yield from ((f"{at}.{path}", fault) for path, fault in found if (path, fault) not in reported)

    def _mirrored(self, route: Route, target: Upstream | None) -> Iterator[tuple[str, str]]:
        """A mirror upstream that shares an endpoint with the route's upstream."""
        copies = self.upstreams.get(route.mirror.upstream) if route.mirror is not None else None
        if copies is None or route.mirror is None:
            return
        if route.upstream == "by_model" and all(one.upstream == route.mirror.upstream for one in self.models.values()):
            yield "mirror.upstream", "is the upstream of every model already"
        elif target is not None and target is not copies:
            shared = {one.url for one in target.endpoints} & {one.url for one in copies.endpoints}
            if shared:
                yield "mirror.upstream", f"shares {min(shared)} with {route.upstream}; this endpoint would get requests twice"

    def _dialects(self, route: Route, target: Upstream | None) -> Iterator[tuple[str, str]]:
        """Check that requests in the client's dialect can be sent to all upstreams of the route."""
        default = registry.DEFAULT if route.upstream == "by_model" else registry.PLAIN
        mine = route.protocol or (target.protocol if target is not None else default)
        dialect = registry.dialect(mine)
        for name in route.backend_names:
            if name not in self.upstreams:
                yield f"backend_names.{name}", unknown("upstream", name, self.upstreams)
        if route.cache is not None and (dialect is None or dialect.cache_rules is None):
            able = ", ".join(one.name for one in registry.dialects() if one.cache_rules is not None)
            yield "cache", f"is not available for protocol {mine}, because relayd does not compare its requests; it is for {able}"
        if dialect is None:
            return
        reached = [("upstream", target.protocol)] if target is not None else []
        reached += [
            (key, self.upstreams[name].protocol) for key, name in _named_upstreams(route) if name in self.upstreams and key != "mirror"
        ]
        for key, theirs in reached:
            if fault := _translation_fault(dialect, theirs):
                yield key, fault
                return
        if route.upstream == "by_model":  # models of other upstreams are refused when they are requested
            served = [self.upstreams[model.upstream].protocol for model in self.models.values()
                      if model.upstream in self.upstreams]
            gaps = [_translation_fault(dialect, theirs) for theirs in served]
            if gaps and all(gaps):
                yield "upstream", f"no model can be reached here: {gaps[0]}"

    def _parties(self) -> Iterator[tuple[str, str]]:
        """Names of consumers and groups, and what they refer to."""
        routes = {route.name for route in self.routes}
        parties: dict[str, Mapping[str, Consumer] | Mapping[str, Group]] = {"groups": self.groups, "consumers": self.consumers}
        for kind, members in parties.items():
            for name, party in members.items():
                if not NAME.fullmatch(name):
                    yield f"{kind}.{name}", "a name has letters, digits, _ . - only"
                for index, route in enumerate(party.routes or ()):
                    if route not in routes:
                        yield f"{kind}.{name}.routes[{index}]", unknown("route", route, routes)
        for name, consumer in self.consumers.items():
            if name in self.groups:
                yield f"consumers.{name}", "is the name of a group too; in `allow` it could mean either"
            if consumer.group is not None and consumer.group not in self.groups:
                yield f"consumers.{name}.group", unknown("group", consumer.group, self.groups)

    def _keys(self) -> Iterator[tuple[str, str]]:
        """Two consumers with the same key cannot be distinguished."""
        seen: dict[object, str] = {}
        for name, consumer in self.consumers.items():
            for kind, authenticator in authenticators_of(consumer).items():
                for one in authenticator.credentials():
                    secret = one.secret.reveal()
                    other = seen.setdefault((one.field, one.read, secret), name) if secret else name
                    if other != name:
                        yield f"consumers.{name}.{kind}", f"consumers.{other} has the same key"
                        break

    def _larger_than_buffers(self) -> Iterator[tuple[str, str]]:
        """Routes whose body limit exceeds the memory for buffered bodies."""
        size = self.daemon.request_buffers.size
        for number, route in enumerate(self.routes):
            gathers = route.upstream == "by_model" or bool(route.match.model) or route.protocol not in (None, "plain")
            if size and gathers and route.body_limit > size:
                yield f"routes[{number}].body_limit", "is more than daemon.request_buffers; a larger body is answered 413 if it must be buffered whole"

    def _unchecked_models(self) -> Iterator[tuple[str, str]]:
        """Routes on which the models of a consumer are not checked, because relayd does not read them."""
        for number, route in enumerate(self.routes):
            target = self.upstreams.get(route.upstream or "")
            if target is None or route.match.model or registry.dialect(route.protocol or target.protocol) is not None:
                continue
            for name, one in self.consumers.items():
                group = self.groups.get(one.group or "", Group())
                if one.models is None and group.models is None:
                    continue
                routes = group.routes if one.routes is None else one.routes
                if route.name in routes if routes is not None else {name, one.group} & set(route.allow):
                    yield f"routes[{number}]", f"the models of {name} are not checked here: without `protocol` relayd does not read them"
                    break

    def _budgets_without_prices(self) -> Iterator[tuple[str, str]]:
        """Budgets that can never be used up."""
        parts: list[tuple[str, Upstream | Route | Group | Consumer]] = [
            *((f"upstreams.{name}", one) for name, one in self.upstreams.items()),
            *((f"routes[{number}]", one) for number, one in enumerate(self.routes)),
            *((f"groups.{name}", one) for name, one in self.groups.items()),
            *((f"consumers.{name}", one) for name, one in self.consumers.items()),
        ]
        yield from ((f"{path}.budget", "is never used, because nothing costs anything without prices") for path, one in parts if one.budget)

    def caution(self) -> Iterable[tuple[str, str]]:
        yield from self._unchecked_models()
        for number, route in enumerate(self.routes):
            dialect = None if route.protocol is None else registry.dialect(route.protocol)
            if route.backend_names and (dialect is None or not dialect.names_backend):
                yield f"routes[{number}].backend_names", "has a meaning only with protocol: simple_chat"
        for number, reason in unreachable(self.routes):
            yield f"routes[{number}]", reason
        yield from self._larger_than_buffers()
        for number, route in enumerate(self.routes):
            if route.tells_cost and self.prices is None:
                yield f"routes[{number}].tells_cost", "no cost is known without prices"
        if self.prices is None:
            yield from self._budgets_without_prices()
        else:
            yield from unreached(self.prices, self.models, self.routes, self.upstreams)
        yield from unmatched(self.models, self.routes, self.upstreams, self.groups, self.consumers)
        yield from https.cautions(self.listeners, self.store.is_shared)
        if not any(one.tls is not None and one.tls.client_ca is not None for one in self.listeners.values()):
            yield from without_client_ca(self.consumers)
        if not self.routes:
            yield "routes", "no routes: every request is answered 404"


def _translation_fault(mine: Dialect, protocol: str) -> str:
    """Why requests in a client's dialect cannot be sent to an upstream of this protocol; empty if they can."""
    theirs = registry.dialect(protocol)
    if theirs is None:
        return "" if mine.has_endpoints else f"{mine.name} needs an upstream whose protocol is known; set protocol there"
    if theirs is not mine and not mine.translates_to(theirs):
        return f"nothing is translated from {mine.name} to {theirs.name}"
    return ""


def _named_upstreams(route: Route) -> Iterator[tuple[str, str]]:
    """The upstreams that a route names besides its own, with their keys."""
    yield from ((f"fallbacks[{index}]", one.upstream) for index, one in enumerate(route.fallbacks))
    if route.canary is not None:
        yield "canary", route.canary.upstream
    if route.mirror is not None:
        yield "mirror", route.mirror.upstream


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = meant(name, names)
    return f"unknown {what} {shown(name)}; " + (near or f"known: {', '.join(names[:12]) or 'none'}")
