"""Output of commands: results on standard output, errors and warnings on standard error.

Colours are used only on a terminal, and never if NO_COLOR is set (no-color.org).
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any, TextIO

from relayd.lazy_regex import lazy_regex

CODES = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}
PAINT = lazy_regex("\033\\[[0-9;]*m")
UNPRINTABLE = lazy_regex("[^\n -~]+")  # outside of ASCII; the encoder has escaped control characters below it


def out(text: str) -> None:
    """Print a line of the result."""
    write(sys.stdout, text)


def err(text: str) -> None:
    """Print a line about an error, a warning or progress."""
    write(sys.stderr, text)


def file_fault(fault: OSError) -> str:
    """Why a file of the service could not be used, with the cure if it is known."""
    if not fault.filename:
        return str(fault)
    cure = "; do this as root or as the user of the service" if isinstance(fault, PermissionError) else ""
    return f"{fault.filename}: {fault.strerror}{cure}"


def write(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """The text in a colour, if `stream` is a terminal. `stream`: its destination, standard output if None."""
    stream = sys.stdout if stream is None else stream
    if not stream.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{CODES[colour]}m{text}\033[0m"


def plain(text: str) -> str:
    """Untrusted text in which control characters, and those that reverse the direction of a text or have no width, are
    replaced: it cannot move the cursor, end the line, or look like another text."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else " " if one.isspace() and one > "\x9f" else "?" for one in text)


def json_text(value: object, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """A value as JSON. In its texts, what `plain` replaces is escaped, so that the value is kept and a terminal does
    not act on it."""
    text = json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=False)
    return text if text.isprintable() else UNPRINTABLE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return "".join(
        one if one.isprintable() else "\\u007f" if one == "\x7f" else json.dumps(one)[1:-1] for one in found[0]
    )


def span(seconds: float) -> str:
    """A duration for display: 1.5s, 3m20s, 5h02m, 12d3h."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    return f"{hours // 24}d{hours % 24}h"


def addresses(endpoint: dict[str, Any]) -> str:
    """The resolved addresses of an endpoint's host name and their age; empty if it is no name."""
    age_s = endpoint.get("addresses_age_s")  # missing in the reply of an older daemon
    fault = endpoint.get("lookup_fault")
    known = "" if age_s is None else f"{', '.join(endpoint['addresses'])}, resolved {span(age_s)} ago"
    return plain("; ".join(part for part in (known, fault) if part))


def discovery(upstream: dict[str, Any]) -> str:
    """The source of an upstream's addresses, the ages of the last lookup and change, and the last fault; empty if they
    are configured."""
    by_hand = "set by hand until relayd endpoint reset" if upstream.get("overridden") else ""
    found = upstream.get("discovery")  # missing in the reply of an older daemon
    if not found:
        return by_hand
    age_s, changed_s = found["age_s"], found["changed_age_s"]
    parts = [found["source"], "not found yet" if age_s is None else f"found {span(age_s)} ago"]
    if changed_s is not None:
        parts.append(f"changed {span(changed_s)} ago")
    return plain("; ".join(part for part in (by_hand, ", ".join(parts), found["note"], found["fault"]) if part))


def is_settled(upstream: dict[str, Any]) -> bool:
    """False if the addresses of an upstream were set by hand, or their discovery has a fault."""
    return not (upstream.get("overridden") or (upstream.get("discovery") or {}).get("fault"))


def amount(count: int) -> str:
    """A number of bytes for display: 512, 4.2K, 17M."""
    size, unit = float(count), ""
    for unit in ("", "K", "M", "G", "T"):
        if size < 1000 or unit == "T":
            break
        size /= 1024
    return f"{size:.1f}{unit}" if unit and size < 10 else f"{size:.0f}{unit}"


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as lines with aligned columns, colours not counted. The last column is not padded."""
    if not rows:
        return []
    widths = [max(width(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    padded = [
        [*(cell + " " * (wide - width(cell)) for cell, wide in zip(row, widths, strict=False)), row[-1]] for row in rows
    ]
    return ["  ".join(cells).rstrip() for cells in padded]


def width(text: str) -> int:
    """Width on a terminal, without colour codes."""
    return len(PAINT.sub("", text)) if "\033" in text else len(text)
