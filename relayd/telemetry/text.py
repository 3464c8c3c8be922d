"""Formatting of log values: escaping, so that a record is a single line, and time stamps."""

from __future__ import annotations

import time

from relayd.wire.redact import escape

COLOURS = {"debug": "\x1b[2m", "info": "", "warning": "\x1b[33m", "error": "\x1b[31m"}
DIM, GREEN, RESET = "\x1b[2m", "\x1b[32m", "\x1b[0m"


def plain(text: str) -> bool:
    """True if a string needs no escaping in any format: printable ASCII without double quotes and backslashes."""
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def _escaped(text: str) -> str:
    """Escape all special characters except apostrophes, which no format uses as a delimiter."""
    return "'".join([escape(part) for part in text.split("'")])


def safe(text: str) -> str:
    """A string escaped for a text line or a journal field."""
    return text if plain(text) else _escaped(text)


def quoted(text: str) -> str:
    """A string escaped for the inside of a JSON string: escaped as by `safe`, then for JSON."""
    return text if plain(text) else _escaped(text).replace("\\", "\\\\").replace('"', '\\"')


class Stamp:
    """Formats wall-clock seconds as ISO 8601 UTC with milliseconds; the part up to the second is cached."""

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
