"""The contract of all stores, run against every kind."""

from __future__ import annotations

import itertools
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relayd import registry
from relayd.protocols.dialect import run_steps
from relayd.stores import memory, sqlite
from tests.functional.harness.redis import Redis, missing
from tests.unit.stores.redis_contract import ContractStore


class Hands:
    """The hands of the store's clock."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


_redis: list[Redis] = []  # started by the first test that needs it


def redis_store(path: pathlib.Path, **bounds: Any) -> ContractStore:
    if not _redis:
        if reason := missing():
            pytest.skip(reason)
        _redis.append(Redis(pathlib.Path(tempfile.mkdtemp(prefix="relayd-redis-"))))
        _redis[0].start()
    _redis[0].ask("FLUSHALL")
    return ContractStore(_redis[0].port, "contract", **bounds)


@pytest.fixture(scope="module", autouse=True)
def end_of_redis() -> Iterator[None]:
    yield
    while _redis:
        server = _redis.pop()
        server.kill()
        shutil.rmtree(server.folder, ignore_errors=True)


LOCAL: dict[str, Callable[..., Any]] = {
    "memory": lambda path, **bounds: memory.Store(**bounds),
    "sqlite": lambda path, **bounds: sqlite.Store(str(path), **bounds),
}
MAKERS: dict[str, Callable[..., Any]] = {**LOCAL, "redis": redis_store}
Make = Callable[..., Any]


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture(params=sorted(MAKERS))
def make(request: pytest.FixtureRequest, tmp_path: pathlib.Path, hands: Hands) -> Iterator[Make]:
    made = []
    number = itertools.count()

    def maker(max_entries: int = 100, max_bytes: int = 1 << 20, ttl_s: float = 60.0) -> Any:
        path = tmp_path / f"store-{next(number)}"
        store = MAKERS[request.param](path, max_entries=max_entries, max_bytes=max_bytes, ttl_s=ttl_s, now=hands)
        made.append(store)
        return store

    yield maker
    for store in made:
        store.close()


def test_every_kind_is_held_to_the_contract() -> None:
    assert set(registry.kinds("relayd.stores")) == set(MAKERS)


def test_what_was_put_is_there_until_it_is_deleted(make: Make) -> None:
    space = make().space("team")
    assert space.get("a") is None and not space.delete("a")
    space.put("a", {"x": [1, None, "é\ud83d"], "y": 1.5})
    assert space.get("a") == {"x": [1, None, "é\ud83d"], "y": 1.5}
    space.put("a", 2)
    assert space.get("a") == 2
    assert space.delete("a") and space.get("a") is None


def test_a_large_value_is_read_in_steps(make: Make) -> None:
    space = make(max_bytes=1 << 24).space("team")
    for value in ({"a": [{"b": "\u00e9\n"}] * 20_000}, "x" * 300_000, [1.5, None, True] * 30_000, {"short": 1}):
        space.put("k", value)
        reading, steps = space.get_steps("k"), 1
        while True:
            try:
                next(reading)
            except StopIteration as end:
                assert end.value == value
                break
            steps += 1
        assert steps > 3 or value == {"short": 1}
    assert next(space.get_steps("unknown"), "at once") == "at once"


def test_a_space_has_a_time_to_live_of_its_own(make: Make, hands: Hands) -> None:
    store = make(ttl_s=10)
    short, usual, long = store.space("short", 4.0), store.space("usual"), store.space("long", 30.0)
    for space in (short, usual, long):
        space.put("a", 1)
        space.put("used", 1)
    hands.now_s += 3
    assert short.get("used") == 1
    hands.now_s += 3
    assert short.get("a") is None and short.get("used") == 1 and usual.get("a") == 1
    hands.now_s += 11
    assert short.get("used") is None and usual.get("a") is None and usual.get("used") is None
    store.sweep()
    assert store.entries == 2
    assert long.get("a") == 1
    hands.now_s += 29
    assert long.get("a") == 1 and long.get("used") is None


def test_an_access_renews_for_the_time_of_its_space(make: Make, hands: Hands) -> None:
    store = make(ttl_s=100)
    store.space("team", 10.0).put("a", 1)
    hands.now_s += 5
    assert store.space("team", 50.0).get("a") == 1
    hands.now_s += 45
    assert store.space("team", 50.0).get("a") == 1
    hands.now_s += 51
    assert store.space("team", 50.0).get("a") is None


def test_a_change_is_made_only_to_the_value_that_was_expected(make: Make, hands: Hands) -> None:
    store = make(ttl_s=10)
    space = store.space("team")

    def swap(expected: str | None, text: str | None) -> bool:
        return bool(run_steps(space.swap_steps("a", expected, text)))

    assert not swap("1", "2") and space.get("a") is None
    assert swap(None, "1") and space.get("a") == 1
    assert not swap(None, "3") and not swap("2", "3") and not swap("2", None) and space.get("a") == 1
    assert swap("1", '{"b":1}') and run_steps(space.text_steps("a")) == '{"b":1}'
    hands.now_s += 8
    assert space.get("a") == {"b": 1}  # renews, so that it is still there
    hands.now_s += 8
    assert swap('{"b":1}', "4") and space.get("a") == 4
    hands.now_s += 11
    assert not swap("4", "5") and swap(None, "6")  # an expired value is absent
    assert swap("6", None) and space.get("a") is None
    space.put("a", 7)
    assert swap("7", "8") and space.get("a") == 8
    assert store.space("team").get("a") == 8 and not space.lost("a")


def test_a_change_that_cannot_be_stored_leaves_the_value_and_has_a_reason(make: Make) -> None:
    space = make(max_bytes=100_000).space("team")
    space.put("a", 1)
    assert not run_steps(space.swap_steps("a", "1", '"' + "x" * 30_000 + '"'))
    assert "quarter" in space.lost("a")
    assert space.get("a") == 1


def test_of_many_changes_of_one_value_one_is_made(make: Make) -> None:
    space = make().space("team")
    space.put("a", 0)
    running = [space.swap_steps("a", "0", str(number)) for number in range(1, 6)]
    results = []
    for steps in running:
        results.append(run_steps(steps))
    assert results == [True, False, False, False, False] and space.get("a") == 1


def test_entries_are_listed_by_the_beginning_of_their_space(make: Make, hands: Hands) -> None:
    store = make(max_entries=2000, ttl_s=10)
    for number in range(700):
        store.space("s:one", 20.0).put(f"{number:03}", number)
    store.space("s:two").put("b", 1)
    store.space("t").put("c", 1)
    hands.now_s += 8
    assert store.entries == 702  # waits for a writer
    listed = run_steps(store.list_steps("s:", 1000))
    assert {(one.space, one.key) for one in listed} == {("s:two", "b"), *(("s:one", f"{one:03}") for one in range(700))}
    assert all((2 < one.expires_in_s <= 12) if one.space == "s:one" else (0 < one.expires_in_s <= 2) for one in listed)
    assert all(one.size_bytes > 0 for one in listed)
    assert len(run_steps(store.list_steps("s:", 5))) == 5 and run_steps(store.list_steps("u", 5)) == []
    assert run_steps(store.count_steps("s:")) == 701 and run_steps(store.count_steps("x")) == 0
    hands.now_s += 4  # listing has not renewed
    assert [one.space for one in run_steps(store.list_steps("s:t", 5))] == []
    assert len(run_steps(store.list_steps("s:", 1000))) == 700


def test_a_space_does_not_see_into_another(make: Make) -> None:
    store = make()
    store.space("one").put("a", 1)
    assert store.space("two").get("a") is None
    assert not store.space("two").delete("a")
    assert store.space("one").get("a") == 1


def test_changing_a_value_does_not_change_the_store(make: Make) -> None:
    space = make().space("team")
    value = {"list": [1]}
    space.put("a", value)
    value["list"].append(2)
    space.get("a")["list"].append(3)
    assert space.get("a") == {"list": [1]}


def test_an_access_makes_an_entry_young_again(make: Make, hands: Hands) -> None:
    space = make(ttl_s=10).space("team")
    space.put("used", 1)
    space.put("unused", 1)
    hands.now_s += 8
    assert space.get("used") == 1
    hands.now_s += 8
    assert space.get("used") == 1 and space.get("unused") is None
    hands.now_s += 11
    assert space.get("used") is None and not space.delete("used")


def test_sweeping_forgets_what_is_too_old(make: Make, hands: Hands) -> None:
    store = make(ttl_s=10)
    for number in range(5):
        store.space("team").put(str(number), "x" * 100)
    hands.now_s += 5
    store.space("team").get("3")
    hands.now_s += 6
    store.sweep()
    assert store.entries == 1 and store.space("team").get("3") == "x" * 100


def test_putting_forgets_what_is_too_old(make: Make, hands: Hands) -> None:
    store = make(ttl_s=10)
    store.space("team").put("old", 1)
    hands.now_s += 11
    store.space("other").put("new", 1)
    assert store.entries == 1


def test_the_longest_unused_goes_first(make: Make, hands: Hands) -> None:
    store = make(max_entries=3)
    space = store.space("team")
    for key in "abc":
        space.put(key, key)
        hands.now_s += 1
    space.get("a")
    hands.now_s += 1
    space.put("d", "d")
    assert store.entries == 3  # also waits for a writer
    assert [space.get(key) for key in "abcd"] == ["a", None, "c", "d"]


def test_bytes_are_bounded_and_counted(make: Make) -> None:
    store = make(max_bytes=100_000)
    space = store.space("team")
    for number in range(50):
        space.put(str(number), "x" * 10_000)
        assert store.size_bytes <= 100_000
    assert 5 <= store.entries <= 9
    assert space.get("49") is not None and space.get("0") is None
    for number in range(50):
        space.delete(str(number))
    assert store.size_bytes == 0 and store.entries == 0


def test_a_value_that_is_too_large_is_not_kept_and_neither_is_what_it_replaced(make: Make) -> None:
    store = make(max_bytes=100_000)
    space = store.space("team")
    space.put("other", 1)
    space.put("a", 1)
    space.put("a", "x" * 30_000)
    assert space.get("a") is None
    assert space.get("other") == 1


@pytest.mark.parametrize("bounds", [{"max_entries": 20}, {"max_bytes": 60_000}])
@pytest.mark.parametrize(("quiet", "loud"), [("a", "b"), ("b", "a")])
def test_a_consumer_who_fills_the_store_pushes_out_its_own(
    make: Make, hands: Hands, bounds: dict[str, int], quiet: str, loud: str
) -> None:
    store = make(**bounds)
    store.space(quiet).put("a", "x" * 1000)
    hands.now_s += 1
    for number in range(200):
        store.space(loud).put(str(number), "x" * 1000)
        hands.now_s += 0.01
    assert 2 < store.entries < 200  # also waits for a writer
    assert store.space(quiet).get("a") is not None
    assert store.space(loud).get("199") is not None and store.space(loud).get("0") is None


def test_a_space_may_have_a_bound_of_its_own(make: Make, hands: Hands) -> None:
    store = make()
    small, other = store.space("small", 60.0, 3000), store.space("other")
    other.put("x", "v" * 2000)
    for number in range(6):
        hands.now_s += 1.0
        run_steps(small.put_steps(str(number), "v" * 500))
    found = [number for number in range(6) if run_steps(small.get_steps(str(number))) is not None]
    assert 5 in found and len(found) < 6, "the least recently used ones have made room"
    assert other.get("x") == "v" * 2000, "other spaces have lost nothing"
    sizes = [one.size_bytes for one in run_steps(store.list_steps("small", 10))]
    assert sum(sizes) <= 3000


def test_an_empty_store_keeps_nothing(make: Make) -> None:
    store = make(max_entries=0)
    store.space("team").put("a", 1)
    assert store.space("team").get("a") is None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("AB"), st.sampled_from("abcd"), st.integers(0, 3000)),
        st.tuples(st.just("get"), st.sampled_from("AB"), st.sampled_from("abcd"), st.just(0)),
        st.tuples(st.just("delete"), st.sampled_from("AB"), st.sampled_from("abcd"), st.just(0)),
        st.tuples(st.just("wait"), st.just(""), st.just(""), st.integers(1, 8)),
        st.tuples(st.just("sweep"), st.just(""), st.just(""), st.just(0)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_all_kinds_remember_the_same_within_their_bounds(tmp_path: pathlib.Path, steps: list[Any]) -> None:
    hands = Hands()
    for old in tmp_path.glob("same*"):
        old.unlink()
    stores = [maker(tmp_path / "same", max_entries=5, max_bytes=40_000, ttl_s=10, now=hands) for maker in LOCAL.values()]
    newest: dict[tuple[str, str], int] = {}
    try:
        for verb, name, key, number in steps:
            hands.now_s += 0.001
            if verb == "wait":
                hands.now_s += number
            elif verb == "put":
                newest[name, key] = number
                for store in stores:
                    store.space(name).put(key, "x" * number)
            elif verb == "get":
                found = [store.space(name).get(key) for store in stores]
                assert found[0] == found[1]
                assert found[0] in (None, "x" * newest.get((name, key), -1))
            elif verb == "delete":
                assert len({store.space(name).delete(key) for store in stores}) == 1
            else:
                for store in stores:
                    store.sweep()
            assert all(store.entries <= 5 and store.size_bytes <= 40_000 for store in stores)
        for store in stores:
            store.sweep()
        assert stores[0].entries == stores[1].entries
    finally:
        for store in stores:
            store.close()
