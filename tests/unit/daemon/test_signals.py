"""Signals, sent for real to this process."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable

from relayd.daemon.signals import HANDLED, Signals, block_signals


class Received:
    """Records the calls to the lifecycle."""

    def __init__(self) -> None:
        self.reloads = 0
        self.stops: list[tuple[str, bool]] = []
        self.any = asyncio.Event()

    def on_reload(self) -> None:
        self.reloads += 1
        self.any.set()

    def on_stop(self, name: str, repeated: bool) -> None:
        self.stops.append((name, repeated))
        self.any.set()

    async def after(self, number: signal.Signals) -> None:
        self.any.clear()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(self.any.wait(), 60)


async def with_signals(test: Callable[[Received], Awaitable[None]]) -> None:
    received = Received()
    signals = Signals(received.on_reload, received.on_stop)
    loop = asyncio.get_running_loop()
    signals.install(loop)
    try:
        await test(received)
    finally:
        signals.remove(loop)


async def test_hangup_reloads() -> None:
    async def test(received: Received) -> None:
        await received.after(signal.SIGHUP)
        assert (received.reloads, received.stops) == (1, [])

    await with_signals(test)


async def test_the_second_stop_signal_is_reported_as_repeated() -> None:
    async def test(received: Received) -> None:
        await received.after(signal.SIGTERM)
        await received.after(signal.SIGINT)
        assert received.stops == [("SIGTERM", False), ("SIGINT", True)]

    await with_signals(test)


async def test_an_early_sighup_is_handled_later() -> None:
    block_signals()
    signal.pthread_kill(threading.get_ident(), signal.SIGHUP)  # would end this process

    async def test(received: Received) -> None:
        await asyncio.wait_for(received.any.wait(), 60)
        assert received.reloads == 1

    await with_signals(test)


async def test_usr1_opens_log_files_and_usr2_ends_nothing() -> None:
    received: list[str] = []
    done = asyncio.Event()

    def upgrade() -> None:
        received.append("upgrade")
        done.set()

    signals = Signals(lambda: None, lambda name, repeated: None, lambda: received.append("reopen"), upgrade)
    loop = asyncio.get_running_loop()
    block_signals()
    signal.raise_signal(signal.SIGUSR1)  # before a handler is installed
    signals.install(loop)
    signal.raise_signal(signal.SIGUSR2)
    await done.wait()
    signals.remove(loop)
    assert received == ["reopen", "upgrade"]


async def test_signals_of_a_process_that_ends_are_ignored() -> None:
    async def test(received: Received) -> None:
        await received.after(signal.SIGTERM)

    await with_signals(test)
    for number in HANDLED:
        signal.raise_signal(number)  # the default action would end this process
