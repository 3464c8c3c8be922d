"""The options of commands that select access records (telemetry/record_filter)."""

from __future__ import annotations

import argparse
import re

from relayd.cli.admin_client import seconds
from relayd.lazy_regex import lazy_regex
from relayd.telemetry.record_filter import NAMED, RecordFilter

STATUS = lazy_regex(r"[1-5](?:xx|[0-9]{2})", re.IGNORECASE)


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


def filter_of(arguments: argparse.Namespace) -> RecordFilter:
    """The filter of a command line."""
    names = {name: tuple(getattr(arguments, name)) for name in NAMED}
    return RecordFilter(names, tuple(arguments.status), arguments.slow)
