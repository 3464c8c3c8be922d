"""How values are put into lines: escaped, so that one record stays one line, and stamped with the time."""

from __future__ import annotations

import time

from relayd.wire.redact import escape

COLOURS = {"debug": "\x1b[2m", "info": "", "warning": "\x1b[33m", "error": "\x1b[31m"}
DIM, GREEN, RESET = "\x1b[2m", "\x1b[32m", "\x1b[0m"


def plain(text: str) -> bool:
    """Whether a string can stand in any line as it is: printable ASCII without double quotes and backslashes."""
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def _escaped(text: str) -> str:
    """Escaped but for apostrophes, which end no value in any format."""
    return "'".join([escape(part) for part in text.split("'")])


def safe(text: str) -> str:
    """A string for a text line or a journal field."""
    return text if plain(text) else _escaped(text)


def quoted(text: str) -> str:
    """A string as the inside of a JSON string: escaped as everywhere, and its backslashes again for JSON."""
    return text if plain(text) else _escaped(text).replace("\\", "\\\\").replace('"', '\\"')


class Stamp:
    """Wall-clock seconds to ISO 8601 UTC with milliseconds; the part above a second is made once a second."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self, wall: float) -> str:
        second = int(wall)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{int((wall - second) * 1000):03d}Z"
