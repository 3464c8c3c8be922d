"""`relayd capture`: keep requests, responses and every attempt of matching exchanges of the running relayd.

    relayd capture [filters]    capture until interrupted, after --for, or when --max exchanges are kept
    relayd capture list         every captured exchange
    relayd capture show ID      one of them with its heads and bodies
    relayd capture export ID... as HTTP Archive (HAR 1.2), without an ID all of them
    relayd capture delete ID    delete one; --all deletes all

ID is the request id, as the access log has it, or the beginning of it. Exit codes: 0 done, 1 failed (the reason is on
standard error), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from typing import Any

from relayd.cli import har
from relayd.cli.action import post, request
from relayd.cli.admin_client import Unreachable, add_socket_options, seconds
from relayd.cli.capture_stream import NotStarted, events
from relayd.cli.captured import lines, summary_row
from relayd.cli.output import amount, err, json_text, out, paint, plain, span, table
from relayd.cli.record_filter import add_filter_options
from relayd.schema.units import parse_size
from relayd.telemetry.record_filter import NAMED

HELP = "keep requests, responses and attempts of matching exchanges; list, show, export or delete them"
COLUMNS = ("ID", "TIME", "ROUTE", "REQUEST", "STATUS", "OUTCOME", "ATTEMPTS", "SIZE")


def size(text: str) -> int:
    """Parse a size argument: `64MiB`."""
    try:
        return int(parse_size(text))
    except ValueError as fault:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write for example 256KiB") from fault


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", default="start", choices=("start", "list", "show", "export", "delete"),
        help="start (the default): capture; list, show, export, delete: what was captured",
    )
    parser.add_argument("ids", nargs="*", metavar="ID", help="show, export, delete: a request id, or its beginning")
    add_filter_options(parser)
    parser.add_argument("--id", default="", metavar="ID", help="only the request with this id")
    parser.add_argument("--errors", action="store_true", help="only failures: status 4xx or 5xx, or incomplete")
    parser.add_argument(
        "--for", dest="for_s", type=seconds, default="5m", metavar="TIME", help="how long to capture (default 5m)"
    )
    parser.add_argument("--max", type=int, default=100, metavar="N", help="end after this many exchanges (default 100)")
    parser.add_argument(
        "--body", type=size, default="256KiB", metavar="SIZE",
        help="what is kept of each body, half of it from its end (default 256KiB)",
    )
    parser.add_argument("--no-bodies", action="store_true", help="keep heads, times and sizes only")
    parser.add_argument(
        "--size", type=size, default="64MiB", metavar="SIZE", help="what all captured exchanges may use (default 64MiB)"
    )
    parser.add_argument(
        "--keep", type=seconds, default="1h", metavar="TIME", help="when a captured exchange is deleted (default 1h)"
    )
    parser.add_argument("--all", action="store_true", help="delete: all of them")
    parser.add_argument("--raw", action="store_true", help="show: bodies as they are, not indented or decoded")
    parser.add_argument("-o", "--output", metavar="FILE", help="export: write to this file, readable by its owner only")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_socket_options(parser)
    parser.add_argument("--timeout", type=seconds, default="30s", metavar="TIME", help="how long to wait (default 30s)")


def run(arguments: argparse.Namespace) -> int:
    if fault := usage_fault(arguments):
        err(f"relayd: capture {arguments.action}: {fault}")
        return 2
    actions = {"start": start, "list": list_all, "show": show, "export": export, "delete": delete}
    return actions[arguments.action](arguments)


def usage_fault(arguments: argparse.Namespace) -> str:
    """Why these arguments do not belong together; empty if they do."""
    action, count = arguments.action, len(arguments.ids)
    if action in ("start", "list") and count:
        return "takes no ID"
    if not all(arguments.ids):
        return "an ID is empty"
    if action == "show" and count != 1:
        return "needs the ID of one exchange"
    if action == "delete" and (count != 1) != arguments.all:
        return "needs either the ID of one exchange or --all"
    return ""


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of a capture as the admin application reads them."""
    return {
        **{name: getattr(arguments, name) for name in NAMED}, "status": arguments.status, "slow_s": arguments.slow,
        "id": arguments.id, "errors": arguments.errors, "for_s": arguments.for_s, "exchanges": arguments.max,
        "body_bytes": 0 if arguments.no_bodies else arguments.body, "bytes": arguments.size, "keep_s": arguments.keep,
    }


