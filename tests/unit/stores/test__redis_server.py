"""A real Redis that is asked, paused, killed, filled, made read-only; with Sentinels and as a Cluster."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd import registry
from relayd.stores import _redis_server
from relayd.stores._redis_failure import RedisFailure
from relayd.stores._redis_server import Script
from relayd.stores._redis_settings import RedisSentinels, RedisSettings
from tests.aids.ports import free_port
from tests.functional.harness.redis import Cluster, Redis, Sentinels, needs_redis
from tests.unit.stores.redis_aids import COUNT, call, command, connected, settings, until

pytestmark = needs_redis()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A server that no test harms."""
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with Redis(tmp_path / "redis") as server:
        yield server


async def test_scripts_and_commands_are_answered_in_order(shared: Redis) -> None:
    async with connected(settings(shared.port)) as server:
        results: list[Any] = []
        key = server.key("order")
        assert await call(server, COUNT, [key], 0) == 0  # the server knows the script
        for number in range(50):
            server.call(COUNT, [key], [1], results.append)
            server.command("ECHO", f"n{number}", on_done=results.append)
        assert not results
        await until(lambda: len(results) == 100)
        assert results[::2] == list(range(1, 51)) and results[1::2] == [b"n%d" % one for one in range(50)]
        assert await command(server, "SET", key, "é\udc80\r\n$5", "PX", 60000) == b"OK"
        assert await command(server, "GET", key) == "é\udc80\r\n$5".encode("utf-8", "surrogatepass")
        assert await command(server, "GET", server.key("absent")) is None
        assert key == "{relayd}:order" and server.calls == 104


async def test_the_operations_of_a_turn_are_one_write_and_turns_do_not_wait_for_each_other(
    shared: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    async with connected(settings(shared.port)) as server:
        assert server._main is not None
        transport = server._main.fast._transport
        assert transport is not None
        real = transport.write

        def write(data: bytes) -> None:
            writes.append(len(data))
            real(data)

        monkeypatch.setattr(transport, "write", write, raising=False)
        results: list[Any] = []
        for _ in range(3):
            for _ in range(20):
                server.call(COUNT, [server.key("turns")], [1], results.append)
            await asyncio.sleep(0)
        assert len(writes) == 3 and not results
        await until(lambda: len(results) == 60)
        assert results == list(range(1, 61))


async def test_a_script_that_the_server_has_forgotten_is_sent_once_more(shared: Redis) -> None:
    async with connected(settings(shared.port)) as server:
        key, results = server.key("flush"), list[Any]()
        for number in range(400):
            server.call(COUNT, [key], [1], results.append)
            if number % 7 == 0:
                server.command("SCRIPT", "FLUSH", on_done=lambda result: None)
            if number % 3 == 0:
                await asyncio.sleep(0)
        await until(lambda: len(results) == 400)
        assert sorted(results) == list(range(1, 401)), "each was executed exactly once"
        assert server.available


async def test_an_error_of_a_script_is_a_failure_of_this_call_only(shared: Redis) -> None:
    async with connected(settings(shared.port)) as server:
        wrong = Script("wrong", "redis.call('SET', KEYS[1], 1) return redis.call('HGET', KEYS[1], 'a')")
        failure = await call(server, wrong, [server.key("wrong")])
        assert isinstance(failure, RedisFailure) and failure.cause == "script" and failure.unknown
        assert await call(server, COUNT, [server.key("wrong")], 1) == 2 and server.available


async def test_a_callback_that_raises_takes_nothing_from_the_others(shared: Redis) -> None:
    errors: list[Any] = []

    def fail(result: Any) -> None:
        raise ZeroDivisionError

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context["exception"]))
    async with connected(settings(shared.port)) as server:
        results: list[Any] = []
        server.command("ECHO", "a", on_done=results.append)
        server.command("ECHO", "b", on_done=fail)
        server.command("ECHO", "c", on_done=results.append)
        await until(lambda: len(results) == 2)
        assert results == [b"a", b"c"] and isinstance(errors[0], ZeroDivisionError) and server.available


async def test_what_waits_is_bounded(shared: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_server, "MOST_WAITING", 10)
    async with connected(settings(shared.port)) as server:
        results: list[Any] = []
        for _ in range(12):
            server.call(COUNT, [server.key("bounded")], [1], results.append)
        await until(lambda: len(results) == 12)
        refused = [one for one in results if isinstance(one, RedisFailure)]
        assert len(refused) == 2 and refused[0].cause == "overloaded" and not refused[0].unknown
        assert server.available and server.failures == {"overloaded": 2}
        assert await call(server, COUNT, [server.key("bounded")], 0) == 10


