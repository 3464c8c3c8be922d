"""The lease and the texts of machines at one real Redis: who may order, what is refused, and what a fault leaves."""

from __future__ import annotations

import asyncio
import contextlib
import io
import platform
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("acme", reason="needs python3-acme")

from relayd.acme.sharing import Away, Lease
from relayd.acme.spec import CertificateSpec
from relayd.acme.state import LockedByOther, Record, State
from relayd.config.acme import Acme
from relayd.daemon import shared_certificates
from relayd.daemon.shared_certificates import LEASE_MS, SharedCertificates
from relayd.schema import Secret
from relayd.stores._redis_server import RedisServer
from relayd.telemetry.journal import Journal
from tests.functional.harness.redis import Redis, needs_redis
from tests.unit.acme.test_shared_items import NAME, URL
from tests.unit.acme.test_shared_items import Machine as Files
from tests.unit.stores.redis_aids import command, settings, until

pytestmark = needs_redis()
KEY = "0123456789" * 4


class Machine:
    """One relayd: its state, and what shares it. `lines` are those of its log."""

    def __init__(self, redis: Redis, folder: Path, host: str, prefix: str, key: str = KEY) -> None:
        self.server = RedisServer(settings(redis.port, prefix=prefix))
        self.files = Files(folder, host)
        self._log, self.received = io.StringIO(), 0
        self.shared = SharedCertificates(self.files.state, Journal("text", stream=self._log), self._on_change)
        self.specs = (CertificateSpec(NAME, Acme(domains=(NAME,), directory=(URL,), sharing_key=Secret(key, "file k")), ()),)
        self.shared.commit(self.server, self.specs)

    @property
    def lines(self) -> list[str]:
        return self._log.getvalue().splitlines()

    def has_logged(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def _on_change(self) -> None:
        self.received += 1

    async def exchange(self) -> None:
        await asyncio.to_thread(self._exchange)

    def _exchange(self) -> None:
        assert self.shared._group is not None
        self.shared.exchange(self.shared._group)

    async def within(self, use: Callable[[Lease], Any]) -> Any:
        """The result of a function that is called while this machine has the lease. Raises LockedByOther, Away."""

        def run() -> Any:
            with self.shared.lease(threading.Event()) as lease:
                return use(lease)

        return await asyncio.to_thread(run)

    def close(self) -> None:
        self.shared.close()
        self.server.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextlib.asynccontextmanager
async def machines(redis: Redis, folder: Path, prefix: str, *keys: str) -> AsyncIterator[list[Machine]]:
    found = [Machine(redis, folder, f"m{number}", prefix, key) for number, key in enumerate(keys or (KEY, KEY))]
    try:
        for one in found:
            await until(partial(getattr, one.server, "available"))
            await one.exchange()
        yield found
    finally:
        for one in found:
            one.close()
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_certificates, "SETTLE_S", 0.0)


async def state(one: Machine, *words: str) -> Any:
    assert one.shared._group is not None
    verb, *fields = words
    return await command(one.server, verb, one.shared._group.keys[2], *fields)


def test_one_machine_has_the_lease_and_the_next_one_a_higher_number(shared: Redis, tmp_path: Path) -> None:
    async def case() -> None:
        async with machines(shared, tmp_path, "lease") as (one, two):
            entered, leave = threading.Event(), threading.Event()

            def fence(lease: Any) -> str:
                return str(lease.fence)

            def hold(lease: Any) -> str:
                entered.set()
                assert leave.wait(60)
                return fence(lease)

            first = asyncio.ensure_future(one.within(hold))
            await until(entered.is_set)
            with pytest.raises(LockedByOther):
                await two.within(lambda lease: None)
            leave.set()
            earlier = await first
            assert await two.within(fence) > earlier

    asyncio.run(case())


def test_what_a_machine_still_sends_after_another_one_has_got_the_lease_is_refused(shared: Redis, tmp_path: Path) -> None:
    async def case() -> None:
        async with machines(shared, tmp_path, "fence") as (one, two):
            one.files.obtain(-2)
            two.files.obtain(-1)
            entered, taken = threading.Event(), threading.Event()

            def stopped_for_long(lease: Lease) -> bool:
                entered.set()
                assert taken.wait(60)
                lease.answer("http-01", NAME, "late", "late.thumb")
                lease.share(NAME)
                return lease.halt.is_set()

            first = asyncio.ensure_future(one.within(stopped_for_long))
            await until(entered.is_set)
            await state(one, "HSET", "until", "1")  # the lease has run out
            await two.within(lambda lease: lease.share(NAME))
            taken.set()
            assert await first, "the order ends"
            await two.exchange()
            assert two.files.state.http_response(b"/.well-known/acme-challenge/late") is None
            await one.exchange()
            assert one.files.pem == two.files.pem, "the later certificate is that of both"

    asyncio.run(case())


