"""Connections by the library: TLS, users, a wrong address, what is no Redis."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd import registry
from relayd.schema import Secret
from relayd.stores._redis_failure import RedisFailure
from relayd.stores._redis_server import RedisServer
from relayd.stores._redis_settings import RedisSentinels, RedisSettings, RedisTls
from tests.aids.certificates import made
from tests.aids.ports import free_port
from tests.functional.harness.redis import Redis, needs_redis
from tests.unit.stores.redis_aids import COUNT, call, command, connected, settings, until

pytestmark = needs_redis()
PASSWORD = "pa55-of-the-test"


def client() -> Any:
    return registry.load("relayd.stores._redis", "client")


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Redis, str]]:
    authority = made(tmp_path, "authority", authority=True)
    pair = made(tmp_path, "server", "127.0.0.1", issuer=authority)
    with Redis(tmp_path / "redis", tls=(pair.cert, pair.key, authority.cert)) as server:
        yield server, authority.cert


async def test_tls_with_the_authority(secure: tuple[Redis, str]) -> None:
    redis, ca = secure
    async with connected(settings(redis.port, tls=RedisTls(ca=ca))) as server:
        assert await call(server, COUNT, [server.key("k")], 1) == 1
        value = "x" * 3_000_000
        assert await command(server, "SET", server.key("v"), value, bulk=True) == b"OK"
        assert await command(server, "GET", server.key("v"), bulk=True) == value.encode()
    async with connected(settings(redis.port, tls=RedisTls(verify=False))) as server:
        assert await call(server, COUNT, [server.key("k")], 1) == 2


async def test_a_certificate_of_somebody_else_is_refused(secure: tuple[Redis, str]) -> None:
    async with connected(settings(secure[0].port, tls=RedisTls()), wait=False) as server:
        await until(lambda: "certificate" in server.cause.text.lower())
        assert not server.available


def is_auth(server: RedisServer) -> bool:
    return server.cause.cause == "auth"


async def test_users_of_the_acl_and_wrong_passwords(tmp_path: Path) -> None:
    with Redis(tmp_path / "redis") as redis:
        redis.ask("ACL", "SETUSER", "relayd", "on", f">{PASSWORD}", "~{relayd}*", "~relayd:*", "+@all")
        redis.ask("ACL", "SETUSER", "default", "off")
        user = {"username": "relayd", "password": Secret(PASSWORD, "file x")}
        async with connected(settings(redis.port, **user)) as server:
            assert await call(server, COUNT, [server.key("k")], 1) == 1
            failure = await call(server, COUNT, ["elsewhere"], 1)
            assert isinstance(failure, RedisFailure) and failure.cause == "permission"
            assert PASSWORD not in f"{server.describe()}{failure}{server.settings!r}"
        for wrong in ({}, {**user, "password": Secret("wrong-one", "file x")}, {**user, "username": "nobody"}):
            async with connected(settings(redis.port, **wrong), wait=False) as server:
                await until(functools.partial(is_auth, server))
                assert "wrong-one" not in str(server.describe())


async def test_sentinels_that_cannot_be_asked_or_know_no_master(tmp_path: Path) -> None:
    password = Secret(PASSWORD, "file x")
    with Redis(tmp_path / "redis", password=PASSWORD) as redis:  # not a Sentinel
        for port, user in ((free_port(), ""), (redis.port, ""), (redis.port, "default")):
            sentinels = RedisSentinels("shared", (("127.0.0.1", port),), user, password)
            with pytest.raises(RedisFailure) as raised:
                await client().master_address(RedisSettings(sentinel=sentinels), 5.0)
            assert raised.value.cause in ("no_master", "connect", "script") and PASSWORD not in str(raised.value)


def test_slots_of_keys() -> None:
    assert client().key_slot("{a}b") == client().key_slot("{a}c") != client().key_slot("b")


async def test_a_unix_socket_and_a_database(tmp_path: Path) -> None:
    path = str(tmp_path / "redis.sock")
    with Redis(tmp_path / "redis", "--unixsocket", path) as redis:
        async with connected(RedisSettings(addresses=(path,), database=3, timeout_s=5.0)) as server:
            assert await call(server, COUNT, [server.key("k")], 1) == 1
            assert redis.ask("GET", server.key("k")) is None and "db3:keys=2" in redis.ask("INFO", "keyspace").decode()


async def test_what_is_no_redis_is_reported(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with connected(settings(listener.getsockname()[1]), wait=False) as server:
            listener.settimeout(30)
            peer, _ = await asyncio.to_thread(listener.accept)
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await until(lambda: server.cause.cause in ("protocol", "connect", "lost") and "not yet" not in server.cause.text)
            peer.close()
            assert not server.available
