"""`relayd tail`: follow the access records of the running relayd, filtered.

The records come from the admin socket; without a running relayd, or with --journal, from the journal of its service;
with --file from an access log in JSON lines. A slow reader never delays relayd: the records that it misses are counted,
and the number is printed on standard error.

Exit codes: 0 ended by the user or by --count, 1 no source of records, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import threading
from collections.abc import Iterator

from relayd.cli.admin_client import Unreachable, add_socket_options
from relayd.cli.output import amount, err, json_text, out, paint, plain
from relayd.cli.record_filter import add_filter_options, filter_of
from relayd.cli.record_sources import from_file, from_journal, from_socket
from relayd.cli.service_environment import SERVICE
from relayd.telemetry.record_filter import JsonRecord, number

HELP = "follow the access records, filtered by route, upstream, consumer, model, status, outcome or time"


def configure(parser: argparse.ArgumentParser) -> None:
    add_socket_options(parser)
    add_filter_options(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--file", metavar="PATH", help="follow this access log in JSON lines instead")
    source.add_argument("--journal", action="store_true", help="follow the journal of the service instead")
    parser.add_argument("--no-follow", action="store_true", help="with --file: print the records of the file, then end")
    parser.add_argument("--count", type=int, metavar="N", help="end after this number of records")
    parser.add_argument("--json", action="store_true", help="the records themselves, one JSON object per line")


def run(arguments: argparse.Namespace) -> int:
    if arguments.no_follow and not arguments.file:
        err("relayd tail: --no-follow needs --file")
        return 2
    accepts, left = filter_of(arguments).accepts, arguments.count
    try:
        for record in records(arguments):
            if not accepts(record):
                continue
            out(json_text(record) if arguments.json else line(record))
            sys.stdout.flush()
            if left is not None and (left := left - 1) <= 0:
                break
    except KeyboardInterrupt:  # the normal end
        return os.EX_OK
    except (Unreachable, OSError) as failed:
        if isinstance(failed, BrokenPipeError):
            raise
        err(f"relayd tail: no records: {failed}")
        return 1
    return os.EX_OK


def records(arguments: argparse.Namespace) -> Iterator[JsonRecord]:
    """The records of the first source that is available. Raises Unreachable, OSError."""
    if arguments.file:
        yield from from_file(arguments.file, threading.Event().wait, follow=not arguments.no_follow)
        return
    unit = f"relayd@{arguments.instance}.service" if arguments.instance else SERVICE
    try:
        if not arguments.journal:
            yield from from_socket(arguments, notify, threading.Event().wait)
            return
    except Unreachable as failed:
        if arguments.socket or shutil.which("journalctl") is None:
            raise
        notify(f"{failed}; following the journal of {unit}")
    yield from from_journal(unit)


def notify(message: str) -> None:
    """Print a message about the records on standard error."""
    err(paint(f"relayd tail: {message}", "yellow", sys.stderr))


def line(record: JsonRecord) -> str:
    """A record as one line of text."""
    get = record.get
    status, code = int(number(record, "status") or 0), str(get("code") or "")
    colour = "red" if status >= 500 or (code and status < 400) else "yellow" if status >= 400 else "green"
    target = " ".join(plain(str(get(name))) for name in ("route", "upstream", "endpoint") if get(name))
    parts = [
        paint(plain(str(get("time") or "-"))[11:23] or "-", "dim"), paint(str(status), colour),
        f"{plain(str(get('method') or '-'))} {plain(str(get('host') or ''))}{plain(str(get('path') or ''))}",
        plain(str(get("consumer") or get("client") or get("peer") or "-")), f"-> {target or '-'}", _times(record),
    ]
    if get("model"):
        parts.append(plain(str(get("model"))))
    if get("tokens_input") is not None:
        parts.append(plain(f"{get('tokens_input')}+{get('tokens_output')} tokens"))
    parts.append(f"{amount(int(number(record, 'bytes_out') or 0))} bytes")
    if (number(record, "attempts") or 0) > 1:
        parts.append(f"{get('attempts')} attempts")
    if get("outcome") not in ("complete", None):
        reasons = (plain(str(one)) for one in (get("outcome"), code, get("detail")) if one)
        parts.append(paint(" ".join(reasons), colour))
    return "  ".join(parts)


def _times(record: JsonRecord) -> str:
    total, first = number(record, "total_ms"), number(record, "first_byte_ms")
    text = f"{total:.1f} ms" if total is not None else "-"
    return text + (f" (first {first:.1f})" if first is not None else "")
