"""The whole configuration: relayd.yaml as one frozen value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from relayd.config.listener import Admin, Listener
from relayd.config.route import Consumer, Route
from relayd.config.telemetry import Telemetry
from relayd.config.upstream import Model, Upstream
from relayd.schema import Duration, section, setting

BUILT_IN = ("admin", "demo", "by_model")


@section()
class House:
    """Header fields that relayd writes itself. Each takes the name to use, or `off`."""

    request_id: str = setting("X-Request-ID", doc="Kept if well-formed and from a trusted peer, else made; sent upstream, to the client and to the log.")
    forwarded_for: str = setting("X-Forwarded-For", doc="The client's address, behind those of trusted proxies.")
    forwarded_proto: str = setting("X-Forwarded-Proto", doc="http or https.")
    forwarded_host: str = setting("X-Forwarded-Host", doc="The host the client asked for.")
    real_ip: str = setting("X-Real-IP", doc="The client's address.")
    forwarded: str = setting("Forwarded", doc="The same in the form of RFC 7239.")
    via: str = setting("relayd", doc="Pseudonym in the Via field (RFC 9110 7.6.3); off leaves Via out and loops undetected.")
    process_time: str = setting("X-Process-Time", doc="Seconds to the head of the response, to the client.")
    proxy_by: str = setting("X-Proxy-By", doc="relayd, to the client.")


@section()
class Daemon:
    """The process itself."""

    drain_timeout: Duration = setting(Duration(25), doc="How long exchanges may finish after SIGTERM.", minimum=0)
    retire_timeout: Duration = setting(Duration(0), doc="How long exchanges may finish on a plan that a reload replaced; 0 means as long as they take.", zero_is_off=True)
    connections: int = setting(0, doc="Client connections in all; 0 means what the descriptors allow.", minimum=0)
    buffered_body: int = setting(64 * 1024, doc="Bytes of a request body kept whole before it is streamed.", minimum=0, maximum=1 << 20)


@section()
class Config:
    """relayd.yaml, and what it includes."""

    include: tuple[str, ...] = setting((), doc="Further files, with globs, relative to this one; their sections are added. A key that stands in two files is a fault.", example="/etc/relayd.d/*.yaml")
    listeners: Mapping[str, Listener] = setting(factory=dict, doc="Where clients arrive.")
    admin: Admin = setting(factory=Admin, doc="The admin application.")
    upstreams: Mapping[str, Upstream] = setting(factory=dict, doc="Named groups of endpoints.")
    models: Mapping[str, Model] = setting(factory=dict, doc="Models by name or wildcard, for `upstream: by_model`.", pending="AI protocols")
    routes: tuple[Route, ...] = setting((), doc="Ordered rules; the first match wins.")
    consumers: Mapping[str, Consumer] = setting(factory=dict, doc="Who may be let in.")
    headers: House = setting(factory=House, doc="Header fields that relayd writes itself.")
    telemetry: Telemetry = setting(factory=Telemetry, doc="Logs and metrics.")
    daemon: Daemon = setting(factory=Daemon, doc="The process itself.")

    def check(self) -> Iterable[tuple[str, str]]:
        if not self.listeners:
            yield "listeners", "at least one listener is needed"
        for name in BUILT_IN:
            if name in self.upstreams:
                yield f"upstreams.{name}", "this name is built in"
        names: dict[str, int] = {}
        for number, route in enumerate(self.routes):
            at = f"routes[{number}]"
            if route.name in names:
                yield f"{at}.name", f"routes[{names[route.name]}] has this name too"
            names.setdefault(route.name, number)
            if route.upstream is not None and route.upstream not in self.upstreams and route.upstream not in BUILT_IN:
                yield f"{at}.upstream", f"unknown upstream {route.upstream!r}; known: {', '.join([*self.upstreams, *BUILT_IN])}"
            for place, consumer in enumerate(route.allow):
                if consumer not in self.consumers:
                    yield f"{at}.allow[{place}]", f"unknown consumer {consumer!r}; known: {', '.join(self.consumers) or 'none'}"
            target = self.upstreams.get(route.upstream or "")
            if route.pass_client_key and target is not None and target.auth is not None:
                yield f"{at}.pass_client_key", f"upstream {route.upstream!r} has auth; only one key can be sent"
        for name, model in self.models.items():
            if model.upstream not in self.upstreams:
                yield f"models.{name}", f"unknown upstream {model.upstream!r}; known: {', '.join(self.upstreams) or 'none'}"
