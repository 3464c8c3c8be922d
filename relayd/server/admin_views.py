"""The pages of the admin application: functions from a path to a status, a media type and a body.

1. A view reads memory and waits for nothing: /health answers even if everything else is busy. A view whose size grows
   with the configuration or the traffic reads and renders in steps, with other work of the loop in between.
2. No view can reach a secret: views read names, labels and numbers, and the path of an exchange without its query.
3. admin_application.py checks permissions before it calls a view.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Protocol
from urllib.parse import unquote

from relayd import __version__, clock
from relayd.dataclass import dataclass
from relayd.proxy.capture import Captures
from relayd.proxy.gateway import Gateway
from relayd.server import admin_keys, admin_live
from relayd.telemetry.telemetry import Telemetry
from relayd.wire.json_steps import Steps, write_steps

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
MAX_GENERATIONS = 20
MAX_CHANGES = 200  # of one generation

Page = tuple[int, str, bytes]


@dataclass(frozen=True, slots=True)
class View:
    """A page. `read` makes it, at once or in steps; its docstring is its description in the API documents.
    `other_status` is the one that it may have beside 200, 0 without one."""

    read: Callable[[], Page | Steps[Page]]
    other_status: int = 0
    media_type: str = JSON

    def steps(self) -> Steps[Page]:
        """The steps that make the page."""
        page = self.read()
        return page if isinstance(page, tuple) else (yield from page)


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """The result of one reload: `changes` if it was accepted, `findings` if it was refused, one line each."""

    accepted: bool
    generation: int
    changes: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def page(self) -> Page:
        data = {
            "accepted": self.accepted, "generation": self.generation, "changes": self.changes,
            "findings": self.findings, "warnings": self.warnings,
        }
        return 200 if self.accepted else 422, JSON, to_json(data)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The last reload if it was refused. The next accepted reload removes it."""

    wall: float
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AcceptedGeneration:
    """A configuration that came into force: since when, and what it changed (secrets are masked); None before this
    process."""

    number: int
    wall: float
    changes: tuple[str, ...] | None


class RollbackPort(Protocol):
    """The saved generations (daemon/rollback.py)."""

    @property
    def is_possible(self) -> bool: ...
    def earlier(self) -> Iterable[AcceptedGeneration]: ...
    def has(self, number: int) -> bool: ...
    async def restore(self, number: int, dry_run: bool) -> ReloadResult: ...


@dataclass(slots=True)
class ProcessState:
    """State of the daemon process. Owned and written by the lifecycle, read by the views."""

    config_file: str
    started: float = field(default_factory=clock.monotonic)
    started_wall: float = field(default_factory=clock.wall)
    loaded_wall: float = 0.0
    phase: str = "starting"  # starting | serving | draining | leaving
    refusal: Refusal | None = None
    warnings: tuple[str, ...] = ()
    generations: deque[AcceptedGeneration] = field(default_factory=lambda: deque(maxlen=MAX_GENERATIONS))
    lag_s: Callable[[], float] = lambda: 0.0
    worst_lag_s: Callable[[], float] = lambda: 0.0
    certificates: Callable[[], list[dict[str, object]]] = list
    renew: Callable[[str], list[str]] = lambda name: []  # begins to renew a certificate, or all; returns their names
    rollback: RollbackPort | None = None

    def accept(self, number: int, warnings: tuple[str, ...], changes: tuple[str, ...]) -> None:
        """Note that a generation is in force. `changes` are empty at the start of the process."""
        self.loaded_wall, self.refusal, self.warnings = clock.wall(), None, warnings
        if not self.generations and self.rollback is not None:
            self.generations.extend(one for one in self.rollback.earlier() if one.number < number)
        self.generations.append(AcceptedGeneration(number, self.loaded_wall, changes[:MAX_CHANGES]))


