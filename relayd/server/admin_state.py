"""What relayd holds about consumers, and its deletion: entries of the store, windows of rates and budgets, spend.

1. Everything is listed and deleted in steps; other work of the loop goes on in between.
2. Nothing of a request in progress is deleted: what it has reserved, and what it will store and cost, stays.
3. A store in a server that cannot be asked now is an error: its entries are neither known nor deleted.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar
from urllib.parse import unquote

from relayd.dataclass import dataclass
from relayd.errors import ExchangeError
from relayd.limits.counter import is_of, owner_of
from relayd.limits.limit_set import network_of
from relayd.limits.shared_calls import Failed
from relayd.limits.shared_windows import MOST_CLEARED
from relayd.proxy.cache_use import SPACE as CACHE
from relayd.proxy.cache_use import party_of
from relayd.proxy.client_session import ENDPOINTS, SPACE
from relayd.proxy.gateway import Gateway
from relayd.server.admin_views import JSON, Page, error_page, to_json, to_json_steps
from relayd.stores import Listed
from relayd.wire.json_steps import Steps

PREFIX = "/state/"
MOST_ENTRIES = 1_000_000
DELETED_AT_ONCE = 100
MOST_UNWRITTEN = 1000  # deletions that the store has not written yet; a store drops some beyond its own bound
UNWRITTEN_S = 0.01  # between two looks at them
KINDS = (("session", SPACE), ("session_endpoint", ENDPOINTS), ("stored", ""))  # by the beginning of the space's name
CACHED = "cached"  # answers in the caches of routes, whose spaces are those of routes

T = TypeVar("T")


class StoreAway(Exception):
    """The server of the store cannot be asked now."""


@dataclass(frozen=True, slots=True)
class StatePage:
    """The result of an action."""

    content: Page

    def page(self) -> Page:
        return self.content


async def act(gateway: Gateway, path: str) -> StatePage:
    """Perform `/state/show`, `/state/dry/CONSUMER` or `/state/forget/CONSUMER`, with a percent-encoded name."""
    action, _, name = path.removeprefix(PREFIX).partition("/")
    consumer = unquote(name)
    try:
        if action == "show" and not name:
            rows = await show(gateway)
            return StatePage((200, JSON, await finish(to_json_steps({"state": rows}))))
        if action in ("dry", "forget") and consumer:
            found = await forget(gateway, consumer, dry_run=action == "dry")
            return StatePage((200, JSON, to_json({"consumer": consumer, **found})))
    except sqlite3.Error as error:
        return StatePage(error_page(503, "not_possible", f"The file of the spend cannot be changed: {error}"))
    except (StoreAway, ExchangeError):
        return StatePage(error_page(503, "not_possible", "The server of the store cannot be reached; try again later."))
    return StatePage(error_page(404, "not_found", "There is no such action."))


async def finish(steps: Steps[T]) -> T:
    """Run steps, each in a turn of the loop. Those that wait for the store are resumed when its reply is there."""
    while True:
        try:
            waiting = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        if waiting is None:
            await asyncio.sleep(0)
        else:
            arrived = asyncio.Event()
            waiting.when_done(arrived.set)
            await arrived.wait()


async def listed(gateway: Gateway, prefix: str) -> list[Listed]:
    """The entries of the store in spaces whose names begin with `prefix`. Raises StoreAway."""
    found = await finish(gateway.store.list_steps(prefix, MOST_ENTRIES))
    require_store(gateway)
    return found


def require_store(gateway: Gateway) -> None:
    """Raises StoreAway if the store is a server that cannot be asked now."""
    if gateway.store.must_fetch and gateway.is_store_degraded():
        raise StoreAway


def kind_of(entry: Listed) -> tuple[str, str]:
    """The kind of an entry of the store, and its consumer; @ADDRESS is a client without a consumer. Answers in shared
    caches have none."""
    space = entry.space
    if space.startswith(CACHE):
        return CACHED, party_of(entry.key)
    return next((kind, space[len(begin) :]) for kind, begin in KINDS if space.startswith(begin))


async def show(gateway: Gateway) -> list[dict[str, object]]:
    """One item for each kind and consumer: `entries`, and `bytes` of entries of the store."""
    counted: dict[tuple[str, str], list[int]] = {}
    for entry in await listed(gateway, ""):
        counts = counted.setdefault(kind_of(entry), [0, 0])
        counts[0] += 1
        counts[1] += entry.size_bytes
    shared = await shared_keys(gateway)
    for consumer in gateway.ledger.consumers() if shared is None else filter(None, map(owner_of, shared)):
        counted.setdefault(("window", consumer), [0, 0])[0] += 1
    for consumer, rows in (await spend_rows(gateway)).items():
        counted[("spend", consumer)] = [rows, 0]
    return [
        {"consumer": consumer, "kind": kind, "entries": entries, "bytes": size_bytes}
        for (kind, consumer), (entries, size_bytes) in sorted(counted.items(), key=lambda item: item[0][::-1])
    ]


async def spend_rows(gateway: Gateway) -> dict[str, int]:
    """The number of saved rows of spend by consumer."""
    return {} if gateway.saved_spend is None else await gateway.saved_spend.rows()


async def forget(gateway: Gateway, consumer: str, *, dry_run: bool) -> dict[str, object]:
    """Delete the data of a consumer. Returns the numbers of deleted entries by kind."""
    found: dict[str, object] = {}
    for kind, begin in KINDS:
        entries = [one for one in await listed(gateway, begin + consumer) if one.space == begin + consumer]
        found[kind] = len(entries)
        if not dry_run:
            await delete(gateway, entries)
    answers = [one for one in await listed(gateway, CACHE) if party_of(one.key) == consumer]
    found[CACHED] = len(answers)
    if not dry_run:
        await delete(gateway, answers)
    owner = network_of(consumer[1:]) if consumer.startswith("@") else consumer
    found["window"] = await forget_windows(gateway, owner, dry_run=dry_run)
    found["spend"] = (await spend_rows(gateway)).get(consumer, 0)
    if not dry_run:
        gateway.spend.forget(consumer)
        if gateway.saved_spend is not None:
            found["spend"] = await gateway.saved_spend.forget(consumer)
        counts = ", ".join(f"{count} {kind}" for kind, count in found.items())
        gateway.telemetry.journal.info("state_forgotten", consumer=consumer, deleted=counts)
    return found


async def shared_keys(gateway: Gateway) -> set[str] | None:
    """The keys of the windows that all instances share and in which something is used; None if they share none. Raises
    StoreAway."""
    if gateway.shared is None:
        return None
    found, cursor = set[str](), "0"
    while True:
        page = await answered(partial(gateway.shared.windows.list, cursor))
        found.update(page.keys)
        cursor = page.cursor
        if cursor == "0" or len(found) > MOST_ENTRIES:
            return found


async def forget_windows(gateway: Gateway, owner: str, *, dry_run: bool) -> int:
    """Forget what a consumer, or the clients of an address, have used of rates and budgets; with a store in a server,
    for all instances. Returns the number of windows. Raises StoreAway."""
    shared = await shared_keys(gateway)
    if shared is None or gateway.shared is None:
        return gateway.ledger.forget(owner, dry_run=dry_run)
    keys = [key for key in shared if is_of(key, owner)]
    if dry_run:
        return len(keys)
    for start in range(0, len(keys), MOST_CLEARED):
        await answered(partial(gateway.shared.windows.clear, keys[start : start + MOST_CLEARED]))
    gateway.ledger.forget(owner)  # the copies of this instance; others read the server's within a second
    return len(keys)


async def answered(call: Callable[[Callable[[T | Failed], None]], None]) -> T:
    """The answer of the server to a call. Raises StoreAway."""
    answer: asyncio.Future[T | Failed] = asyncio.get_running_loop().create_future()
    call(lambda result: None if answer.done() else answer.set_result(result))
    result = await answer
    if isinstance(result, Failed):
        raise StoreAway
    return result


async def delete(gateway: Gateway, entries: Iterable[Listed]) -> None:
    """Delete entries of the store, no faster than it writes. Raises StoreAway."""
    for number, entry in enumerate(entries, 1):
        gateway.store.space(entry.space).delete(entry.key)
        if not number % DELETED_AT_ONCE:
            await asyncio.sleep(0)
            while unwritten(gateway) > MOST_UNWRITTEN:
                require_store(gateway)
                await asyncio.sleep(UNWRITTEN_S)


def unwritten(gateway: Gateway) -> int:
    """The number of changes that a store in a server has not written yet; 0 for other stores."""
    count = gateway.store.describe().get("waiting")
    return count if isinstance(count, int) else 0
