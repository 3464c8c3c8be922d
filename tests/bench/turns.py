"""Runs relayd and keeps the longest turn of its event loop, in seconds of CPU, in a file of eight bytes.

    python tests/bench/turns.py FILE run -c relayd.yaml

CPU, because what a turn waits for a busy machine says nothing of relayd. Whoever reads the file may write zeros to it.
"""

from __future__ import annotations

import asyncio.base_events
import mmap
import os
import struct
import sys
import time
from typing import Any


def watch(path: str) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, 8)
    longest = mmap.mmap(file, 8)
    loop: Any = asyncio.base_events.BaseEventLoop
    run_once = loop._run_once

    def measured(self: Any) -> None:
        begun = time.thread_time()
        run_once(self)
        spent = time.thread_time() - begun
        if spent > struct.unpack("d", longest[:8])[0]:
            longest[:8] = struct.pack("d", spent)

    loop._run_once = measured


if __name__ == "__main__":
    watch(sys.argv[1])
    from relayd.cli.main import main

    raise SystemExit(main(sys.argv[2:]))
