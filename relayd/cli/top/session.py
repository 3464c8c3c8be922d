"""One run of `relayd top` on a terminal: keys, events, signals and the size of the terminal in one loop.

1. The terminal is restored on every exit: a key, SIGTERM, SIGINT, SIGHUP, an exception, the end of the input.
2. Signals only set a flag and wake the loop, so that none interrupts the restoring.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from relayd.cli.top.feed import Feed, FeedEvent
from relayd.cli.top.interaction import Interaction
from relayd.cli.top.keyboard import KeyDecoder
from relayd.cli.top.live_state import LiveState
from relayd.cli.top.screen import Screen
from relayd.cli.top.terminal import Terminal

TICK_S = 1.0  # ages grow
ESCAPE_S = 0.05
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
BY_SIGNAL = 128
WAKE = 64


class Session:
    """Owns the terminal and the feed until `run` returns."""

    def __init__(
        self, arguments: argparse.Namespace, live: LiveState, top: Interaction, terminal: Terminal,
        wall_s: Callable[[], float],
    ) -> None:
        self._live, self._top, self._terminal, self._wall_s = live, top, terminal, wall_s
        self._screen = Screen(top)
        self._keys = KeyDecoder()
        self._read_fd, self._wake_fd = os.pipe()
        for descriptor in (self._read_fd, self._wake_fd):
            os.set_blocking(descriptor, False)
        self._feed = Feed(arguments, self._wake)
        self._is_read_only = bool(arguments.read_only)
        self._ended_by = 0
        self._is_resized = self._is_stopped = False

    def run(self) -> int:
        """Show the state until the user quits. Returns the exit code."""
        try:
            with self._signals():
                self._terminal.enter()
                try:
                    self._feed.start()
                    self._loop()
                finally:
                    self._terminal.leave()
        finally:
            self._feed.close()
            for descriptor in (self._read_fd, self._wake_fd):
                os.close(descriptor)
        return BY_SIGNAL + self._ended_by if self._ended_by not in (0, signal.SIGINT) else os.EX_OK

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: the loop wakes anyway; closed: it has ended
            os.write(self._wake_fd, b"x")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        before = {
            number: signal.signal(number, self._on_signal) for number in (*ENDING, signal.SIGWINCH, signal.SIGTSTP)
        }
        fd = signal.set_wakeup_fd(self._wake_fd, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(fd)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGWINCH:
            self._is_resized = True
        elif number == signal.SIGTSTP:
            self._is_stopped = True
        else:
            self._ended_by = self._ended_by or number

    def _loop(self) -> None:
        top, terminal = self._top, self._terminal
        while not top.is_over and not self._ended_by:
            if self._is_stopped:
                self._stop()
            if self._is_resized:
                self._is_resized = False
                terminal.forget()
            for event in self._feed.taken():
                self._on_event(event)
            try:
                columns, rows = terminal.size
                terminal.draw(self._screen.lines(columns, rows, self._wall_s()), columns)
                timeout_s = ESCAPE_S if self._keys.is_waiting else TICK_S
                ready, _, _ = select.select((terminal.fileno(), self._read_fd), (), (), timeout_s)
                if self._read_fd in ready:
                    os.read(self._read_fd, WAKE)
                self._press(ready)
            except OSError:  # the terminal is gone
                self._on_signal(signal.SIGHUP, None)

    def _press(self, ready: list[int]) -> None:
        keys = [] if ready or not self._keys.is_waiting else self._keys.flush()
        if self._terminal.fileno() in ready:
            data = self._terminal.read()
            keys = self._keys.feed(data)
            if not data:
                self._top.is_over = True
        for key in keys:
            if key == "redraw":
                self._terminal.forget()
            elif (path := self._top.press(key, self._wall_s())) is not None:
                self._feed.act(path)

    def _stop(self) -> None:
        """The user stops the process (Ctrl-Z): restore the terminal before, show the screen again after."""
        self._is_stopped = False
        self._terminal.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._terminal.enter()

    def _on_event(self, event: FeedEvent) -> None:
        top = self._top
        if event.kind == "state":
            self._live.replace(event.data)
            top.lost = ""
        elif event.kind == "change":
            if self._live.is_known:
                self._live.change(event.data)
                top.lost = ""
        elif event.kind == "session":
            top.may_write = not self._is_read_only and bool(event.data.get("may_write", False))
        elif event.kind == "lost":
            top.lost = event.text
        elif event.kind == "done":
            top.finish(event.text if event.is_fault else "")
