"""What an upstream is told when it is made: plain frozen values, compiled from the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from relayd.protocols.dialect import Options
from relayd.schema import Secret


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One address. `origin` is scheme://host[:port] without a path, `base_path` what is put before the request's path.

    `unix` is the path of a Unix socket (then `origin` is http://localhost), `label` what logs and status show:
    never a key, never user information. `limit` is how many exchanges it may have at one time, 0 for no limit of its
    own. Of the priorities 0 comes first.
    """

    origin: str
    base_path: str
    label: str
    unix: str | None = None
    weight: int = 1
    priority: int = 0
    limit: int = 0

    @property
    def tls(self) -> bool:
        return self.origin.startswith("https://")

    @property
    def identity(self) -> tuple[str, str, str]:
        """What makes this the same address as another one, whatever else is said of it."""
        return self.origin, self.base_path, self.unix or ""

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
    """TLS towards the endpoints; paths of PEM files, None for the system's or for nothing.

    `stamps` tell the files' present contents apart: a certificate renewed under its old name makes another spec.
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
    """Seconds; 0 switches a limit off."""

    connect_s: float = 5.0
    first_byte_s: float = 300.0
    idle_s: float = 120.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BreakerSpec:
    """When an endpoint is not asked any more. `rate` 0 switches the share of failures off, `failures` 0
    the count of those in a row.

    `refuses` False is what an upstream has whose configuration does not speak of it: failing endpoints are passed over
    while there is another, but the last one is never refused.
    """

    failures: int = 5
    rate: float = 0.0
    window_s: float = 30.0
    minimum: int = 20
    open_s: float = 10.0
    open_most_s: float = 300.0
    probes: int = 1
    successes: int = 1
    rest_s: float = 15.0
    rest_most_s: float = 300.0
    refuses: bool = True


@dataclass(frozen=True, slots=True)
class RetrySpec:
    """When an attempt may be repeated. `attempts` counts the first one too; `on` holds words of retry.py."""

    attempts: int = 1
    backoff_s: float = 0.5
    backoff_most_s: float = 10.0
    on: frozenset[str] = frozenset()
    per_attempt_s: float = 0.0
    share: float = 0.2
    minimum: int = 10
    window_s: float = 10.0
    idempotent: bool = False


@dataclass(frozen=True, slots=True)
class HealthSpec:
    """An active check. `kind` is http or tcp; `target` is asked of the origin, not of the base path."""

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
    """How an endpoint is chosen: a kind of balancers/ and its Options, None for its defaults."""

    kind: str = "round_robin"
    options: object = None
    slow_start_s: float = 0.0


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    """A named group of endpoints. Specs that differ in nothing but `endpoints` share one live upstream across a reload.

    `spare_keys` are the further keys of an upstream that has several; `auth` is the first.
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

    @property
    def keys(self) -> tuple[AuthSpec, ...]:
        """All keys, the first one first."""
        return () if self.auth is None else (self.auth, *self.spare_keys)
