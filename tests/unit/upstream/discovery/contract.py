"""What every kind of discovery must do; each kind's own test file runs this suite and adds what is its own.

A `Source` is the real thing behind a kind: a file, a name server, a program, an engine.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from relayd import registry
from relayd.daemon.endpoint_lists import parse_endpoints
from relayd.schema.describe import is_section
from relayd.upstream.discovered import FOLDER, Address, ApiClient, Discovery, LookupFault, Tools, discovery
from relayd.upstream.spec import DiscoverySpec

WAIT_S = 20.0


def no_client(url: str) -> ApiClient:
    raise LookupFault("this kind needs no client")


TOOLS = Tools(parse_endpoints, no_client)


class Reports:
    """Collects what a discovery reports. `seen` are URLs or, after a failure, its reason."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, ...] | str] = []
        self.addresses: tuple[Address, ...] = ()
        self.notes: list[str] = []
        self.pauses: list[float] = []
        self.confirmations = 0
        self._news = asyncio.Event()

    def found(self, addresses: Sequence[Address], note: str = "") -> None:
        self.addresses = tuple(addresses)
        self.notes.append(note)
        self.seen.append(tuple(one.url for one in addresses))
        self._news.set()

    def confirmed(self) -> None:
        assert isinstance(self.seen[-1], tuple), "a failure cannot be confirmed"
        self.confirmations += 1

    def failed(self, reason: str, expired: bool = False) -> None:
        self.seen.append(reason)
        if expired:
            self.seen.append(())
        self._news.set()

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(seconds)

    @property
    def found_last(self) -> tuple[str, ...]:
        return next((one for one in reversed(self.seen) if isinstance(one, tuple)), ())

    async def until_found(self, *urls: str) -> None:
        """Wait for a report of exactly these addresses, in any order, as the last one."""
        async with asyncio.timeout(WAIT_S):
            while not self.seen or not isinstance(self.seen[-1], tuple) or sorted(self.seen[-1]) != sorted(urls):
                await self._next()

    async def until_failed(self, part: str = "") -> str:
        """Wait for a failure with this text in its reason. Returns the reason."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for one in self.seen:
                    if isinstance(one, str) and part in one:
                        return one
                await self._next()

    async def until_count(self, count: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(self.seen) < count:
                await self._next()

    async def _next(self) -> None:
        self._news.clear()
        await self._news.wait()


class Source:
    """The real thing behind a kind. `urls` are two addresses that it can name."""

    tools = TOOLS
    urls = ("http://127.0.0.1:8001", "http://127.0.0.2:8001")

    def options(self) -> dict[str, Any]:
        """Options with short intervals."""
        raise NotImplementedError

    async def set(self, *urls: str) -> None:
        """Make it name exactly these addresses."""
        raise NotImplementedError

    async def fail(self) -> None:
        """Make its lookups fail."""
        raise NotImplementedError


class Contract:
    """`kind` is the key in relayd.yaml."""

    kind = ""

    def source(self, folder: Any) -> contextlib.AbstractAsyncContextManager[Source]:
        raise NotImplementedError

    def made(self, source: Source, **options: Any) -> Discovery:
        module = registry.load(FOLDER, self.kind)
        return discovery(DiscoverySpec(self.kind, module.Options(**{**source.options(), **options})), source.tools)

    @contextlib.asynccontextmanager
    async def at_work(self, source: Source, **options: Any) -> AsyncIterator[Reports]:
        reports = Reports()
        task = asyncio.create_task(self.made(source, **options).run(reports))
        try:
            yield reports
        finally:
            assert not task.done(), task.exception()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def test_the_module_is_a_kind(self) -> None:
        assert self.kind in registry.kinds(FOLDER)
        module = registry.load(FOLDER, self.kind)
        assert is_section(module.Options) and len(registry.summary(FOLDER, self.kind)) > 20

    async def test_the_source_names_the_kind_and_what_is_looked_up(self, tmp_path: Any) -> None:
        async with self.source(tmp_path) as source:
            assert self.made(source).source.startswith(f"{self.kind} ")
            assert len(self.made(source).source) > len(self.kind) + 1

    async def test_construction_and_check_have_no_side_effects(self, tmp_path: Any) -> None:
        async with self.source(tmp_path) as source:
            await source.set(source.urls[0])
            before = asyncio.all_tasks()
            assert list(self.made(source).cautions()) == list(self.made(source).faults()) == []
            assert asyncio.all_tasks() == before

    async def test_addresses_are_found_and_follow_the_source(self, tmp_path: Any) -> None:
        async with self.source(tmp_path) as source:
            first, second = source.urls
            await source.set(first)
            async with self.at_work(source) as reports:
                await reports.until_found(first)
                await source.set(first, second)
                await reports.until_found(first, second)
                await source.set(second)
                await reports.until_found(second)

    async def test_a_failed_lookup_has_a_reason_and_reports_no_addresses(self, tmp_path: Any) -> None:
        async with self.source(tmp_path) as source:
            await source.set(source.urls[0])
            async with self.at_work(source) as reports:
                await reports.until_found(source.urls[0])
                await source.fail()
                assert len(await reports.until_failed()) > 10
                assert reports.found_last == (source.urls[0],)
                await source.set(source.urls[1])
                await reports.until_found(source.urls[1])

    async def test_a_source_that_fails_from_the_start_is_asked_again(self, tmp_path: Any) -> None:
        async with self.source(tmp_path) as source:
            await source.fail()
            async with self.at_work(source) as reports:
                await reports.until_failed()
                await source.set(source.urls[0])
                await reports.until_found(source.urls[0])

    async def test_the_end_leaves_no_task_behind(self, tmp_path: Any) -> None:
        async with self.source(tmp_path) as source:
            await source.set(source.urls[0])
            before = asyncio.all_tasks()
            async with self.at_work(source) as reports:
                await reports.until_found(source.urls[0])
            async with asyncio.timeout(WAIT_S):
                while asyncio.all_tasks() != before:  # the real thing may run on this loop, and ends with its client
                    await asyncio.sleep(0.01)
