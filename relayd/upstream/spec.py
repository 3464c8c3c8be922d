"""The specification of an upstream: immutable values, compiled from the configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field

from relayd.dataclass import dataclass
from relayd.protocols.dialect import Options
from relayd.schema import Secret

Identity = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One address. `origin` is scheme://host[:port] without a path; `base_path` is prepended to the request's path.

    `unix` is the path of a Unix socket (then `origin` is http://localhost). `label` identifies the address in logs and
    status, without keys or user information. `limit` is the maximum of concurrent exchanges, 0 for no limit. Priority 0
    is the highest. `instance` is what a discovery knows to be at the address (a container), `run` distinguishes its
    successive starts; empty if unknown.
    """

    origin: str
    base_path: str
    label: str
    unix: str | None = None
    weight: int = 1
    priority: int = 0
    limit: int = 0
    instance: str = ""
    run: str = ""

    @property
    def tls(self) -> bool:
        return self.origin.startswith("https://")

    @property
    def location(self) -> Identity:
        """Where requests are sent, whatever is there."""
        return self.origin, self.base_path, self.unix or ""

    @property
    def resident(self) -> Identity:
        """The address and what is at it, over its restarts."""
        return self.origin, self.base_path, self.unix or "", self.instance

    @property
    def identity(self) -> Identity:
        """Two specs with equal identity are the same endpoint, whatever their other values."""
        return self.origin, self.base_path, self.unix or "", self.instance, self.run

    @property
    def authority(self) -> str:
        """The Host field for this endpoint."""
        return self.origin.partition("://")[2]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to."""
        host, colon, port = self.authority.rpartition(":")
        if not colon or port.endswith("]"):
            host, port = self.authority, "443" if self.tls else "80"
        return host.strip("[]"), int(port)


@dataclass(frozen=True, slots=True)
class AuthSpec:
    """The key that relayd adds. `kind` is bearer, header or query; `name` the field or parameter."""

    kind: str
    name: str
    value: Secret


@dataclass(frozen=True, slots=True)
class TlsSpec:
    """TLS to the endpoints; paths of PEM files, None for the system's authorities or for no client certificate.

    `stamps` identify the contents of the files: a certificate renewed under its old name results in a different spec.
    """

    verify: bool = True
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None
    min_version: str = "1.2"
    stamps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; 0 disables a limit."""

    connect_s: float = 5.0
    first_byte_s: float = 300.0
    idle_s: float = 120.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BreakerSpec:
    """When the breaker of an endpoint opens. `rate` 0 disables the failure rate, `failures` 0 the count of consecutive
    failures.

    `refuses` is False for an upstream without a configured breaker: a failing endpoint is skipped while another is
    available, but requests are never refused.
    """

    failures: int = 5
    rate: float = 0.0
    window_s: float = 30.0
    minimum: int = 20
    open_s: float = 10.0
    max_open_s: float = 300.0
    probes: int = 1
    successes: int = 1
    cooldown_s: float = 15.0
    max_cooldown_s: float = 300.0
    refuses: bool = True


@dataclass(frozen=True, slots=True)
class RetrySpec:
    """When an attempt may be repeated. `attempts` includes the first attempt; `on` holds names of retry.py."""

    attempts: int = 1
    backoff_s: float = 0.5
    max_backoff_s: float = 10.0
    on: frozenset[str] = frozenset()
    per_attempt_s: float = 0.0
    share: float = 0.2
    minimum: int = 10
    window_s: float = 10.0
    idempotent: bool = False


@dataclass(frozen=True, slots=True)
class HealthSpec:
    """An active check. `kind` is http or tcp; `target` is relative to the origin, not to the base path."""

    kind: str = "http"
    target: str = "/"
    statuses: tuple[tuple[int, int], ...] = ((200, 299),)
    body: bytes = b""
    interval_s: float = 10.0
    timeout_s: float = 2.0
    healthy: int = 2
    unhealthy: int = 3
    auth: bool = False


@dataclass(frozen=True, slots=True)
class BalanceSpec:
    """How an endpoint is chosen: a kind of balancers/ and its Options; None means the defaults."""

    kind: str = "round_robin"
    options: object = None
    slow_start_s: float = 0.0


@dataclass(frozen=True, slots=True)
class DiscoverySpec:
    """How the addresses become known: a kind of discovery/ and its Options, and the most addresses that are used."""

    kind: str
    options: object = None
    max_endpoints: int = 64


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    """A named group of endpoints. Specs that differ only in `endpoints` share one live upstream across a reload.

    `auth` is the first key of the upstream, `spare_keys` are the others. If `waits_for_endpoint` is true, requests wait
    in the queue of the upstream while it has no endpoint. If `session_affinity` is true, the requests of a session go
    to the endpoint that answered its first one.
    """

    name: str
    endpoints: tuple[EndpointSpec, ...]
    protocol: str = "plain"
    auth: AuthSpec | None = None
    http2: bool = False
    client_host: bool = False
    relocate: bool = True
    tls: TlsSpec = field(default_factory=TlsSpec)
    timeouts: Timeouts = field(default_factory=Timeouts)
    max_idle_age_s: float = 60.0
    max_lifetime_s: float = 0.0
    max_connections: int = 0
    dns_ttl_s: float = 30.0
    response_header_bytes: int = 256 * 1024
    spare_keys: tuple[AuthSpec, ...] = ()
    balance: BalanceSpec = field(default_factory=BalanceSpec)
    breaker: BreakerSpec | None = field(default_factory=lambda: BreakerSpec(refuses=False))
    retries: RetrySpec | None = None
    health: HealthSpec | None = None
    list_models: bool = False
    dialect: Options = field(default_factory=Options)
    discovery: DiscoverySpec | None = None
    waits_for_endpoint: bool = False
    session_affinity: bool = False

    @property
    def keys(self) -> tuple[AuthSpec, ...]:
        """All keys, `auth` first."""
        return () if self.auth is None else (self.auth, *self.spare_keys)


def labels_of(specs: Iterable[EndpointSpec]) -> str:
    """Addresses, for the log."""
    return ", ".join(one.label for one in specs) or "none"
