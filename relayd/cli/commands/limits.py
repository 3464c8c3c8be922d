"""`relayd limits`: every rate and budget: its limit, the used and the remaining amount, and its reset.

`relayd queue` shows the limits of concurrent requests. Exit codes: 0 shown, 1 relayd does not respond, 2 wrong usage.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from relayd.cli.output import paint, span, table
from relayd.cli.watch import add_options, show

HELP = "show every rate and budget: its limit, what is used and left, and when it is free again"
COLUMNS = ("OF", "COUNTS", "LIMIT", "USED", "RESERVED", "LEFT", "FREE IN", "WAITING", "FROM")


def configure(parser: argparse.ArgumentParser) -> None:
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    return show(arguments, "/limits", lines)


def lines(data: dict[str, Any]) -> Iterator[str]:
    """One line for each counter."""
    if not data["limits"]:
        yield "no rates and no budgets"
        return
    yield from table([COLUMNS, *map(row, data["limits"])])
    if data["more"]:
        yield f"... {data['more']} more"


def row(one: dict[str, Any]) -> tuple[str, ...]:
    selected = [one["value"]] if one["value"] else []
    selected += [f"model {one['model']}"] if one["model"] else []
    counts = " ".join([one["measure"], "per", one["per"], *selected]) + (" (shadow)" if one["shadow"] else "")
    share = one["share"]
    colour = "red" if share >= 1 else "yellow" if share >= 0.8 else ""
    left = str(one["left"])
    return (
        one["scope"], counts, str(one["limit"]), str(one["used"]), str(one["reserved"]),
        paint(left, colour) if colour else left, "-" if one["free_in_s"] is None else span(one["free_in_s"]),
        str(one["waiting"]), one["source"],
    )
