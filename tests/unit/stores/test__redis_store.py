"""The store in a real Redis: shared by two, read at once, bounded; Redis away, back, and what `on_failure` means."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.errors import ExchangeError
from relayd.protocols.dialect import run_steps
from relayd.stores import _redis_server, _redis_writes
from relayd.stores._redis_failure import RedisFailure
from relayd.stores._redis_store import RedisStore
from relayd.wire.json_steps import Steps
from relayd.wire.waiting import Waiting
from tests.functional.harness.redis import Cluster, Redis, needs_redis
from tests.unit.stores.redis_aids import settings, until

pytestmark = needs_redis()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with Redis(tmp_path / "redis") as server:
        yield server


@contextlib.asynccontextmanager
async def opened(
    port: int, on_failure: Any = "local", *, size: int = 1 << 20, entries: int = 100, ttl_s: float = 60.0, **wanted: Any
) -> AsyncIterator[RedisStore]:
    store = RedisStore(settings(port, **wanted), entries, size, ttl_s, on_failure)
    try:
        await until(lambda: store.server.available)
        yield store
    finally:
        store.close()
        await asyncio.sleep(0)


async def result(steps: Steps[Any]) -> Any:
    """Run steps as the path of a request does."""
    while True:
        try:
            waiting = next(steps)
        except StopIteration as end:
            return end.value
        if isinstance(waiting, Waiting):
            done = asyncio.Event()
            waiting.when_done(done.set)
            await asyncio.wait_for(done.wait(), 30)


async def written(store: RedisStore) -> None:
    await until(lambda: not store._writes.waiting and not store.server.waiting)


async def test_a_value_is_read_at_once_by_its_writer_and_soon_by_the_others(redis: Redis) -> None:
    async with opened(redis.port) as one, opened(redis.port) as two:
        mine, yours = one.space("team"), two.space("team")
        mine.put("a", {"x": 1})
        assert mine.get("a") == {"x": 1} and await result(mine.get_steps("a")) == {"x": 1}
        mine.put("a", {"x": 2})  # while the first change is under way
        mine.put("a", {"x": 3})
        assert await result(mine.get_steps("a")) == {"x": 3}
        await written(one)
        assert yours.get("a") is None and yours.must_fetch, "get does not ask"
        await result(yours.fetch_steps(["a", "b"]))
        assert yours.get("a") == {"x": 3} and yours.get("b") is None
        assert await result(two.space("other").get_steps("a")) is None
        yours.delete("a")
        assert yours.get("a") is None and await result(yours.get_steps("a")) is None
        await written(two)
        assert await result(mine.get_steps("a")) is None and mine.get("a") is None


async def test_every_key_of_redis_has_the_prefix_and_a_time_to_live(redis: Redis) -> None:
    async with opened(redis.port, prefix="mine") as store:
        for number in range(5):
            store.space(f"team-{number} {{x}}%").put("a", "x" * number)
        await written(store)
        keys = redis.keys("*")
        assert len(keys) == 5 * 3 + 3 + 1 and all(key.startswith(("mine:{", "{mine}:")) for key in keys)
        assert all(0 < redis.ask("PTTL", key) <= 130_000 for key in keys)
        assert [one.space for one in await result(store.list_steps("team-3", 10))] == ["team-3 {x}%"]


async def test_comparing_and_changing_is_exact_between_processes(redis: Redis) -> None:
    async with opened(redis.port) as one, opened(redis.port) as two:

        async def count(store: RedisStore) -> int:
            space, lost = store.space("team"), 0
            for _ in range(40):
                while True:
                    text = await result(space.text_steps("n"))
                    if await result(space.swap_steps("n", text, str(int(text or 0) + 1))):
                        break
                    lost += 1
            return lost

        lost = await asyncio.gather(count(one), count(two), count(one))
        assert await result(two.space("team").get_steps("n")) == 120 and sum(lost) > 0
        assert await result(one.space("team").swap_steps("n", "120", None))
        assert await result(two.space("team").get_steps("n")) is None


async def test_all_spaces_together_are_bounded_and_the_largest_gives_way(redis: Redis) -> None:
    async with opened(redis.port, size=100_000, entries=10_000) as store:
        store.space("quiet").put("a", "x" * 5_000)
        for number in range(12):
            for other in range(4):
                store.space(f"loud-{other}").put(str(number), "x" * 5_000)
        await written(store)
        listed = await result(store.list_steps("", 1000))
        assert 50_000 < sum(one.size_bytes for one in listed) <= 100_000
        assert ("quiet", "a") in {(one.space, one.key) for one in listed}
        assert int(redis.ask("GET", store._writes.index_keys[2])) == sum(one.size_bytes for one in listed)


async def test_while_redis_is_away_the_local_copy_serves_and_is_written_later(redis: Redis) -> None:
    async with opened(redis.port) as store, opened(redis.port) as other:
        space = store.space("team")
        for key in ("old", "gone"):
            space.put(key, key)
        await written(store)
        redis.pause()  # keeps its data, but does not answer
        store.server._fail(RedisFailure("timeout", "paused"))
        space.put("new", 1)
        space.put("new", 2)
        space.delete("gone")
        assert not space.lost("new") and store.describe()["degraded"] and store.describe()["waiting"] == 2
        assert await result(space.get_steps("new")) == 2 and await result(space.get_steps("old")) == "old"
        assert await result(space.get_steps("gone")) is None
        assert await result(space.swap_steps("new", "2", "3")) and not await result(space.swap_steps("new", "2", "4"))
        assert await result(store.count_steps("")) == 2
        redis.resume()
        await until(lambda: store.server.available)
        await written(store)
        theirs = other.space("team")
        await until(lambda: other.server.available)
        assert await result(theirs.get_steps("new")) == 3 and await result(theirs.get_steps("gone")) is None
        assert await result(theirs.get_steps("old")) == "old" and not store.describe()["degraded"]


@pytest.mark.parametrize("on_failure", ["open", "closed"])
async def test_open_and_closed_store_nothing_and_say_so(redis: Redis, on_failure: str) -> None:
    async with opened(redis.port, on_failure) as store:
        space = store.space("team")
        space.put("a", 1)
        await written(store)
        redis.kill()
        await until(lambda: not store.server.available)
        space.put("b", 2)
        assert "cannot be reached" in space.lost("b") and space.get("b") is None and space.get("a") is None
        if on_failure == "open":
            assert await result(space.get_steps("a")) is None
        else:
            with pytest.raises(ExchangeError) as raised:
                await result(space.get_steps("a"))
            assert raised.value.kind.code == "store_unavailable"
        assert not await result(space.swap_steps("a", "1", "2"))
        assert {failure.fault.cause for failure in store.pop_failures()} == {"unreachable"} and store.faults > 0
        redis.start()
        await until(lambda: store.server.available)
        space.put("b", 3)
        assert not space.lost("b") and await result(space.get_steps("b")) == 3


async def test_a_change_that_fails_with_the_connection_is_written_again(redis: Redis) -> None:
    async with opened(redis.port) as store:
        space = store.space("team")
        redis.pause()
        for number in range(20):
            space.put(f"k{number}", number)
        await asyncio.sleep(0)
        redis.kill()
        redis.start()
        await until(lambda: store.server.available)
        await written(store)
        assert [await result(space.get_steps(f"k{number}")) for number in range(20)] == list(range(20))
        assert store.faults == 0


async def test_what_waits_is_bounded(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_writes, "WAITING_CHANGES", 10)
    async with opened(redis.port) as store:
        space = store.space("team")
        redis.kill()
        await until(lambda: not store.server.available)
        for number in range(15):
            space.put(str(number), number)
        assert store.describe()["waiting"] == 10 and "cannot be reached" in space.lost("0") and not space.lost("14")
        assert space.get("14") == 14 and space.get("0") is None


async def test_who_waits_for_a_change_that_is_dropped_goes_on(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(redis.port) as store:
        monkeypatch.setattr(_redis_writes, "MOST_WRITING", 0)
        monkeypatch.setattr(_redis_writes, "WAITING_CHANGES", 1)
        space = store.space("team")
        space.put("a", 1)
        waiting = next(space.swap_steps("a", "1", "2"))
        assert not waiting.is_done
        space.delete("b")
        assert waiting.is_done and space.lost("a")


async def test_somebody_elses_text_counts_as_absent_and_who_cannot_wait_finds_nothing(redis: Redis) -> None:
    async with opened(redis.port) as store:
        space = store.space("team")
        space.put("a", 1)
        await written(store)
        assert run_steps(space.get_steps("a")) in (1, None) and store.get("team", "a", 60.0) == 1
        for text in ("{broken", "", bytes(range(256)), "[" * 50_000, "[" * 500_000):
            redis.ask("HSET", store._writes.keys_of("team")[1], "a", text)
            assert await result(space.get_steps("a")) is None and space.get("a") is None


async def test_a_store_that_a_reload_has_replaced_sends_what_waits_and_takes_nothing_more(redis: Redis) -> None:
    async with opened(redis.port) as store, opened(redis.port) as other:
        space = store.space("team")
        space.put("a", "x" * 100_000)
        store.close(wait=False)
        space.put("b", 2)
        assert "changed during the request" in space.lost("b") and space.get("b") is None
        await until(lambda: redis.ask("HEXISTS", store._writes.keys_of("team")[1], "a"))
        assert await result(other.space("team").get_steps("a")) == "x" * 100_000


async def test_expired_entries_are_swept(redis: Redis) -> None:
    ahead = 0
    store = RedisStore(settings(redis.port), 100, 1 << 20, 10.0, ahead_ms=lambda: ahead)
    await until(lambda: store.server.available)
    for number in range(100):
        store.space("team").put(str(number), number)
    store.space("long", 1000.0).put("a", 1)
    await written(store)
    ahead = 11_000
    for _ in range(3):
        store.sweep()
        await written(store)
    assert [one.space for one in await result(store.list_steps("", 1000))] == ["long"]
    assert await result(store.count_steps("")) == 1
    store.close()
    await asyncio.sleep(0)


async def test_in_a_cluster_the_spaces_are_spread(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        async with opened(cluster.nodes[0].port, cluster=True) as store:
            for number in range(20):
                store.space(f"team-{number}").put("a", number)
            await written(store)
            for number in range(20):
                assert await result(store.space(f"team-{number}").get_steps("a")) == number
            assert await result(store.count_steps("team")) == 20
            assert all(node.keys("relayd:{s:team*") for node in cluster.nodes)


async def test_a_change_that_too_many_operations_refuse_is_repeated(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(redis.port) as one, opened(redis.port) as two:
        mine, yours = one.space("team"), two.space("team")
        mine.put("a", 1)
        await written(one)
        monkeypatch.setattr(_redis_server, "MOST_WAITING", 0)
        mine.delete("a")
        mine.put("b", 2)
        await until(lambda: one.server.failures.get("overloaded", 0) >= 2)
        monkeypatch.setattr(_redis_server, "MOST_WAITING", 100)
        await written(one)
        assert await result(yours.get_steps("a")) is None and await result(yours.get_steps("b")) == 2
        assert one.pop_failures() == []


async def test_a_value_that_cannot_be_read_because_of_too_many_operations_is_not_absent(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(redis.port) as one, opened(redis.port) as two:
        one.space("team").put("a", 1)
        await written(one)
        monkeypatch.setattr(_redis_server, "MOST_WAITING", 0)
        assert await result(one.space("team").get_steps("a")) == 1, "of this instance"
        for steps in (two.space("team").get_steps("a"), two.list_steps("", 10), two.count_steps("")):
            with pytest.raises(ExchangeError, match="store_unavailable"):
                await result(steps)
        monkeypatch.setattr(_redis_server, "MOST_WAITING", 100)
        assert await result(two.space("team").get_steps("a")) == 1


async def test_a_read_that_failed_says_so_until_one_succeeds(redis: Redis) -> None:
    async with opened(redis.port, timeout_s=0.2) as store:
        space = store.space("team")
        redis.pause()
        assert await result(space.get_steps("a")) is None
        redis.resume()
        assert space.lost("a") == "the gateway's store cannot be reached"
        await until(lambda: store.server.available)
        assert await result(space.get_steps("a")) is None and space.lost("a") == ""


async def test_new_values_are_lost_before_deletions(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_writes, "WAITING_CHANGES", 4)
    async with opened(redis.port) as one, opened(redis.port) as two:
        space = one.space("team")
        space.put("old", 1)
        await written(one)
        redis.kill()
        await until(lambda: not one.server.available)
        space.delete("old")
        for number in range(6):
            space.put(f"n{number}", number)
        assert one.describe()["waiting"] == 4 and space.lost("n0") and not space.lost("n5")
        assert one._writes.pending(("team", "old")) is not None
        redis.start()
        await until(lambda: one.server.available and two.server.available)
        await written(one)
        assert await result(two.space("team").get_steps("n5")) == 5
