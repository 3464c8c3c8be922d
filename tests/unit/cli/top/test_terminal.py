"""The terminal: a real pseudo-terminal, whose other end is emulated."""

from __future__ import annotations

import os
import pty
import termios
import threading
from collections.abc import Iterator

import pytest

from relayd.cli.top.terminal import FALLBACK, Terminal, painted
from tests.aids.terminal import Emulator


@pytest.fixture
def pair() -> Iterator[tuple[Emulator, int]]:
    master, slave = pty.openpty()
    yield Emulator(master, 20, 4), slave
    for descriptor in (master, slave):
        os.close(descriptor)


def test_lines_are_drawn_and_only_changed_ones_again(pair: tuple[Emulator, int]) -> None:
    emulator, slave = pair
    terminal = Terminal(slave, slave, "utf-8", colour=True)
    assert terminal.size == (20, 4)
    terminal.enter()
    terminal.draw([(("one", "red"),), (("日本", ""), (" x", "bold")), (("x" * 20, ""),)], 20)
    emulator.shows("one", "x" * 20)
    assert emulator.lines[1].split() == ["日本", "x"]
    before = len(emulator.raw)
    terminal.draw([(("one", "red"),), (("two", ""),), (("x" * 20, ""),)], 20)
    emulator.shows("two")
    assert b"one" not in emulator.raw[before:] and b"\x1b[2J" not in emulator.raw[before:]
    assert emulator.lines == ["one", "two", "x" * 20, ""]
    terminal.forget()
    terminal.draw([(("one", ""),)], 20)
    emulator.wait(lambda: emulator.lines == ["one", "", "", ""])


def test_the_mode_is_restored_once_and_the_screen_with_it(pair: tuple[Emulator, int]) -> None:
    emulator, slave = pair
    before = termios.tcgetattr(slave)
    terminal = Terminal(slave, slave, "utf-8", colour=True)
    terminal.leave()  # not entered yet: nothing to restore
    terminal.enter()
    terminal.enter()
    assert termios.tcgetattr(slave)[3] & (termios.ECHO | termios.ICANON) == 0
    emulator.press("q")
    assert terminal.read() == b"q" and terminal.fileno() == slave
    terminal.leave()
    assert termios.tcgetattr(slave) == before
    terminal.leave()
    emulator.wait(lambda: emulator.raw.endswith(b"\x1b[?7h\x1b[?25h\x1b[?1049l"))
    assert emulator.raw.count(b"\x1b[?1049l") == 1


def test_a_terminal_that_is_gone_is_left_without_an_error() -> None:
    master, slave = pty.openpty()
    terminal = Terminal(slave, slave, "utf-8", colour=True)
    terminal.enter()
    os.close(master)
    with pytest.raises(OSError):
        terminal.draw([(("x", ""),)], 20)
    terminal.leave()
    os.close(slave)
    assert Terminal(slave, slave, "utf-8", colour=True).size == FALLBACK


def test_without_colours_only_other_styles_are_left_and_unknown_characters_are_replaced(pair: tuple[Emulator, int]) -> None:
    assert painted((("a", "red"), ("b", "reverse yellow"), ("", "bold"), ("c", "")), colour=False) == "a\x1b[7mb\x1b[0mc"
    assert painted((("a", "red"),), colour=True) == "\x1b[31ma\x1b[0m"
    emulator, slave = pair
    Terminal(slave, slave, "ascii", colour=False).draw([(("é…", ""),)], 20)
    emulator.shows("??")


def test_a_terminal_that_does_not_block_is_waited_for(pair: tuple[Emulator, int]) -> None:
    emulator, slave = pair
    os.set_blocking(slave, False)
    terminal = Terminal(slave, slave, "utf-8", colour=False)
    emulator.resize(20, 4)
    writer = threading.Thread(target=terminal.draw, args=([(("y" * 200_000, ""),), (("end", ""),)], 20))
    writer.start()
    emulator.shows("end")
    writer.join(60)
