"""The store in the process: what is its own beyond the contract."""

from __future__ import annotations

from relayd.stores.memory import Store
from tests.aids.growth import linear


def test_a_space_that_is_empty_costs_nothing() -> None:
    store = Store(10, 1 << 20, 60)
    for number in range(1000):
        space = store.space(str(number))
        space.put("a", 1)
        space.delete("a")
    assert store.entries == 0 and store.size_bytes == 0
    assert not store._spaces and not store._sizes and not store._orders


def test_many_spaces_do_not_make_a_call_slow() -> None:
    def fill_and_go_on(size: int) -> None:
        store = Store(size, 1 << 24, 60)
        for number in range(size):
            store.space(str(number)).put("a", "x" * 100)
        for number in range(100):
            store.space("more").put(str(number), "x" * 100)
        assert store.entries == size

    assert linear(fill_and_go_on, 150)


def test_closing_forgets_everything() -> None:
    store = Store(10, 1 << 20, 60)
    store.space("a").put("a", 1)
    store.close()
    assert store.space("a").get("a") is None and store.entries == 0