async def test_large_values_do_not_delay_decisions(shared: Redis) -> None:
    async with connected(settings(shared.port)) as server:
        order: list[str] = []
        server.command("SET", server.key("large"), "x" * 20_000_000, on_done=lambda result: order.append("large"), bulk=True)
        server.call(COUNT, [server.key("small")], [1], lambda result: order.append("small"))
        await until(lambda: len(order) == 2)
        assert order == ["small", "large"]
        assert len(await command(server, "GET", server.key("large"), bulk=True)) == 20_000_000


async def test_a_server_that_is_not_there_is_unavailable_and_found_when_it_comes(tmp_path: Path) -> None:
    port = free_port()
    changes: list[bool] = []
    async with connected(settings(port), wait=False) as server:
        server.on_change(changes.append)
        assert not server.available
        failure = await call(server, COUNT, ["k"], 1)
        assert isinstance(failure, RedisFailure) and not failure.unknown
        await until(lambda: server.failures.get("connect", 0) > 2)
        assert str(port) in server.cause.text and server.describe()["cause"] == "connect"
        with Redis(tmp_path / "late", port=port):
            await until(lambda: server.available)
            assert await call(server, COUNT, [server.key("late")], 1) == 1
            assert changes == [True] and server.describe()["cause"] is None


async def test_killed_and_started_again(redis: Redis) -> None:
    changes: list[bool] = []
    async with connected(settings(redis.port)) as server:
        server.on_change(changes.append)
        assert await call(server, COUNT, [server.key("k")], 1) == 1
        redis.kill(signal.SIGKILL)
        await until(lambda: not server.available)
        failure = await call(server, COUNT, [server.key("k")], 1)
        assert isinstance(failure, RedisFailure) and not failure.unknown
        redis.start()
        await until(lambda: server.available)
        assert await call(server, COUNT, [server.key("k")], 1) == 1 and changes == [False, True]


async def test_a_paused_server_is_given_up_at_the_deadline_and_what_was_sent_is_unknown(redis: Redis) -> None:
    async with connected(settings(redis.port, timeout_s=1.0)) as server:
        results: list[Any] = []
        assert await call(server, COUNT, [server.key("k")], 0) == 0  # the server knows the script
        redis.pause()
        began = asyncio.get_running_loop().time()
        for _ in range(3):
            server.call(COUNT, [server.key("k")], [1], results.append)
        await until(lambda: len(results) == 3)
        assert asyncio.get_running_loop().time() - began >= 0.99
        assert {(one.cause, one.unknown) for one in results} == {("timeout", True)} and not server.available
        server.call(COUNT, [server.key("k")], [1], results.append)
        await until(lambda: len(results) == 4)
        assert not results[3].unknown
        redis.resume()
        await until(lambda: server.available)
        await until(lambda: redis.ask("GET", server.key("k")) == b"3")  # what was sent has been executed after all


async def test_a_call_just_after_the_connection_has_its_own_deadline(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_server, "CONNECT_S", 600.0)  # the deadline of the probe
    async with connected(settings(redis.port, timeout_s=0.2)) as server:
        redis.pause()
        assert (await call(server, COUNT, [server.key("k")], 1)).cause == "timeout"


async def test_a_server_that_stops_is_noticed_without_operations(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_server, "HEARTBEAT_S", 0.05)
    async with connected(settings(redis.port, timeout_s=0.2)) as server:
        redis.pause()
        await until(lambda: not server.available)
        assert server.cause.cause == "timeout" and server.calls == 0
        redis.resume()
        await until(lambda: server.available)


async def test_a_reply_that_came_while_the_loop_was_busy_is_in_time(shared: Redis) -> None:
    async with connected(settings(shared.port)) as server:
        assert await call(server, COUNT, [server.key("busy")], 0) == 0  # the server knows the script
    async with connected(settings(shared.port, timeout_s=0.05)) as server:
        await command(server, "SCRIPT", "LOAD", COUNT.text)  # an unknown script needs a second round trip
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        server.call(COUNT, [server.key("busy")], [1], result.set_result)
        await asyncio.sleep(0)
        end_s = time.monotonic() + 0.2
        while time.monotonic() < end_s or shared.ask("GET", server.key("busy")) != b"1":
            time.sleep(0.01)  # the loop is held beyond the deadline, and until the server has replied
        assert await result == 1 and server.available


async def test_a_read_only_replica_is_unavailable_until_it_can_be_written(redis: Redis) -> None:
    async with connected(settings(redis.port)) as server:
        redis.ask("REPLICAOF", "127.0.0.1", free_port())
        failure = await call(server, COUNT, [server.key("k")], 1)
        assert isinstance(failure, RedisFailure) and failure.cause in ("read_only", "lost", "no_master") and not server.available
        await until(lambda: server.cause.cause in ("read_only", "no_master"))
        redis.ask("REPLICAOF", "NO", "ONE")
        await until(lambda: server.available)
        assert await call(server, COUNT, [server.key("k")], 1) == 1


