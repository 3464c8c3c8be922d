"""HeapTrim: when the heap is trimmed, and when it is not."""

from __future__ import annotations

import gc

from relayd.server.heap_trim import LARGE_BYTES, MANY_CONNECTIONS, STABLE_UPDATES, HeapTrim


def updates(trim: HeapTrim, *counts: int) -> list[bool]:
    return [trim.update(count) for count in counts]


def test_one_trim_follows_when_many_clients_have_left() -> None:
    trim = HeapTrim()
    updates(trim, MANY_CONNECTIONS, MANY_CONNECTIONS * 4, MANY_CONNECTIONS, 5)
    assert updates(trim, *[5] * (STABLE_UPDATES + 3)) == [False] * (STABLE_UPDATES - 1) + [True] + [False] * 3


def test_while_clients_are_still_leaving_nothing_is_done() -> None:
    assert not any(updates(HeapTrim(), MANY_CONNECTIONS, *range(MANY_CONNECTIONS // 4, 0, -1)))


def test_a_few_clients_are_no_crowd() -> None:
    assert not any(updates(HeapTrim(), MANY_CONNECTIONS - 1, *[0] * 20))


def test_while_many_of_them_stay_nothing_is_done() -> None:
    assert not any(updates(HeapTrim(), MANY_CONNECTIONS * 4, *[MANY_CONNECTIONS * 2] * 20))


def test_reference_cycles_are_collected() -> None:
    class Ring:
        freed = False

        def __init__(self) -> None:
            self.own = self

        def __del__(self) -> None:
            Ring.freed = True

    gc.disable()
    try:
        Ring()
        assert not Ring.freed
        trim = HeapTrim()
        assert any(updates(trim, MANY_CONNECTIONS, *[0] * 10))
        assert Ring.freed
    finally:
        gc.enable()


def test_memory_goes_back_when_large_bodies_have_gone() -> None:
    trim = HeapTrim()
    sizes = [LARGE_BYTES, 2 * LARGE_BYTES, LARGE_BYTES, 0, 0, 0, 0, 0, 0]
    assert [trim.update(1, size) for size in sizes] == [False] * 7 + [True, False]
    assert not any(trim.update(1, size) for size in (LARGE_BYTES - 1, 0, 0, 0, 0, 0, 0))
