"""A terminal of a test: the other end of a pseudo-terminal, whose screen is emulated by pyte."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import termios
import time
from collections.abc import Callable

import pyte

WAIT_S = 60.0


class Emulator:
    """Reads what a program writes to its terminal, and types. `raw` is every byte that was written."""

    def __init__(self, master: int, columns: int = 100, rows: int = 24) -> None:
        self.master = master
        self.raw = b""
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.resize(columns, rows)

    def resize(self, columns: int, rows: int, pid: int = 0) -> None:
        """Change the size, and tell a process that does not control this terminal."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)
        if pid:
            os.kill(pid, signal.SIGWINCH)

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    @property
    def lines(self) -> list[str]:
        """The lines of the screen, without spaces at their ends."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Read until the condition holds."""
        end = time.monotonic() + WAIT_S
        while not condition():
            left_s = end - time.monotonic()
            assert left_s > 0, f"the screen is:\n{self.text}"
            if select.select((self.master,), (), (), min(left_s, 0.2))[0]:
                self.read()

    def shows(self, *texts: str) -> None:
        """Read until all these texts are on the screen."""
        self.wait(lambda: all(one in self.text for one in texts))

    def hides(self, *texts: str) -> None:
        """Read until none of these texts is on the screen."""
        self.wait(lambda: not any(one in self.text for one in texts))

    def read(self) -> bytes:
        """Process what was written; empty if the program has closed the terminal."""
        data = b""
        with contextlib.suppress(OSError):
            data = os.read(self.master, 65536)
        self.raw += data
        self._stream.feed(data)
        return data
