"""Filters of `relayd tail`: which access records are shown. All conditions must hold; of one condition, any value."""

from __future__ import annotations

import argparse
import fnmatch
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relayd.cli.admin_client import seconds

NAMED = ("route", "upstream", "consumer", "model", "outcome")
STATUS = re.compile(r"[1-5](?:xx|[0-9]{2})", re.IGNORECASE)

Record = dict[str, Any]


def status(text: str) -> str:
    """Parse an argument: `5xx` or `503`."""
    if STATUS.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a status; write for example 5xx or 503")
    return text.lower()


def add_filter_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the filters."""
    for name in NAMED:
        example = {"model": "gpt-*", "outcome": "upstream.*"}.get(name, "NAME")
        parser.add_argument(
            f"--{name}", action="append", default=[], metavar="NAME",
            help=f"only records with this {name}, with * and ? ({example}); several options widen the choice",
        )
    parser.add_argument(
        "--status", action="append", default=[], type=status, metavar="STATUS", help="only records with 5xx, 503 ..."
    )
    parser.add_argument("--slow", type=seconds, metavar="TIME", help="only requests that took at least this long (2s)")


@dataclass(frozen=True, slots=True)
class RecordFilter:
    """The conditions. `slow_s`: the shortest time of a request, None for any."""

    names: Mapping[str, tuple[str, ...]]
    statuses: tuple[str, ...] = ()
    slow_s: float | None = None

    def accepts(self, record: Record) -> bool:
        """True if the record is to be shown."""
        for name, patterns in self.names.items():
            values = [record.get(name) or ""] + ([record.get("model_served") or ""] if name == "model" else [])
            if patterns and not any(fnmatch.fnmatchcase(str(value), one) for value in values for one in patterns):
                return False
        shown = str(record.get("status", ""))
        if self.statuses and shown not in self.statuses and f"{shown[:1]}xx" not in self.statuses:
            return False
        return self.slow_s is None or (number(record, "total_ms") or 0.0) >= self.slow_s * 1000


def number(record: Record, name: str) -> float | None:
    """A number of a record; None without one. A file may contain anything."""
    value = record.get(name)
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def filter_of(arguments: argparse.Namespace) -> RecordFilter:
    """The filter of a command line."""
    names = {name: tuple(getattr(arguments, name)) for name in NAMED}
    return RecordFilter(names, tuple(arguments.status), arguments.slow)
