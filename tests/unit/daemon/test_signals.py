"""Signals, sent for real to this process."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable

from relayd.daemon.signals import Signals, hold_back


class Heard:
    """What the lifecycle would be told."""

    def __init__(self) -> None:
        self.reloads = 0
        self.stops: list[tuple[str, bool]] = []
        self.any = asyncio.Event()

    def on_reload(self) -> None:
        self.reloads += 1
        self.any.set()

    def on_stop(self, name: str, again: bool) -> None:
        self.stops.append((name, again))
        self.any.set()

    async def after(self, number: signal.Signals) -> None:
        self.any.clear()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(self.any.wait(), 60)


async def listening(test: Callable[[Heard], Awaitable[None]]) -> None:
    heard = Heard()
    signals = Signals(heard.on_reload, heard.on_stop)
    loop = asyncio.get_running_loop()
    signals.install(loop)
    try:
        await test(heard)
    finally:
        signals.remove(loop)


async def test_hangup_reloads() -> None:
    async def test(heard: Heard) -> None:
        await heard.after(signal.SIGHUP)
        assert (heard.reloads, heard.stops) == (1, [])

    await listening(test)


async def test_the_second_request_to_stop_is_told_from_the_first() -> None:
    async def test(heard: Heard) -> None:
        await heard.after(signal.SIGTERM)
        await heard.after(signal.SIGINT)
        assert heard.stops == [("SIGTERM", False), ("SIGINT", True)]

    await listening(test)


async def test_a_hangup_that_came_too_early_is_heard_later() -> None:
    hold_back()
    signal.pthread_kill(threading.get_ident(), signal.SIGHUP)  # would end this process

    async def test(heard: Heard) -> None:
        await asyncio.wait_for(heard.any.wait(), 60)
        assert heard.reloads == 1

    await listening(test)


async def test_usr1_opens_log_files_and_usr2_ends_nothing() -> None:
    heard: list[str] = []
    done = asyncio.Event()

    def upgrade() -> None:
        heard.append("upgrade")
        done.set()

    signals = Signals(lambda: None, lambda name, again: None, lambda: heard.append("reopen"), upgrade)
    loop = asyncio.get_running_loop()
    hold_back()
    signal.raise_signal(signal.SIGUSR1)  # before anybody hears it
    signals.install(loop)
    signal.raise_signal(signal.SIGUSR2)
    await done.wait()
    signals.remove(loop)
    assert heard == ["reopen", "upgrade"]
