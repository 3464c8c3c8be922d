"""How Redis is reached: the settings of `store: {kind: redis}` in the form that connections need."""

from __future__ import annotations

from relayd.dataclass import dataclass
from relayd.schema import Secret

Address = tuple[str, int] | str  # host and port, or the path of a Unix socket


@dataclass(frozen=True, slots=True)
class RedisTls:
    """TLS to Redis: files of the authorities, of the client's certificate and of its key."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True


@dataclass(frozen=True, slots=True)
class RedisSentinels:
    """The Sentinels, and the name of the master that they watch."""

    master: str
    addresses: tuple[tuple[str, int], ...]
    username: str = ""
    password: Secret | None = None


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """`timeout_s` is the deadline of an operation. `addresses` are the server, or the first nodes of a Cluster; with
    Sentinels they are not used."""

    addresses: tuple[Address, ...] = (("127.0.0.1", 6379),)
    database: int = 0
    username: str = ""
    password: Secret | None = None
    tls: RedisTls | None = None
    sentinel: RedisSentinels | None = None
    cluster: bool = False
    prefix: str = "relayd"
    timeout_s: float = 0.25

    @property
    def label(self) -> str:
        """The server, for status and log."""
        if self.sentinel is not None:
            return f"sentinel {self.sentinel.master}"
        return ", ".join(one if isinstance(one, str) else f"{one[0]}:{one[1]}" for one in self.addresses)
