"""A terminal in full-screen mode, by the control sequences that every terminal of Linux understands (ECMA-48, and the
private modes of xterm).

1. `leave` restores what `enter` has changed, also after an exception, and may be called more than once.
2. Only lines that have changed are written, in one piece, so that nothing flickers.
3. The standard library's curses would add a terminal description to the requirements, and could not be tested without
   a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import select
import termios

from relayd.cli.output import CODES
from relayd.cli.top.screen import Line
from relayd.cli.top.text import width

ENTER = "\033[?1049h\033[?25l\033[?7l\033[2J"  # alternate screen, no cursor, no wrapping
LEAVE = "\033[0m\033[?7h\033[?25h\033[?1049l"
CLEAR = "\033[2J"
STYLES = {**CODES, "reverse": "7"}
COLOURS = ("red", "green", "yellow")
FALLBACK = (80, 24)
READ_BYTES = 4096


class Terminal:
    """The terminal of this process. `colour`: colours may be used."""

    def __init__(self, input_fd: int, output_fd: int, encoding: str, *, colour: bool) -> None:
        self._input, self._output, self._encoding, self._colour = input_fd, output_fd, encoding, colour
        self._saved: list[int | list[bytes | int]] | None = None
        self._drawn: list[str] = []

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        try:
            found = os.get_terminal_size(self._output)
        except OSError:
            return FALLBACK
        return found.columns or FALLBACK[0], found.lines or FALLBACK[1]

    def enter(self) -> None:
        """Begin: read key by key, and show an empty screen. Raises termios.error if this is no terminal."""
        if self._saved is None:
            self._saved = termios.tcgetattr(self._input)
            mode = termios.tcgetattr(self._input)
            mode[3] &= ~(termios.ECHO | termios.ICANON)
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
            termios.tcsetattr(self._input, termios.TCSANOW, mode)
        self.forget()
        self._write(ENTER)

    def leave(self) -> None:
        """End: restore the screen and the mode."""
        saved, self._saved = self._saved, None
        if saved is None:
            return
        with contextlib.suppress(OSError):  # it may be gone
            self._write(LEAVE)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._input, termios.TCSADRAIN, saved)

    def forget(self) -> None:
        """Write every line the next time: the screen was changed by others, or has another size."""
        self._drawn = []

    def draw(self, lines: list[Line], columns: int) -> None:
        """Show these lines, which have at most this number of cells. Raises OSError if the terminal is gone."""
        encoded = [painted(line, colour=self._colour) + end_of(line, columns) for line in lines]
        parts = [] if self._drawn and len(self._drawn) == len(encoded) else [CLEAR]
        before = self._drawn if not parts else [""] * len(encoded)
        for at, (old, new) in enumerate(zip(before, encoded, strict=True), 1):
            if old != new:
                parts.append(f"\033[{at};1H{new}")
        self._drawn = encoded
        if parts:
            self._write("".join(parts))

    def read(self) -> bytes:
        """The typed characters; empty at the end of the input. Raises OSError if the terminal is gone."""
        return os.read(self._input, READ_BYTES)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._input

    def _write(self, text: str) -> None:
        data = memoryview(text.encode(self._encoding, "replace"))
        while data:
            try:
                data = data[os.write(self._output, data) :]
            except BlockingIOError:  # another process has set the terminal to non-blocking
                select.select((), (self._output,), ())


def end_of(line: Line, columns: int) -> str:
    """What erases the rest of a line. After a line of the whole width the cursor still is in its last cell."""
    return "\033[K" if sum(width(text) for text, _ in line) < columns else ""


def painted(line: Line, *, colour: bool) -> str:
    """A line with the control sequences of its styles."""
    made = []
    for text, style in line:
        codes = [STYLES[word] for word in style.split() if colour or word not in COLOURS]
        made.append(f"\033[{';'.join(codes)}m{text}\033[0m" if codes and text else text)
    return "".join(made)
