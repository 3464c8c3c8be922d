"""`relayd spend`: requests, tokens and cost by day, consumer, group, route, upstream or model.

The sums are read from the state directory and those of instances below it, so relayd need not run. A running relayd
writes them every second: a request that ended within the last second may be missing, and a relayd that is killed loses
at most this second. Days are days of UTC. Only requests to which `prices` applied are counted; `unpriced` is the number
of those whose cost is unknown, because no price matches their model, `estimated` of those whose cost is an estimate,
because their tokens were not reported (relayd-rates(7)). Tokens are those that were reported. In CSV a name that a
spreadsheet would take for a formula, as `=1+1`, has an apostrophe before it.

Exit codes: 0 shown, 1 the file cannot be read, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import glob
import io
import json
import os
import re
import sqlite3
from collections.abc import Iterable

from relayd import clock
from relayd.cli.output import err, out, plain, table
from relayd.daemon.generations import SYSTEM_STATE
from relayd.daemon.state_dir import state_folder
from relayd.lazy_regex import lazy_regex
from relayd.limits.ledger_file import FILE, SUMS, Row, read_spend
from relayd.money import amount_text

HELP = "show what requests have cost, by consumer, model, upstream, day ..."
GROUPS = ("day", "consumer", "group", "route", "upstream", "model")  # in the order of the file's columns
FIRST_DAY, LAST_DAY = "0000-00-00", "9999-99-99"
FORMULA = ("=", "+", "-", "@")  # how a cell begins that a spreadsheet computes
COST, CURRENCY = SUMS.index("cost_nano"), len(GROUPS)
_DAYS_AGO = lazy_regex(r"([0-9]{1,4})d", re.ASCII)

Sums = dict[tuple[str, ...], list[int]]
"""The sums by the values of the requested columns and the currency."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--by", type=columns, default="consumer,model", metavar="NAMES",
        help=f"what is added up together: some of {', '.join(GROUPS)}, or none (default consumer,model)",
    )
    day = "a day of UTC: 2026-11-29, today, yesterday, or 30d for thirty days ago"
    parser.add_argument("--since", type=day_of, default=FIRST_DAY, metavar="DAY", help=f"the first day; {day}")
    parser.add_argument("--until", type=day_of, default=LAST_DAY, metavar="DAY", help="the last day, included")
    parser.add_argument(
        "--state", metavar="DIR",
        help=f"relayd's state directory, with those of instances below it (default {SYSTEM_STATE})",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const="json", help="print JSON")
    form.add_argument("--csv", dest="form", action="store_const", const="csv", help="print CSV")


def columns(text: str) -> tuple[str, ...]:
    """The names of --by. Raises ArgumentTypeError."""
    names = () if text == "none" else tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in names if name not in GROUPS]:
        raise argparse.ArgumentTypeError(f"unknown: {unknown[0]!r}; known: {', '.join(GROUPS)}, none")
    return tuple(dict.fromkeys(names))


def day_of(text: str) -> str:
    """A day in the form of the file. Raises ArgumentTypeError."""
    today = datetime.datetime.fromtimestamp(clock.wall(), datetime.UTC).date()
    if text in (FIRST_DAY, LAST_DAY):
        return text
    if text in ("today", "yesterday"):
        return (today - datetime.timedelta(days=int(text == "yesterday"))).isoformat()
    if ago := _DAYS_AGO.fullmatch(text):
        return (today - datetime.timedelta(days=int(ago[1]))).isoformat()
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"no day: {text!r}; write it as 2026-11-29, today, yesterday or 30d") from None


def run(arguments: argparse.Namespace) -> int:
    folder = arguments.state or state_folder() or SYSTEM_STATE
    paths = files_in(folder)
    if not paths:
        err(f"relayd: no {FILE} in {folder}: no spend was recorded; it is recorded with `prices` in a state directory")
        return 1
    rows: list[Row] = []
    for path in paths:
        try:
            rows += read_spend(path, arguments.since, arguments.until)
        except sqlite3.Error as fault:
            err(f"relayd: {path} cannot be read: {fault}")
            return 1
    sums = summed(rows, arguments.by)
    {"json": print_json, "csv": print_csv, None: print_table}[arguments.form](sums, arguments.by)
    return os.EX_OK


def files_in(folder: str) -> list[str]:
    """The files of a state directory: its own, and those of instances (relayd@NAME.service) below it."""
    below = sorted(glob.glob(os.path.join(glob.escape(folder), "*", FILE)))
    return [path for path in (os.path.join(folder, FILE), *below) if os.path.exists(path)]


def summed(rows: Iterable[Row], by: tuple[str, ...]) -> Sums:
    """Add up the rows, sorted by the values of the columns; without columns by currency only."""
    indices = [*(GROUPS.index(name) for name in by), CURRENCY]
    sums: Sums = {}
    for key, counts in rows:
        total = sums.setdefault(tuple(key[index] for index in indices), [0] * len(SUMS))
        for index, count in enumerate(counts):
            total[index] += count
    return dict(sorted(sums.items()))


def print_table(sums: Sums, by: tuple[str, ...]) -> None:
    heads = (
        *(name.upper() for name in by), "REQUESTS", "INPUT", "CACHED", "WRITTEN", "OUTPUT", "UNPRICED", "ESTIMATED",
        "COST",
    )  # fmt: skip
    rows = [
        (*(plain(part) or "-" for part in key[:-1]), *(str(counts[SUMS.index(name)]) for name in (
            "requests", "input", "cached_read", "cache_write", "output", "unpriced", "estimated",
        )), f"{amount_text(counts[COST])} {key[-1]}")
        for key, counts in sums.items()
    ]  # fmt: skip
    for line in table([heads, *rows]):
        out(line)
    totals = summed(((("",) * len(GROUPS) + key[-1:], counts) for key, counts in sums.items()), ())
    for (currency,), counts in totals.items():
        out(f"total: {counts[0]} requests, {amount_text(counts[COST])} {currency}")
    if not totals:
        out("no requests in these days")


def entry(key: tuple[str, ...], counts: list[int], by: tuple[str, ...]) -> dict[str, str | int]:
    """One row by name. The cost is a decimal number in a text, so that no reader rounds it."""
    named: dict[str, str | int] = dict(zip(by, key, strict=False))
    named |= {name: count for name, count in zip(SUMS, counts, strict=True) if name != "cost_nano"}
    return named | {"cost": amount_text(counts[COST]), "currency": key[-1]}


def print_json(sums: Sums, by: tuple[str, ...]) -> None:
    out(json.dumps([entry(key, counts, by) for key, counts in sums.items()], indent=2))


def as_cell(value: object) -> object:
    """A value for spreadsheets: a client chooses the name of a model, and must not write a formula with it."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def print_csv(sums: Sums, by: tuple[str, ...]) -> None:
    text = io.StringIO()
    names = [*by, *(name for name in SUMS if name != "cost_nano"), "cost", "currency"]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for key, counts in sums.items():
        writer.writerow({name: as_cell(value) for name, value in entry(key, counts, by).items()})
    out(text.getvalue().rstrip("\n"))
