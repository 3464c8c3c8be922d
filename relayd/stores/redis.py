"""In Redis or Valkey: several instances, also on several machines, share the contents. Needs python3-redis.

A value is read with one round trip and written after the response, in the order of its changes; this instance sees its
own changes at once. The deadline of a round trip is `timeout`; for large values it is at least 2 seconds. Entries have a
time to live, which each access renews. `size` and `entries` bound each consumer's data, and `size` all data of the store;
if it is exceeded, the consumer with the most data loses its least recently used entries. Give Redis a `maxmemory` above
`size`, and the policy `noeviction`: other policies may evict counters and make limits forget.

While Redis cannot be reached, is read-only, or is full, relayd is degraded: `relayd status`, the log, the gauge
`relayd.store.available` and `relayd doctor redis` say so and why. `on_failure` decides what happens to data meanwhile.
relayd also starts without Redis, degraded, and connects as soon as Redis is there.

A user of the ACL needs `+@all ~{relayd}* ~relayd:*`, with the `prefix` in place of relayd. Only masters are used. With `sentinel`, relayd asks the Sentinels for the master, also after a failover; writes that the
old master had not replicated are lost, as Redis documents. With `cluster`, data are spread over the slots, by consumer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar
from urllib.parse import urlsplit

from relayd import registry
from relayd.errors import OptionError
from relayd.lazy_regex import lazy_regex
from relayd.schema import Duration, Secret, section, setting
from relayd.stores import Bounds
from relayd.stores._redis_settings import Address, RedisSentinels, RedisSettings, RedisTls
from relayd.stores._redis_store import OnFailure, RedisStore

PORT = 6379
MISSING = "needs the Python package redis, which is not installed (apt install python3-redis)"
_ADDRESS = lazy_regex(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.\-]+)(?::([0-9]{1,5}))?", re.ASCII)


def addresses_of(text: str, default_port: int) -> tuple[tuple[str, int], ...]:
    """Host and port of each address, separated by commas. Raises ValueError."""
    found = []
    for one in text.split(","):
        matched = _ADDRESS.fullmatch(one.strip())
        port = default_port if matched is None or matched[2] is None else int(matched[2])
        if matched is None or not 0 < port < 65536:
            raise ValueError("must have the form host:port, with a port from 1 to 65535")
        found.append((matched[1].strip("[]"), port))
    return tuple(found)


def parse_url(url: str) -> tuple[tuple[Address, ...], int, bool]:
    """Addresses, database and whether TLS is used. Raises ValueError, whose text contains no part of the URL."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("redis", "rediss", "unix"):
        raise ValueError("must begin with redis://, rediss:// (TLS) or unix://")
    if "@" in rest:
        raise ValueError("must not contain a user or a password; write `username` and `password: {file: ...}`")
    parts = urlsplit(f"redis://{rest}")
    query = parts.query.removeprefix("db=")
    number = query if scheme == "unix" else parts.path.strip("/")
    if number and (not number.isascii() or not number.isdigit() or int(number) > 65535):
        raise ValueError("must end with the number of a database, as in redis://127.0.0.1:6379/0")
    if scheme == "unix":
        if not parts.path.startswith("/") or parts.netloc:
            raise ValueError("must name an absolute path, as in unix:///run/redis/redis.sock?db=0")
        return (parts.path,), int(number or 0), False
    return addresses_of(parts.netloc, PORT), int(number or 0), scheme == "rediss"


@section()
class StoreTls:
    """TLS to Redis, with a URL that begins with rediss://."""

    ca: str | None = setting(
        default=None, pattern="/.*", doc="File with the authorities of the server's certificate; default those of the system."
    )
    cert: str | None = setting(default=None, pattern="/.*", doc="File with relayd's certificate, if Redis asks for one.")
    key: str | None = setting(default=None, pattern="/.*", doc="File with the key of `cert`.")
    verify: bool = setting(default=True, doc="Verify the server's certificate and name.")

    def check(self) -> Iterable[tuple[str, str]]:
        if (self.cert is None) != (self.key is None):
            yield "cert" if self.cert is None else "key", "is missing: cert and key belong together"

    def caution(self) -> Iterable[tuple[str, str]]:
        if not self.verify:
            yield "verify", "WITHOUT VERIFICATION, ANYBODY ON THE WAY CAN READ AND CHANGE THE DATA"