class AdminViews:
    """All pages of the admin application by path, and its synchronous actions. One per process."""

    def __init__(self, gateway: Gateway, telemetry: Telemetry, state: ProcessState) -> None:
        self.gateway = gateway
        self.telemetry = telemetry
        self.state = state
        self.captures = Captures(gateway, self.is_ending)
        self.pages: Mapping[str, View] = {
            "/health": View(self.health, 503),
            "/live": View(self.live),
            "/ready": View(self.ready, 503),
            "/ping": View(self.ping),
            "/status": View(self.status),
            "/upstreams": View(self.upstreams),
            "/queue": View(self.queue),
            "/limits": View(self.limits),
            "/streams": View(self.streams),
            "/keys": View(self.keys),
            "/metrics": View(self.metrics, media_type="text/plain"),
            "/api/health": View(self.target_health),
            "/api/ping": View(self.ping),
            "/health/backends": View(self.backends),
        }

    def act(self, path: str, consumer: str = "") -> Page:
        """Perform the action that a consumer requests, of a path below /upstreams/, /streams/ or /certs/."""
        if path.startswith("/certs/"):
            return self._renew(path)
        try:
            if path.startswith("/streams/"):
                return 200, JSON, to_json(admin_live.cancel(self.gateway, path, consumer))
            return 200, JSON, to_json(admin_live.act(self.gateway, path))
        except admin_live.NotFound as error:
            return error_page(404, "not_found", str(error))
        except admin_live.NotPossible as error:
            return error_page(409, "not_possible", str(error))

    def _renew(self, path: str) -> Page:
        """Begin to renew certificates: `/certs/renew`, or `/certs/NAME/renew` with a percent-encoded name."""
        parts = path.split("/")[2:]
        if parts[-1] != "renew" or len(parts) > 2:
            return error_page(404, "not_found", "There is no such action.")
        name, now = unquote(parts[0]) if len(parts) == 2 else "", clock.wall()
        names = self.state.renew(name)
        if not names:
            message = f"No listener obtains a certificate for {name}." if name else "No listener has tls.acme."
            return error_page(404, "not_found", message)
        return 200, JSON, to_json({"domains": names, "at": now})

    @property
    def _generation(self) -> int:
        plan = self.gateway.plan
        return 0 if plan is None else plan.generation

    def is_ending(self) -> bool:
        """True if this process drains, or another process has taken over."""
        return self.gateway.draining or self.gateway.leaving

    def health(self) -> Page:
        """Health of the service: 503 while the breakers of an upstream reject every request."""
        breaker = admin_live.circuit_breaker(self.gateway)
        data = {
            "status": "unhealthy" if breaker["is_open"] else "healthy",
            "circuit_breaker": breaker,
            "loop_lag_ms": milliseconds(self.state.lag_s()),
            "version": __version__,
        }
        return 503 if breaker["is_open"] else 200, JSON, to_json(data)

    def live(self) -> Page:
        """Liveness: the process and its event loop run, regardless of upstreams. Readiness is /ready."""
        return 200, JSON, to_json({"status": "alive", "loop_lag_ms": milliseconds(self.state.lag_s())})

    def ready(self) -> Page:
        """Readiness: 200 while relayd serves, 503 while it starts or drains."""
        serving = self.state.phase == "serving" and not self.gateway.draining
        phase = "ready" if serving else "draining" if self.gateway.draining else self.state.phase
        return 200 if serving else 503, JSON, to_json({"status": phase, "generation": self._generation})

    def ping(self) -> Page:
        """Responds immediately, without any check."""
        return 200, JSON, to_json({"ping": "pong"})

    def backends(self) -> Page:
        """Health with the state of each upstream, from traffic and health checks. Sends no request."""
        plan = self.gateway.plan
        upstreams = plan.upstreams.values() if plan is not None else ()
        states = {
            one.name: "connected" if any(end.available for end in one.endpoints) else "unavailable" for one in upstreams
        }
        return 200, JSON, to_json({"status": "healthy", "service": "ai-chat-gateway", "backends": states})

    def target_health(self) -> Page:
        """Health with the first upstream: its URL, its timeout and whether its certificate is verified."""
        plan = self.gateway.plan
        first = next(iter(plan.upstreams.values()), None) if plan is not None else None
        data: dict[str, object] = {"status": "healthy", "target_url": "", "timeout": 0, "ssl_verify": True}
        if first is not None:
            spec = first.spec
            limit = spec.timeouts.total_s or spec.timeouts.first_byte_s
            data["target_url"] = spec.endpoints[0].origin + spec.endpoints[0].base_path if spec.endpoints else ""
            data["timeout"] = int(limit) if limit == int(limit) else limit
            data["ssl_verify"] = spec.tls.verify
        return 200, JSON, to_json(data)

    def upstreams(self) -> Steps[Page]:
        """Health of the upstreams, which is independent of the liveness and readiness of relayd."""
        return 200, JSON, (yield from to_json_steps((yield from admin_live.upstreams(self.gateway))))

    def queue(self) -> Steps[Page]:
        """Every limit of requests, and the waiting requests in the order of their admission."""
        return 200, JSON, (yield from to_json_steps((yield from admin_live.queues(self.gateway))))

    def limits(self) -> Steps[Page]:
        """The counters of rates and budgets, the most used ones first."""
        return 200, JSON, (yield from to_json_steps((yield from admin_live.limits(self.gateway))))

    def streams(self) -> Steps[Page]:
        """The exchanges in flight, oldest first."""
        return 200, JSON, (yield from to_json_steps((yield from admin_live.streams(self.gateway))))

    def keys(self) -> Steps[Page]:
        """The keys of the key store, without their digests."""
        return 200, JSON, (yield from to_json_steps((yield from admin_keys.keys(self.gateway))))

    def metrics(self, accept: str = "") -> Steps[Page]:
        """Metrics in the text format of Prometheus, or in OpenMetrics if the client prefers it; 404 if no sink provides
        them."""
        page = self.telemetry.page(accept)
        yield
        if page is None:
            return error_page(404, "not_found", "No sink of `telemetry:` provides metrics here.")
        content_type, steps = page
        return 200, content_type, (yield from steps)

    def status(self) -> Steps[Page]:
        """The state of relayd: configuration, listeners, upstreams, limits, certificates and exchanges in flight."""
        return 200, JSON, (yield from self.status_steps())

    def status_steps(self) -> Steps[bytes]:
        """The state of relayd as one line of JSON."""
        state, gateway = self.state, self.gateway
        plan = gateway.plan
        refusal = state.refusal
        upstreams: list[dict[str, object]] = []
        for upstream in () if plan is None else plan.upstreams.values():
            upstreams.append(upstream_summary((yield from upstream.describe_steps())))
        gates: list[dict[str, object]] = []
        for gate in tuple(gateway.gates.limited()):
            gates.append(gate.describe())
            yield
        limits = (yield from admin_live.limits(gateway, most=20))["limits"]
        exchanges = (yield from admin_live.streams(gateway))["streams"]
        data = {
            "version": __version__,
            "pid": os.getpid(),
            "phase": "draining" if gateway.draining else state.phase,
            "generation": self._generation,
            "uptime_s": round(clock.monotonic() - state.started, 3),
            "config": {"file": state.config_file, "loaded_at": round(state.loaded_wall, 3), "warnings": state.warnings},
            "refused": None if refusal is None else {"at": round(refusal.wall, 3), "findings": refusal.findings},
            "loop": {"lag_ms": milliseconds(state.lag_s()), "worst_ms": milliseconds(state.worst_lag_s())},
            "overload": gateway.overload.describe(),
            "request_buffers": gateway.buffers.describe(),
            "listeners": [] if plan is None else [
                {"name": name, "address": one.address, "tls": one.tls is not None}
                for name, one in plan.config.listeners.items()
            ],
            "certificates": state.certificates(),
            "routes": 0 if plan is None else len(plan.routes),
            "upstreams": upstreams,
            "keys": admin_keys.summary(gateway),
            "store": gateway.store.describe(),
            "spend": None if gateway.saved_spend is None else gateway.saved_spend.describe(),
            "capture": self.captures.describe(),
            "gates": gates,
            "limits": limits,
            "in_flight": len(gateway.exchanges),
            "exchanges": exchanges,
        }
        return (yield from to_json_steps(data))


def upstream_summary(data: dict[str, object]) -> dict[str, object]:
    """The members of a described upstream that the status shows."""
    endpoints = data["endpoints"]
    assert isinstance(endpoints, list)
    keys = (
        "in_flight", "state", "breaker", "health", "available", "addresses", "addresses_age_s", "lookup_fault",
    )
    short = [{"endpoint": one["address"], **{key: one[key] for key in keys}} for one in endpoints]
    shown = ("name", "protocol", "in_flight", "models", "discovery", "overridden")
    return {key: data[key] for key in shown} | {"endpoints": short}


def error_page(status: int, code: str, message: str, **further: object) -> Page:
    return status, JSON, to_json({"error": {"code": code, "message": message}, **further})


def to_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def to_json_steps(value: object) -> Steps[bytes]:
    """As `to_json`, of a large value; without blanks between its members."""
    return (yield from write_steps(value)) + b"\n"


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
