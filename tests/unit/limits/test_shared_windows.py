"""The windows in a real server by consumer: they are found whatever else the server keeps, and what is held stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from relayd.limits.counter import REQUESTS, TOTAL, Rule, is_of
from relayd.limits.shared_calls import Failed
from relayd.limits.shared_reservation import SharedReservation
from relayd.limits.shared_windows import MOST_KEYS, Page
from relayd.limits.window import Span
from tests.aids.redis_connection import RedisConnection
from tests.functional.harness.redis import PROGRAM, Redis
from tests.unit.limits.shared_rig import Instance

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs redis-server")
RULES = (
    Rule("consumer ann", REQUESTS, 10, Span.sliding(60)), Rule("consumer ann", TOTAL, 100, Span("total")),
    Rule("consumer {odd} %41*?[x]", REQUESTS, 10, Span("day")), Rule("group g", REQUESTS, 10, Span.sliding(60)),
)  # fmt: skip


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisConnection]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        made = RedisConnection(server.port)
        yield made
        made.close()


@pytest.fixture
def instance(connection: RedisConnection) -> Instance:
    connection("FLUSHALL")
    one = Instance(connection, RULES)
    one.sync()
    return one


def keys(instance: Instance) -> list[str]:
    """The keys of all pages."""
    found, cursor = set[str](), "0"
    while True:
        pages: list[Any] = []
        instance.shared.windows.list(cursor, pages.append)
        instance.run()
        page = pages[0]
        assert isinstance(page, Page) and len(page.keys) <= 2 * MOST_KEYS
        found |= set(page.keys)
        cursor = page.cursor
        if cursor == "0":
            return sorted(found)


def clear(instance: Instance, *names: str) -> Any:
    found: list[Any] = []
    instance.shared.windows.clear(names, found.append)
    instance.run()
    return found[0]


def use(instance: Instance, amount: int = 1) -> SharedReservation:
    made = instance.reserve(*[(counter, amount) for counter in instance.counters])
    assert isinstance(made, SharedReservation)
    return made


def test_windows_are_found_by_their_consumer_among_thousands_of_other_keys(instance: Instance, connection: RedisConnection) -> None:
    for number in range(3 * MOST_KEYS):
        connection("SET", f"other:{number}", "x")
        connection("HSET", f"{{relayd}}:rates:window:empty {number}", "used", "0")
    assert keys(instance) == []
    use(instance).settle([1, 5, 1, 1])
    instance.run()
    assert keys(instance) == sorted(counter.window.key for counter in instance.counters)
    assert [one for one in keys(instance) if is_of(one, "ann")] == sorted(one.window.key for one in instance.counters[:2])


def test_what_was_used_is_forgotten_and_what_is_held_stays(instance: Instance) -> None:
    use(instance, 3).settle([3, 30, 3, 3])
    open_one = use(instance, 2)
    ann = [one.window.key for one in instance.counters[:2]]
    assert clear(instance, *ann) == 2
    instance.sync()
    assert [one.window.used for one in instance.counters] == [2, 2, 5, 5]
    open_one.settle([2, 7, 2, 2])
    instance.run()
    instance.sync()
    assert [one.window.used for one in instance.counters] == [2, 7, 5, 5] and not instance.counters[0].window.held
    assert clear(instance, *ann) == 2 and clear(instance, *ann) == 0
    assert not set(keys(instance)) & set(ann)
    instance.sync()
    assert [one.window.used for one in instance.counters] == [0, 0, 5, 5]


def test_other_instances_read_what_was_forgotten(instance: Instance, connection: RedisConnection) -> None:
    other = Instance(connection, RULES)
    other.sync()
    use(instance, 3).settle([3, 30, 3, 3])
    instance.run()
    other.sync()
    assert other.counters[0].window.used == 3
    clear(instance, instance.counters[0].window.key)
    other.sync()
    assert other.counters[0].window.used == 0


def test_a_server_that_does_not_answer_is_reported(instance: Instance) -> None:
    instance.line.lose_call = True
    assert isinstance(clear(instance, "consumer ann requests"), Failed)
    found: list[Any] = []
    instance.shared.windows.list("0", found.append)
    instance.run()
    assert isinstance(found[0], Failed)
