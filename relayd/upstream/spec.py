"""What an upstream is told when it is made: plain frozen values, compiled from the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from relayd.schema import Secret


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One address. `origin` is scheme://host[:port] without a path, `base_path` what is put before the request's path.

    `unix` is the path of a Unix socket (then `origin` is http://localhost), `label` what logs and status show:
    never a key, never user information.
    """

    origin: str
    base_path: str
    label: str
    unix: str | None = None

    @property
    def tls(self) -> bool:
        return self.origin.startswith("https://")

    @property
    def authority(self) -> str:
        """The Host field for this endpoint."""
        return self.origin.partition("://")[2]


@dataclass(frozen=True, slots=True)
class AuthSpec:
    """The key that relayd adds. `kind` is bearer, header or query; `name` the field or parameter."""

    kind: str
    name: str
    value: Secret


@dataclass(frozen=True, slots=True)
class TlsSpec:
    """TLS towards the endpoints; paths of PEM files, None for the system's or for nothing."""

    verify: bool = True
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None
    min_version: str = "1.2"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; 0 switches a limit off."""

    connect_s: float = 5.0
    first_byte_s: float = 300.0
    idle_s: float = 120.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    """A named group of endpoints. Equal specs share one live upstream across a reload."""

    name: str
    endpoints: tuple[EndpointSpec, ...]
    protocol: str = "plain"
    auth: AuthSpec | None = None
    http2: bool = False
    client_host: bool = False
    tls: TlsSpec = field(default_factory=TlsSpec)
    timeouts: Timeouts = field(default_factory=Timeouts)
    max_idle_age_s: float = 60.0
    max_lifetime_s: float = 0.0
    max_connections: int = 0
    dns_ttl_s: float = 30.0
    response_header_bytes: int = 256 * 1024
