"""Opens connections to Redis with the library of python3-redis, whose only importer this module is.

Loaded through the registry, and only if `store: {kind: redis}` is configured. The library connects, encrypts,
authenticates and asks Sentinels, with an interface that is the same in its versions 4.3 to 8.1; an open connection then
belongs to relayd (_redis_link).
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from typing import Any

import redis
import redis.crc
from redis.asyncio import Redis
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel

from relayd.stores._redis_failure import Cause, RedisFailure
from relayd.stores._redis_settings import Address, RedisSettings

_CONNECTION: Any = getattr(redis.asyncio.connection, "AbstractConnection", Connection)
# From version 5 on, the library may otherwise speak RESP3.
_PROTOCOL = {"protocol": 2} if "protocol" in inspect.signature(_CONNECTION.__init__).parameters else {}
_AUTH = ("WRONGPASS", "NOAUTH", "invalid username-password", "invalid password", "AUTH")


class OpenConnection:
    """A connection with its user authenticated and its database selected. The caller owns the transport: closes it, and
    then calls `release`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.transport: asyncio.Transport = connection._writer.transport

    def release(self) -> None:
        """Forget the streams of the library, which would otherwise complain that nobody has closed them."""
        self._connection._reader = self._connection._writer = None


async def connect(settings: RedisSettings, address: Address, timeout_s: float) -> OpenConnection:
    """Connect to one server. Raises RedisFailure."""
    kind: Any = Connection
    options = {"db": settings.database, **_credentials(settings), **_PROTOCOL}
    if isinstance(address, str):
        kind = UnixDomainSocketConnection
        options["path"] = address
    else:
        options["host"], options["port"] = address
        if settings.tls is not None:
            kind = SSLConnection
            options |= _tls(settings)
    connection = kind(**options)
    is_open = False
    try:
        async with asyncio.timeout(timeout_s):
            await connection.connect()
        is_open = True
    except (TimeoutError, redis.TimeoutError):
        raise RedisFailure("timeout", f"no connection within {timeout_s:g} s") from None
    except (redis.RedisError, OSError) as error:
        raise _failure(error) from None
    finally:
        if not is_open:
            _abort(connection)
    return OpenConnection(connection)


async def master_address(settings: RedisSettings, timeout_s: float) -> Address:
    """The address of the master that the Sentinels name. Raises RedisFailure."""
    sentinel = settings.sentinel
    assert sentinel is not None
    options: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, **_PROTOCOL}
    if sentinel.password is not None:
        options["password"] = sentinel.password.reveal()
        if sentinel.username:
            options["username"] = sentinel.username
    if settings.tls is not None:
        options |= {"ssl": True, **_tls(settings)}
    manager: Any = Sentinel(list(sentinel.addresses), sentinel_kwargs=options)
    clients: Sequence[Redis] = manager.sentinels
    try:
        async with asyncio.timeout(timeout_s * max(1, len(sentinel.addresses))):
            host, port = await manager.discover_master(sentinel.master)
            return str(host), int(port)
    except MasterNotFoundError:
        raise RedisFailure("no_master", f"no Sentinel names a master {sentinel.master}") from None
    except TimeoutError:
        raise RedisFailure("no_master", "no Sentinel has answered") from None
    except (redis.RedisError, OSError) as error:
        raise _failure(error) from None
    finally:
        for client in clients:
            await client.connection_pool.disconnect()


def key_slot(key: str) -> int:
    """The slot of a key in a Cluster."""
    return int(redis.crc.key_slot(key.encode()))


def _credentials(settings: RedisSettings) -> dict[str, Any]:
    if settings.password is None:
        return {}
    found: dict[str, Any] = {"password": settings.password.reveal()}
    if settings.username:
        found["username"] = settings.username
    return found


def _tls(settings: RedisSettings) -> dict[str, Any]:
    tls = settings.tls
    assert tls is not None
    return {
        "ssl_cert_reqs": "required" if tls.verify else "none", "ssl_check_hostname": tls.verify,
        "ssl_ca_certs": tls.ca, "ssl_certfile": tls.cert, "ssl_keyfile": tls.key,
    }


def _abort(connection: Any) -> None:
    writer = connection._writer
    if writer is not None:
        writer.transport.abort()
        connection._reader = connection._writer = None


def _failure(error: Exception) -> RedisFailure:
    """The failure of a connection attempt. The library's texts contain the address, never the password."""
    text = str(error) or type(error).__name__
    reason = error.__cause__ or error.__context__
    if isinstance(reason, OSError) and str(reason) not in text:
        text = f"{text} ({reason})"  # old versions of the library state only its number
    if isinstance(error, redis.BusyLoadingError):
        return RedisFailure("loading", text)
    cause: Cause = "connect"
    if isinstance(error, redis.AuthenticationError) or any(word in text for word in _AUTH):
        cause = "auth"
    elif isinstance(error, redis.exceptions.NoPermissionError):
        cause = "permission"
    elif isinstance(error, redis.InvalidResponse):
        cause = "protocol"
    return RedisFailure(cause, text)