def test_the_lease_of_a_machine_that_has_died_ends_also_if_the_clock_of_redis_was_set_back(shared: Redis, tmp_path: Path) -> None:
    async def case() -> None:
        async with machines(shared, tmp_path, "clock") as (one, _):
            seconds, _ = shared.ask("TIME")
            await state(one, "HSET", "holder", "dead", "until", str((int(seconds) + 86400) * 1000))
            with pytest.raises(LockedByOther):
                await one.within(lambda lease: None)
            left_ms = int(await state(one, "HGET", "until")) - int(seconds) * 1000
            assert left_ms <= LEASE_MS + 60_000

    asyncio.run(case())


def test_a_challenge_is_there_on_all_machines_before_the_authority_is_told(shared: Redis, tmp_path: Path) -> None:
    async def case() -> None:
        async with machines(shared, tmp_path, "challenge") as (one, two):
            path = b"/.well-known/acme-challenge/token"
            stop = asyncio.Event()

            async def ticking() -> None:
                while not stop.is_set():
                    await two.exchange()

            ticks = asyncio.ensure_future(ticking())

            def ask(lease: Lease) -> bytes | None:
                lease.answer("http-01", NAME, "token", "token.thumb")
                return two.files.state.http_response(path)

            def ask_and_end(lease: Lease) -> bytes | None:
                found = ask(lease)
                lease.end_answer()
                return found

            assert await one.within(ask_and_end) == b"token.thumb"
            stop.set()
            await ticks
            await two.exchange()
            assert two.files.state.http_response(path) is None

    asyncio.run(case())


def test_what_redis_has_lost_is_offered_again_and_reaches_a_new_machine(shared: Redis, tmp_path: Path) -> None:
    async def case() -> None:
        async with machines(shared, tmp_path, "lost") as (one, two):
            one.files.obtain(-1)
            await one.within(lambda lease: lease.share(NAME))
            await two.exchange()
            assert two.files.pem == one.files.pem and one.files.state.read_record(NAME).origin == ""
            await until(lambda: two.received == 1)
            assert one.shared._group is not None
            await command(one.server, "DEL", *one.shared._group.keys)
            await one.exchange()
            await one.exchange()
            three = Machine(shared, tmp_path, "m3", "lost")
            try:
                await until(lambda: three.server.available)
                await three.exchange()
                assert three.files.pem == one.files.pem
                assert three.files.state.read_record(NAME).origin == platform.node()
            finally:
                three.close()

    asyncio.run(case())


def test_machines_with_another_key_are_reported_and_do_not_disturb_each_other(shared: Redis, tmp_path: Path) -> None:
    async def case() -> None:
        async with machines(shared, tmp_path, "keys", KEY, KEY[::-1]) as (one, two):
            one.files.obtain(-1)
            await one.exchange()
            await two.within(lambda lease: None)
            await two.exchange()
            await one.exchange()
            assert two.files.pem == b""
            for machine in (one, two):
                await until(partial(machine.has_logged, "another sharing_key"))
                assert not any(KEY in line or KEY[::-1] in line for line in machine.lines)

    asyncio.run(case())


def test_a_text_that_somebody_has_damaged_is_reported_and_not_used(shared: Redis, tmp_path: Path) -> None:
    async def case() -> None:
        async with machines(shared, tmp_path, "damaged") as (one, two):
            one.files.obtain(-1)
            await one.within(lambda lease: lease.share(NAME))
            assert one.shared._group is not None
            texts = one.shared._group.keys[0]
            name, text = await command(one.server, "HGETALL", texts)
            await command(one.server, "HSET", texts, name.decode(), text[:-5] + b"AAAAA")
            await two.exchange()
            assert two.files.pem == b"" and two.files.state.read_record(NAME) == Record()
            await until(lambda: any("certificate_refused" in line and "another key" in line for line in two.lines))

    asyncio.run(case())


def test_while_redis_is_away_nothing_is_leased_and_the_reason_is_named(tmp_path: Path) -> None:
    async def case() -> None:
        with Redis(tmp_path / "redis") as redis:
            async with machines(redis, tmp_path, "away") as (one, _):
                redis.kill()
                await until(lambda: not one.server.available)
                with pytest.raises(Away):
                    await one.within(lambda lease: None)
                one.shared.commit(None, one.specs)
                assert not (await one.within(lambda lease: lease.halt)).is_set(), "without a shared store it orders alone"
                one.shared.close()
                one.shared.commit(one.server, one.specs)
                with pytest.raises(Away, match="ends"):
                    await one.within(lambda lease: None)

    asyncio.run(case())


def test_a_state_that_is_lost_is_a_fault_of_this_machine_only(shared: Redis, tmp_path: Path) -> None:
    async def case() -> None:
        async with machines(shared, tmp_path, "disk") as (one, two):
            one.files.obtain(-1)
            await one.within(lambda lease: lease.share(NAME))
            two.files.state.folder = str(tmp_path / "nowhere")
            two.shared.tick()
            await until(lambda: any("certificates_not_shared" in line for line in two.lines))
            two.files.state.folder = State(str(tmp_path / "m1")).folder
            await two.exchange()
            assert two.files.pem == one.files.pem

    asyncio.run(case())
