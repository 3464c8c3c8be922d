"""The loop: keys of a real pseudo-terminal, events of a stream, signals, and the terminal restored at each end."""

from __future__ import annotations

import argparse
import os
import pty
import signal
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.cli.top.interaction import Interaction
from relayd.cli.top.live_state import LiveState
from relayd.cli.top.session import Session
from relayd.cli.top.terminal import Terminal
from relayd.server.dashboard_state import COLUMNS
from tests.aids.terminal import Emulator
from tests.unit.cli.top.states import NOW_S, tables
from tests.unit.cli.top.streaming import Streaming


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Streaming]:
    with Streaming(tmp_path) as serving:
        serving.event("state", {"columns": COLUMNS, "tables": tables()}, 1)
        yield serving


def run(server: Streaming, user: Callable[[Emulator], None], *, read_only: bool = False, wall_s: Callable[[], float] = lambda: NOW_S) -> int:
    """Run a session in this thread, as signals need, with its user in another one. Returns the exit code."""
    master, slave = pty.openpty()
    before, emulator = termios.tcgetattr(slave), Emulator(master, 100, 20)
    failed: list[BaseException] = []

    def use() -> None:
        try:
            user(emulator)
        except BaseException as fault:
            failed.append(fault)
            emulator.press("\x04")

    live = LiveState()
    arguments = argparse.Namespace(socket=server.path, instance=None, config=None, timeout=5.0, read_only=read_only)
    session = Session(arguments, live, Interaction(live), Terminal(slave, slave, "utf-8", colour=True), wall_s)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP)]
    thread = threading.Thread(target=use)
    thread.start()
    try:
        return session.run()
    finally:
        thread.join(60)
        emulator.wait(lambda: emulator.raw.endswith(b"\x1b[?1049l"))
        assert termios.tcgetattr(slave) == before
        assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP)]
        os.close(master)
        os.close(slave)
        assert failed == []


def test_keys_and_events_change_the_screen_until_q(server: Streaming) -> None:
    def user(terminal: Emulator) -> None:
        terminal.shows("small", "medium", "1 Streams 3")
        server.event("change", {"streams": {"gone": ["a"]}}, 2)
        terminal.hides("small")
        terminal.press("/lar\r")
        terminal.hides("medium")
        terminal.press("\x1b")  # without anything after it
        terminal.shows("medium")
        terminal.press("\x0c2")
        terminal.shows("draining")
        terminal.press("q")

    assert run(server, user) == 0


def test_a_confirmed_action_is_requested_and_its_answer_shown(server: Streaming) -> None:
    server.action = (404, {"error": {"message": "gone already"}})

    def user(terminal: Emulator) -> None:
        terminal.shows("small")
        terminal.press("c")
        terminal.shows("[y/N]")
        terminal.press("y")
        terminal.shows("Cancel POST /v1/chat/completions of team: gone already")
        assert "POST /streams/a/cancel" in server.asked
        terminal.press("q")

    assert run(server, user) == 0


@pytest.mark.parametrize("may_write, read_only", [(False, False), (True, True)])
def test_who_may_not_write_is_offered_no_action(server: Streaming, may_write: bool, read_only: bool) -> None:
    server.may_write = may_write

    def user(terminal: Emulator) -> None:
        terminal.shows("small", "read-only  ? help")
        terminal.press("c")
        terminal.shows("this user may not change anything")
        terminal.press("q")

    assert run(server, user, read_only=read_only) == 0


def test_a_lost_stream_is_reported(server: Streaming) -> None:
    def user(terminal: Emulator) -> None:
        terminal.shows("small")
        server.pieces.put(None)
        terminal.shows("no connection, trying again: relayd stops or is replaced")
        server.event("change", {"streams": {"gone": ["a"]}}, 2)
        terminal.hides("no connection,", "small")
        terminal.press("q")

    assert run(server, user) == 0


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 0), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_session(server: Streaming, number: signal.Signals, code: int) -> None:
    def user(terminal: Emulator) -> None:
        terminal.shows("small")
        os.kill(os.getpid(), number)

    assert run(server, user) == code


def test_a_new_size_is_used(server: Streaming) -> None:
    def user(terminal: Emulator) -> None:
        terminal.shows("1 Streams 3  2 Upstreams 2")
        terminal.resize(60, 12, pid=os.getpid())
        terminal.shows("2 Upst  3 Cons")
        terminal.press("q")

    assert run(server, user) == 0


def test_an_unexpected_exception_passes_with_the_terminal_restored(server: Streaming) -> None:
    calls: list[Any] = []

    def wall_s() -> float:
        calls.append(None)
        if len(calls) > 3:
            raise ZeroDivisionError
        return NOW_S

    with pytest.raises(ZeroDivisionError):
        run(server, lambda terminal: terminal.wait(lambda: b"\x1b[?1049l" in terminal.raw), wall_s=wall_s)