@section()
class Sentinel:
    """Sentinels that name the master."""

    master: str = setting(doc="The name of the master, as the Sentinels know it.", example="mymaster", pattern=r"\S+")
    addresses: tuple[str, ...] = setting(
        doc="The Sentinels, host:port; the port is 26379 by default.", example=["10.0.0.1:26379", "10.0.0.2:26379"]
    )
    username: str | None = setting(default=None, doc="The user at the Sentinels.")
    password: Secret | None = setting(default=None, doc="The password of the Sentinels.")

    def check(self) -> Iterable[tuple[str, str]]:
        if not self.addresses:
            yield "addresses", "is empty"
        for index, one in enumerate(self.addresses):
            try:
                addresses_of(one, 26379)
            except ValueError as fault:
                yield f"addresses[{index}]", str(fault)


@section()
class Options:
    """The Redis server."""

    url: str = setting(
        default="redis://127.0.0.1:6379/0", example="redis://127.0.0.1:6379/0",
        doc="The server: redis://HOST:PORT/DATABASE, rediss:// for TLS, or unix:///PATH?db=DATABASE. Several hosts, separated by commas, are asked in their order. A Unix socket must permit relayd's user, which needs the group of Redis. With `sentinel` only the database and the scheme count.",
    )
    prefix: str = setting(
        default="relayd", pattern=r"[A-Za-z0-9_.\-]{1,64}",
        doc="The beginning of all keys. Instances with the same prefix and server share everything.",
    )
    on_failure: OnFailure = setting(
        default="local",
        doc="While Redis is not available, `local` keeps stored data in the memory of this instance, bounded, and writes them when Redis returns; `open` behaves as if nothing was stored, and stores nothing (a response has `\"store\": false`); `closed` answers requests that need stored data with 503 store_unavailable, and stores nothing.",
    )
    timeout: Duration = setting(default=Duration(0.25), doc="The deadline of an operation. After it Redis counts as unavailable.", minimum=0.01, maximum=10)
    username: str | None = setting(default=None, doc="The user of the ACL of Redis.")
    password: Secret | None = setting(default=None, doc="The password of Redis.")
    tls: StoreTls | None = setting(default=None, doc="TLS to Redis.")
    sentinel: Sentinel | None = setting(default=None, doc="Sentinels that name the master.")
    cluster: bool = setting(default=False, doc="The server is a node of a Redis Cluster.")

    def check(self) -> Iterable[tuple[str, str]]:
        if not registry.is_installed("redis"):
            yield "kind", MISSING
        try:
            addresses, database, is_tls = parse_url(self.url)
        except ValueError as fault:
            yield "url", str(fault)
            return
        if self.tls is not None and not is_tls:
            yield "tls", "has a meaning only with a URL that begins with rediss://"
        if self.cluster and self.sentinel is not None:
            yield "cluster", "cannot be combined with sentinel"
        if self.cluster and (database or isinstance(addresses[0], str)):
            yield "url", "of a cluster has a host, and the database 0"
        if self.username is not None and self.password is None:
            yield "username", "needs a password"

    @property
    def settings(self) -> RedisSettings:
        """The options in the form that connections need. Raises ValueError."""
        addresses, database, is_tls = parse_url(self.url)
        tls, sentinel, sentinels = self.tls or StoreTls(), self.sentinel, None
        if sentinel is not None:
            found = addresses_of(",".join(sentinel.addresses), 26379)
            sentinels = RedisSentinels(sentinel.master, found, sentinel.username or "", sentinel.password)
        return RedisSettings(
            addresses=addresses, database=database, username=self.username or "", password=self.password,
            tls=RedisTls(tls.ca, tls.cert, tls.key, tls.verify) if is_tls else None, sentinel=sentinels,
            cluster=self.cluster, prefix=self.prefix, timeout_s=float(self.timeout),
        )


class Store(RedisStore):
    """The store of a configuration; owned by the daemon, used on the loop."""

    IS_SHARED: ClassVar[bool] = True  # by machines

    @classmethod
    def open(cls, options: Options, bounds: Bounds) -> Store:
        """Begins to connect; Redis need not be there. Raises OptionError."""
        try:
            settings = options.settings
        except ValueError as error:
            raise OptionError("url", str(error)) from error
        return cls(settings, bounds.entries, bounds.size_bytes, bounds.ttl_s, options.on_failure)


__all__ = ["Options", "Store", "parse_url"]
