"""relayd's own log: one event, one line, on standard error or in the systemd journal.

1. The name of an event is stable and in the past tense (`reload_refused`); the fields name the objects concerned.
2. Control bytes are escaped and fields with secret names are masked: external values cannot begin a line or send escape
   sequences to a terminal.
3. Writing never blocks and never raises.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import TextIO

from relayd import clock
from relayd.lazy_regex import lazy_regex
from relayd.telemetry.descriptor import Descriptor
from relayd.telemetry.native import PRIORITIES, Native, field, is_journal
from relayd.telemetry.text import COLOURS, DIM, RESET, Stamp, quoted, safe
from relayd.wire.redact import mask_urls

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
SECRET_FIELD = lazy_regex(
    r"authorization|cookie|password|passwd|secret|bearer|credential|signature|(^|_)api_?key$|(^|_)token$|^key$", re.I
)
MAX_LIMITED_KEYS = 1024  # rate-limited keys


def formatted_for(stream: TextIO) -> str:
    """The format of `format: auto`: text on a terminal and under systemd, JSON elsewhere."""
    fd = descriptor_of(stream)
    return "text" if fd < 0 or os.isatty(fd) or is_journal(fd) else "json"


def descriptor_of(stream: TextIO) -> int:
    """The file descriptor of a stream, or -1 if it has none."""
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return -1


def colours_wanted() -> bool:
    """True if output to a terminal may be coloured (no-color.org)."""
    return not os.environ.get("NO_COLOR")


class Journal:
    """relayd's own log. Owned by the process; the daemon sets `generation`, which every line contains."""

    def __init__(
        self, format: str = "auto", level: str = "info", stream: TextIO | None = None, *, native: Native | None = None
    ) -> None:
        self.generation = 0
        self._stream = sys.stderr if stream is None else stream
        fd = descriptor_of(self._stream)
        self._sink = Descriptor(fd=fd) if fd >= 0 else None
        self._prefixed = fd >= 0 and is_journal(fd)
        self._coloured = fd >= 0 and not self._prefixed and os.isatty(fd) and colours_wanted()
        self._stamp = Stamp()
        self._limited: dict[str, tuple[float, int]] = {}
        self._given_native = native
        self._native: Native | None = None
        self.configure(format, level)

    def configure(self, format: str, level: str) -> None:
        """Change format and level on a reload. Raises KeyError for an unknown format or level."""
        self._threshold = LEVELS[level]
        format = formatted_for(self._stream) if format == "auto" else format
        self._line: Callable[[str, str, str, dict[str, object]], str] = {
            "text": self._as_text, "json": self._as_json, "journal": self._as_text
        }[format]
        if format == "journal":
            self._native = self._native or self._given_native or Native()
        elif self._native is not None:
            self._native.close()
            self._native = None

    @property
    def dropped(self) -> int:
        return (self._sink.dropped if self._sink else 0) + (self._native.dropped if self._native else 0)

    def debug(self, name: str, message: str = "", **fields: object) -> None:
        self.event("debug", name, message, **fields)

    def info(self, name: str, message: str = "", **fields: object) -> None:
        self.event("info", name, message, **fields)

    def warning(self, name: str, message: str = "", **fields: object) -> None:
        self.event("warning", name, message, **fields)

    def error(self, name: str, message: str = "", **fields: object) -> None:
        self.event("error", name, message, **fields)

    def limited(self, key: str, seconds: float, level: str, name: str, message: str = "", **fields: object) -> None:
        """Log an event at most once per `seconds` and key; `suppressed` of the next one counts the omitted events."""
        now = clock.monotonic()
        until, suppressed = self._limited.get(key, (0.0, 0))
        if now < until:
            self._limited[key] = (until, suppressed + 1)
            return
        if len(self._limited) >= MAX_LIMITED_KEYS and key not in self._limited:
            self._limited = {known: state for known, state in self._limited.items() if state[0] > now}
            if len(self._limited) >= MAX_LIMITED_KEYS:  # clients can create keys: memory is bounded
                self._limited.clear()
        self._limited[key] = (now + seconds, 0)
        if suppressed:
            fields["suppressed"] = suppressed
        self.event(level, name, message, **fields)

    def event(self, level: str, name: str, message: str = "", **fields: object) -> None:
        """Write one event. Field values are formatted by `str`; values of fields with secret names are masked."""
        if LEVELS[level] < self._threshold:
            return
        for key in fields:
            if SECRET_FIELD.search(key):
                fields[key] = "***"
        if self._native is not None and self._native.send(self._datagram(level, name, message, fields)):
            return
        line = self._line(level, name, message, fields)
        if self._sink is not None:
            self._sink.write(line.encode("utf-8", "backslashreplace"), 1)
            return
        try:
            self._stream.write(line)
            self._stream.flush()
        except (OSError, ValueError):  # rescue door: a closed stream must not stop relayd
            pass

    def _as_text(self, level: str, name: str, message: str, fields: dict[str, object]) -> str:
        details = " ".join(f"{key}={spaced(value)}" for key, value in fields.items())
        text = " ".join(part for part in (name, safe(message), details) if part)
        if self._prefixed:
            return f"<{PRIORITIES[level]}>{text} generation={self.generation}\n"
        stamp = self._stamp.format(clock.wall())
        if self._coloured:
            text = f"{COLOURS[level]}{level:<7} {text}{RESET}"
            return f"{DIM}{stamp}{RESET} {text} {DIM}generation={self.generation}{RESET}\n"
        return f"{stamp} {level:<7} {text} generation={self.generation}\n"

    def _as_json(self, level: str, name: str, message: str, fields: dict[str, object]) -> str:
        details = "".join(f',"{quoted(key)}":{as_json(value)}' for key, value in fields.items())
        return (
            f'{{"event":"{quoted(name)}","time":"{self._stamp.format(clock.wall())}","level":"{level}",'
            f'"message":"{quoted(message)}","generation":{self.generation}{details}}}\n'
        )

    def _datagram(self, level: str, name: str, message: str, fields: dict[str, object]) -> bytes:
        details = " ".join(f"{key}={spaced(value)}" for key, value in fields.items())
        parts = [
            field("MESSAGE", " ".join(part for part in (name, safe(message), details) if part)),
            field("PRIORITY", str(PRIORITIES[level])),
            field("SYSLOG_IDENTIFIER", "relayd"),
            field("RELAYD_EVENT", name),
            field("RELAYD_GENERATION", str(self.generation)),
        ]
        for key, value in fields.items():
            parts.append(field("RELAYD_" + re.sub("[^A-Z0-9_]", "_", key.upper()), safe(str(value))))
        return b"".join(parts)

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()
            self._sink = None
        if self._native is not None:
            self._native.close()
            self._native = None


def spaced(value: object) -> str:
    """A value of a text line; quoted if it contains a space or is empty."""
    text = safe(str(value))
    return f'"{text}"' if " " in text or not text else text


def as_json(value: object) -> str:
    """A value of a JSON line; values other than numbers, booleans and null become strings."""
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.6g}" if value - value == 0 else "null"
    return f'"{quoted(str(value))}"'


class LoggingBridge(logging.Handler):
    """Forwards the log records of libraries (mainly Tornado) as events of the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = mask_urls(record.getMessage())
            level = next((known for known, least in reversed(LEVELS.items()) if record.levelno >= least), "debug")
            fields: dict[str, object] = {"logger": record.name}
            if record.exc_info and record.exc_info[1] is not None:
                fields["exception"] = logging.Formatter().formatException(record.exc_info)
            self._journal.event(level, "library_logged", message, **fields)
        except Exception:  # rescue door: a log call inside a library must never become an error of its caller
            self._journal.error("library_log_failed", logger=record.name)

    def install(self, level: int = logging.INFO) -> None:
        """Become the only handler of the root logger."""
        root = logging.getLogger()
        root.handlers[:] = [self]
        root.setLevel(level)
