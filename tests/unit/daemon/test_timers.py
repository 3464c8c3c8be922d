"""Periodic calls by name."""

from __future__ import annotations

import asyncio

from relayd.daemon.timers import Timers


async def test_a_timer_calls_again_and_again_until_it_is_closed() -> None:
    timers, calls, third = Timers(asyncio.get_running_loop()), [], asyncio.Event()

    def call() -> None:
        calls.append(1)
        if len(calls) == 3:
            third.set()
            timers.close()

    timers.every("work", 0.001, call)
    await asyncio.wait_for(third.wait(), 10)
    await asyncio.sleep(0.02)
    assert len(calls) == 3


async def test_scheduling_a_name_again_replaces_its_timer() -> None:
    timers, calls, done = Timers(asyncio.get_running_loop()), [], asyncio.Event()
    timers.every("work", 0.001, lambda: calls.append("old"))
    timers.every("work", 0.002, done.set)
    await asyncio.wait_for(done.wait(), 10)
    timers.close()
    assert not calls
