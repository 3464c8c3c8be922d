"""Key stores of several machines before one real Redis: what one changes is changed on all, also after an outage."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import io
import json
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from relayd.access.key_journal import KeyJournal
from relayd.access.key_record import KeyRecord
from relayd.access.key_store import KeyStore
from relayd.config.load import load_text
from relayd.daemon.shared_keys import PAGE, SharedKeys, rank_of
from relayd.daemon.timers import Timers
from relayd.plan.compile import compile_plan
from relayd.stores._redis_server import RedisServer
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from tests.functional.harness.redis import Redis, needs_redis
from tests.unit.stores.redis_aids import settings, until

pytestmark = needs_redis()
NOW_S = 1_900_000_000.0


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def record(name: str, **further: float) -> KeyRecord:
    members = {"created_s": NOW_S, **further}
    return KeyRecord(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[:12], name, digest(name).hex(), **members)  # type: ignore[arg-type]


class Machine:
    """The key store of one machine, and the service that shares it."""

    def __init__(self, redis: Redis, folder: Path, prefix: str) -> None:
        self.server = RedisServer(settings(redis.port, prefix=prefix, timeout_s=2.0))
        self.log = io.StringIO()
        journal = Telemetry.build(TelemetrySettings(access_format="off", log_format="json"), self.log).journal
        self.service = SharedKeys(lambda: self.server, str(folder), journal)
        self.folder, self.file, self.store = folder, KeyJournal(str(folder)), KeyStore(str(folder))
        self.timers = Timers(asyncio.get_running_loop())
        text = "listeners: {p: {address: '127.0.0.1:1'}}\nupstreams: {u: {endpoints: ['http://127.0.0.1:2']}}\nroutes: [{name: all, upstream: u}]"
        self.service.commit(compile_plan(load_text(text, "relayd.yaml").config, 1, None))
        self.service.start(self.timers)

    def change(self, *records: KeyRecord) -> None:
        """What `relayd keys` does."""
        with self.file.locked():
            self.file.append(self.file.read(), records, NOW_S)

    def accepts(self, key: str) -> bool:
        """Whether a request with this key is accepted now."""
        self.store.load()
        return self.store.find(digest(key)) is not None

    def count(self) -> int:
        return len(list(self.file.read().records()))

    def close(self) -> None:
        self.timers.close()
        self.service.close()
        self.server.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextlib.asynccontextmanager
async def machines(redis: Redis, folder: Path, prefix: str, count: int = 2) -> AsyncIterator[list[Machine]]:
    found = [Machine(redis, folder / f"{number}", prefix) for number in range(count)]
    try:
        yield found
    finally:
        for one in found:
            one.close()
        await asyncio.sleep(0)


def test_a_revoked_state_is_last_and_then_the_newest() -> None:
    one = record("a")
    rotated = dataclasses.replace(one, rotated_s=NOW_S + 9)
    states = [one, rotated, dataclasses.replace(one, revoked_s=NOW_S + 1)]
    assert sorted(states, key=rank_of) == states


async def test_a_key_is_issued_rotated_and_revoked_on_all_machines(shared: Redis, tmp_path: Path) -> None:
    async with machines(shared, tmp_path, "life") as (one, other):
        one.change(record("alice"), record("bob"))
        await until(lambda: other.accepts("alice") and other.accepts("bob"))
        rotated = dataclasses.replace(record("alice"), digest=digest("new").hex(), rotated_s=NOW_S + 5)
        other.change(rotated)
        await until(lambda: one.accepts("new") and not one.accepts("alice"))
        one.change(dataclasses.replace(rotated, revoked_s=NOW_S + 6))
        await until(lambda: not other.accepts("new"))
        assert one.accepts("bob") and other.accepts("bob")
        lines = (tmp_path / "1" / "keys.jsonl").read_bytes().splitlines()
        assert len(lines) == 5, "each change is written once"


async def test_redis_has_digests_only(shared: Redis, tmp_path: Path) -> None:
    async with machines(shared, tmp_path, "digests", 1) as (one,):
        one.change(record("secret-word"))
        await until(lambda: "{digests}:keys:records" in shared.keys("*digests*"))
        held = b"".join(shared.ask("HVALS", "{digests}:keys:records"))
        assert digest("secret-word").hex().encode() in held
        assert json.loads(held.partition(b" ")[2]).keys() == {"id", "name", "digest", "created_s"}


async def test_a_revocation_during_an_outage_is_in_force_when_redis_returns(tmp_path: Path) -> None:
    with Redis(tmp_path / "redis") as redis:
        async with machines(redis, tmp_path, "outage") as (one, other):
            one.change(record("alice"))
            await until(lambda: other.accepts("alice"))
            redis.kill(signal.SIGKILL)  # it keeps nothing on disk
            await until(lambda: not one.server.available and not other.server.available)
            one.change(dataclasses.replace(record("alice"), revoked_s=NOW_S + 1))
            other.change(record("carol"))
            assert other.accepts("alice"), "the file of this machine is what it knows"
            redis.start()
            await until(lambda: not other.accepts("alice") and one.accepts("carol"))


async def test_a_machine_that_was_down_learns_everything(shared: Redis, tmp_path: Path) -> None:
    many = [record(f"k{number}") for number in range(3 * PAGE + 7)]
    async with machines(shared, tmp_path, "many", 1) as (one,):
        one.change(*many)
        await until(lambda: shared.ask("HLEN", "{many}:keys:records") == len(many))
        one.change(*(dataclasses.replace(each, revoked_s=NOW_S + 1) for each in many[:9]))
    late = Machine(shared, tmp_path / "late", "many")
    again = Machine(shared, tmp_path / "0", "many")  # its file has what it could not share before its end
    await until(lambda: late.count() == len(many) and not late.accepts("k0") and late.accepts("k9"))
    late.close()
    again.close()
    await asyncio.sleep(0)


async def test_what_redis_loses_is_shared_again(shared: Redis, tmp_path: Path) -> None:
    async with machines(shared, tmp_path, "lost") as (one, other):
        one.change(record("alice"))
        await until(lambda: other.accepts("alice"))
        shared.ask("DEL", "{lost}:keys:records", "{lost}:keys:changes", "{lost}:keys:state")
        one.change(record("bob"))
        await until(lambda: other.accepts("bob"))
        await until(lambda: shared.ask("HLEN", "{lost}:keys:records") == 2)


async def test_a_folder_that_cannot_be_written_is_reported_and_tried_again(shared: Redis, tmp_path: Path) -> None:
    (tmp_path / "1").write_text("no folder")
    async with machines(shared, tmp_path, "folder") as (one, other):
        one.change(record("alice"))
        await until(lambda: "keys_not_shared" in other.log.getvalue())
        (tmp_path / "1").unlink()
        await until(lambda: other.accepts("alice"))


async def test_data_that_is_no_record_is_left_out(shared: Redis, tmp_path: Path) -> None:
    async with machines(shared, tmp_path, "damaged") as (one, other):
        one.change(record("alice"))
        await until(lambda: other.accepts("alice"))
        shared.ask("HSET", "{damaged}:keys:records", "0" * 12, "9 {not json")
        shared.ask("ZADD", "{damaged}:keys:changes", 99, "0" * 12)
        shared.ask("HSET", "{damaged}:keys:state", "number", 99)
        one.change(record("bob"))
        await until(lambda: other.accepts("bob"))
        assert other.count() == 2