async def test_a_full_server_is_unavailable_until_it_has_room(redis: Redis) -> None:
    redis.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    async with connected(settings(redis.port)) as server:
        await command(server, "SET", "large", "x" * 3_000_000)
        redis.ask("CONFIG", "SET", "maxmemory", "1mb")
        failure = await call(server, COUNT, [server.key("k")], 1)
        assert isinstance(failure, RedisFailure) and (failure.cause, failure.unknown) == ("full", False)
        await until(lambda: server.failures.get("full", 0) > 1)  # the probe has failed
        assert not server.available
        redis.ask("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: server.available)


async def test_a_password_that_is_changed_is_noticed_by_the_next_connection_only(redis: Redis) -> None:
    async with connected(settings(redis.port)) as server:
        redis.ask("CONFIG", "SET", "requirepass", "secret-of-redis")
        redis.password = "secret-of-redis"
        redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until(lambda: server.cause.cause == "auth")
        assert not server.available and "secret" not in str(server.describe())


async def test_close_ends_what_waits(redis: Redis) -> None:
    async with connected(settings(redis.port)) as server:
        redis.pause()
        results: list[Any] = []
        server.call(COUNT, [server.key("k")], [1], results.append)
        await asyncio.sleep(0.01)
        server.call(COUNT, [server.key("k")], [1], results.append)
        server.close()
        await until(lambda: len(results) == 2)
        assert [(one.cause, one.unknown) for one in results] == [("closed", True), ("closed", True)], "what waits is sent before the end"
        assert (await call(server, COUNT, ["k"], 1)).cause == "closed"


async def test_sentinels_lead_to_the_new_master(tmp_path: Path) -> None:
    with Sentinels(tmp_path) as group:
        wanted = RedisSettings(sentinel=RedisSentinels(group.MASTER, tuple(group.addresses)), timeout_s=5.0)
        async with connected(wanted) as server:
            assert await call(server, COUNT, [server.key("k")], 1) == 1
            old = group.master()
            await until(lambda: group.servers[1].ask("GET", server.key("k")) == b"1")
            old.kill()
            await until(lambda: server.available and group.master() is not old)
            assert await call(server, COUNT, [server.key("k")], 1) == 2
            assert server.describe()["server"] == f"sentinel {group.MASTER}"


async def test_a_master_that_the_sentinels_have_replaced_is_left(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_server, "HEARTBEAT_S", 0.05)
    with Redis(redis.folder / "new") as other:
        named = [redis.port]

        async def master_address(*asked: Any) -> tuple[str, int]:
            return "127.0.0.1", named[0]

        wanted = RedisSettings(sentinel=RedisSentinels("shared", (("127.0.0.1", 1),)), timeout_s=5.0)
        client = registry.load("relayd.stores._redis", "client")
        monkeypatch.setattr(client, "master_address", master_address)
        changes: list[bool] = []
        async with connected(wanted) as server:
            server.on_change(changes.append)
            assert await call(server, COUNT, [server.key("k")], 1) == 1
            named[0] = other.port  # a partition: the old one still answers
            await until(lambda: changes == [False, True])
            assert await call(server, COUNT, [server.key("k")], 1) == 1 and redis.ask("GET", server.key("k")) == b"1"


async def test_a_cluster_is_asked_where_a_key_is_and_redirections_are_followed(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        async with connected(settings(cluster.nodes[0].port, cluster=True)) as server:
            keys = [server.spread_key(f"space-{number}", "k") for number in range(30)]
            for key in keys:
                assert await call(server, COUNT, [key], 1) == 1
            assert all(len(node.keys("relayd:{space*")) > 3 for node in cluster.nodes), "the keys are spread"
            slot = server._client.key_slot(keys[0])
            target = next(node for node in cluster.nodes if node is not cluster.owner(slot))
            cluster.move(slot, target)
            assert await call(server, COUNT, [keys[0]], 1) == 2, "MOVED"
            assert await call(server, COUNT, [server.key("a"), server.key("b")], 1) == 1, "keys of one decision share a slot"
            assert server.available



async def test_a_user_who_may_do_nothing_but_the_probe_causes_no_storm_of_connections(redis: Redis) -> None:
    redis.ask("ACL", "SETUSER", "default", "-@scripting")
    changes: list[bool] = []

    def use(available: bool) -> None:
        changes.append(available)
        if available:
            server.call(COUNT, ["a"], [1], lambda result: None)

    async with connected(settings(redis.port), wait=False) as server:
        server.on_change(use)
        began = time.monotonic()
        await until(lambda: server.failures.get("permission", 0) == 6)
        assert time.monotonic() - began > 0.7, "the delays before the last five connections, at least"
        redis.ask("ACL", "SETUSER", "default", "+@scripting")
        await until(lambda: server.available and changes[-1])
