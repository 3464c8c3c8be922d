"""`relayd streams`: every exchange in flight, oldest first.

Exit codes: 0 shown, 1 relayd does not respond, 2 wrong usage.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from relayd.cli.output import amount, plain, span, table
from relayd.cli.watch import add_options, show

HELP = "show every exchange in flight, oldest first: its consumer, its phase, its memory"
SHOWN = 200
COLUMNS = (
    "ID", "AGE", "PHASE", "CONSUMER", "ROUTE", "UPSTREAM", "ENDPOINT", "TRIES", "GENERATION", "BUFFERED", "SENT",
    "REQUEST",
)


def configure(parser: argparse.ArgumentParser) -> None:
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    return show(arguments, "/streams", lines)


def lines(data: dict[str, Any]) -> Iterator[str]:
    """One line for each exchange, then their number."""
    shown = data["streams"][:SHOWN]
    if shown:
        yield from table([COLUMNS, *map(row, shown)])
    count = data["in_flight"]
    buffered = sum(one["buffered_bytes"] for one in data["streams"])
    yield f"{count} exchange{'' if count == 1 else 's'} in flight, {amount(buffered)} bytes buffered"
    if count > len(shown):
        yield f"... the oldest {len(shown)} are shown; --json has more"


def row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        plain(one["id"]), span(one["age_s"]), one["room"], one["consumer"] or "-", one["route"] or "-",
        one["upstream"] or "-", plain(one["endpoint"]) or "-", str(one["attempts"]), str(one["generation"]),
        amount(one["buffered_bytes"]), amount(one["sent_bytes"]), plain(f"{one['method']} {one['path']}"),
    )
