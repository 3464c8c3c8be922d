"""Turns of the event loop, for tests in which something must not happen."""

from __future__ import annotations

import asyncio


async def turned(count: int = 50) -> None:
    """Let the loop turn: by then everything has happened that follows from what lies ready in the sockets of this process.

    A span of time says less: on a busy machine it may pass without a turn.
    """
    for _ in range(count):
        await asyncio.sleep(0)
