"""`relayd status`: what the running relayd does right now.

Exit codes: 0 it serves, 1 it does not answer, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any

from relayd.cli.admin_client import Unreachable, add_socket_options, ask, seconds
from relayd.cli.output import err, out, paint, table

HELP = "show generation, listeners, upstreams and exchanges in flight of the running relayd"
SHOWN = 50
UNPRINTABLE = dict.fromkeys((*range(32), *range(127, 160)), "?")
COLUMNS = ("ID", "AGE", "ROOM", "BUFFERED", "ROUTE", "UPSTREAM", "REQUEST")


def configure(parser: argparse.ArgumentParser) -> None:
    add_socket_options(parser)
    parser.add_argument("--json", action="store_true", help="the whole status as JSON")
    parser.add_argument("--timeout", type=seconds, default="5s", metavar="TIME", help="how long to wait (default 5s)")


def run(arguments: argparse.Namespace) -> int:
    try:
        answer = ask(arguments, "GET", "/status", arguments.timeout)
        told = json.loads(answer.body)
    except (Unreachable, ValueError) as failed:
        err(f"relayd: no status: {failed}")
        return 1
    if arguments.json:
        out(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        for line in lines(told):
            out(line)
    return os.EX_OK


def lines(told: dict[str, Any]) -> Iterator[str]:
    """The status for people."""
    colour = "green" if told["phase"] == "serving" else "yellow"
    yield f"relayd {told['version']} {paint(told['phase'], colour)}, pid {told['pid']}, up {span(told['uptime_s'])}"
    yield f"configuration {told['config']['file']}, generation {told['generation']}"
    for warning in told["config"]["warnings"]:
        yield paint(f"  {warning}", "yellow")
    if told["refused"] is not None:
        yield paint("the last reload was refused:", "red")
        yield from (paint(f"  {finding}", "red") for finding in told["refused"]["findings"])
    yield f"event loop {told['loop']['lag_ms']:g} ms late, at worst {told['loop']['worst_ms']:g} ms"
    yield ""
    rows = [("LISTENER", "ADDRESS")]
    rows += [(one["name"], one["address"] + (" TLS" if one["tls"] else "")) for one in told["listeners"]]
    yield from table([*rows])
    upstreams = [("UPSTREAM", "PROTOCOL", "ENDPOINT", "IN FLIGHT")]
    for one in told["upstreams"]:
        for end in one["endpoints"]:
            upstreams.append((one["name"], one["protocol"], end["endpoint"], str(end["in_flight"])))
    if len(upstreams) > 1:
        yield ""
        yield from table([*upstreams])
    yield ""
    yield f"{told['in_flight']} exchanges in flight"
    if told["exchanges"]:
        yield from table([COLUMNS, *map(row, told["exchanges"][:SHOWN])])
    if told["in_flight"] > SHOWN:
        yield f"... the oldest {SHOWN} are shown; --json has more"


def row(one: dict[str, Any]) -> tuple[str, ...]:
    request = f"{one['method']} {one['path']}".translate(UNPRINTABLE)  # from a client: must not move the cursor
    return (
        one["id"].translate(UNPRINTABLE), span(one["age_s"]), one["room"], str(one["buffered_bytes"]), one["route"],
        one["upstream"], request,
    )


def span(seconds_: float) -> str:
    """A time for people: 1.5s, 3m20s, 5h02m, 12d3h."""
    if seconds_ < 60:
        return f"{seconds_:.1f}s"
    minutes, rest = divmod(int(seconds_), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    return f"{hours // 24}d{hours % 24}h"
