"""Release: when memory is given back, and when it is left alone."""

from __future__ import annotations

import gc

from relayd.server.release import CROWD, LARGE_BYTES, QUIET_LOOKS, Release


def looks(release: Release, *counts: int) -> list[bool]:
    return [release.look(count) for count in counts]


def test_a_crowd_that_has_left_is_followed_by_one_release() -> None:
    release = Release()
    looks(release, CROWD, CROWD * 4, CROWD, 5)
    assert looks(release, *[5] * (QUIET_LOOKS + 3)) == [False] * (QUIET_LOOKS - 1) + [True] + [False] * 3


def test_while_clients_are_still_leaving_nothing_is_done() -> None:
    assert not any(looks(Release(), CROWD, *range(CROWD // 4, 0, -1)))


def test_a_few_clients_are_no_crowd() -> None:
    assert not any(looks(Release(), CROWD - 1, *[0] * 20))


def test_while_many_of_them_stay_nothing_is_done() -> None:
    assert not any(looks(Release(), CROWD * 4, *[CROWD * 2] * 20))


def test_what_hangs_together_in_cycles_is_freed() -> None:
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
        release = Release()
        assert any(looks(release, CROWD, *[0] * 10))
        assert Ring.freed
    finally:
        gc.enable()


def test_memory_goes_back_when_large_bodies_have_gone() -> None:
    release = Release()
    held = [LARGE_BYTES, 2 * LARGE_BYTES, LARGE_BYTES, 0, 0, 0, 0, 0, 0]
    assert [release.look(1, size) for size in held] == [False] * 7 + [True, False]
    assert not any(release.look(1, size) for size in (LARGE_BYTES - 1, 0, 0, 0, 0, 0, 0))
