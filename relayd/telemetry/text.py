"""Formatting of log values: escaping, so that a record is a single line, and time stamps."""

from __future__ import annotations

import time

from relayd.wire.redact import escape

COLOURS = {"debug": "\x1b[2m", "info": "", "warning": "\x1b[33m", "error": "\x1b[31m"}
MAX_QUOTED = 4096
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


class _Quoted(dict[str, str]):
    """The results of `quoted` for values that many records share, e.g. names of models. Bounded, as clients choose
    some of them."""

    def __missing__(self, text: str) -> str:
        value = quoted(text)
        if len(self) < MAX_QUOTED and len(text) <= 256:
            self[text] = value
        return value


QUOTED = _Quoted()


class Stamp:
    """Formats wall-clock seconds as ISO 8601 UTC with milliseconds. The text of the last millisecond is cached, and so
    is its part up to the second."""

    __slots__ = ("_millisecond", "_second", "_seconds", "_text")

    def __init__(self) -> None:
        self._millisecond = self._second = -1
        self._text = self._seconds = ""

    def format(self, wall: float) -> str:
        """The time stamp of a time since 1970, in seconds."""
        millisecond = int(wall * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            second, rest = divmod(millisecond, 1000)
            if second != self._second:
                self._second = second
                self._seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._text = f"{self._seconds}.{rest:03d}Z"
        return self._text