def start(arguments: argparse.Namespace) -> int:
    """Capture until the end."""
    ended: dict[str, Any] | None = None
    count = 0
    try:
        for event in events(arguments, settings_of(arguments)):
            if event["event"] == "capture_started":
                err(f"relayd capture: capturing for {span(event['for_s'])}; Ctrl-C ends it")
            elif event["event"] == "captured":
                count += 1
                out(json_text(event) if arguments.json else line(event))
                sys.stdout.flush()
            elif event["event"] == "capture_ended":
                ended = event
    except KeyboardInterrupt:
        err(f"relayd capture: ended; {count} exchanges are kept for {span(arguments.keep)}")
        return os.EX_OK
    except NotStarted as refused:
        err(f"relayd: not captured: {refused}")
        return 1
    except Unreachable as failed:
        err(f"relayd: not captured: {failed}")
        return 1
    if ended is None:
        err("relayd capture: relayd has ended the connection; what was captured is lost if it has stopped")
        return 1
    err(f"relayd capture: ended, {ended['why']}; {ended['exchanges']} exchanges are kept for {span(arguments.keep)}")
    return os.EX_OK


def line(event: dict[str, Any]) -> str:
    """A captured exchange as one line."""
    identity, time, route, what, status, outcome, attempts, _ = summary_row(event)
    colour = "red" if status >= "500" else "yellow" if status >= "400" or outcome != "complete" else "green"
    count = f"{attempts} attempt" + ("" if attempts == "1" else "s")
    return f"{identity}  {paint(time, 'dim')}  {route}  {paint(status, colour)}  {what}  {outcome}  {count}"


def list_all(arguments: argparse.Namespace) -> int:
    """Show all captured exchanges."""
    data = request(arguments, "GET", "captures")
    if data is None:
        return 1
    if arguments.json:
        out(json_text(data, indent=2))
        return os.EX_OK
    if data["is_on"]:
        out(f"a capture is on and ends in {span(data['ends_in_s'])} at the latest")
    if not data["captures"]:
        out("no captured exchanges")
        return os.EX_OK
    for text in table([COLUMNS, *map(summary_row, data["captures"])]):
        out(text)
    out(f"{len(data['captures'])} exchanges, {amount(data['bytes'])} bytes; the first is deleted in "
        f"{span(min(one['expires_in_s'] for one in data['captures']))}")
    return os.EX_OK


def show(arguments: argparse.Namespace) -> int:
    """Show one exchange."""
    document = request(arguments, "GET", "captures", arguments.ids[0])
    if document is None:
        return 1
    if arguments.json:
        out(json_text(document, indent=2))
        return os.EX_OK
    for text in lines(document, raw=arguments.raw):
        out(text)
    return os.EX_OK


def export(arguments: argparse.Namespace) -> int:
    """Write exchanges as an HTTP Archive."""
    ids = arguments.ids
    if not ids:
        listed = request(arguments, "GET", "captures")
        if listed is None:
            return 1
        ids = [one["id"] for one in listed["captures"]]
    documents = []
    for identity in ids:
        document = request(arguments, "GET", "captures", identity)
        if document is None:
            return 1
        documents.append(document)
    text = json_text(har.archive(documents), indent=1)
    if not arguments.output:
        out(text)
        return os.EX_OK
    try:
        descriptor = os.open(arguments.output, os.O_WRONLY | os.O_CREAT, 0o600)
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):  # not a device: its mode is that of the machine
                os.fchmod(descriptor, 0o600)  # the file may have existed
                os.ftruncate(descriptor, 0)
            file.write(text + "\n")
    except OSError as fault:
        err(f"relayd: not exported: {plain(arguments.output)}: {fault.strerror}")
        return 1
    out(f"{len(documents)} exchanges: {plain(arguments.output)}")
    return os.EX_OK


def delete(arguments: argparse.Namespace) -> int:
    """Delete one exchange, or all."""
    asked = {"all": True} if arguments.all else {"id": arguments.ids[0]}
    data = post(arguments, "/captures/delete", asked)
    if data is None:
        return 1
    out(json.dumps(data) if arguments.json else f"{data['deleted']} deleted")
    return os.EX_OK
