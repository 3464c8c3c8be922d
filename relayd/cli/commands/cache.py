"""`relayd cache`: the answers that the routes of the running relayd keep, and their deletion.

    show                  each route with a cache, and each consumer: answers, their bytes, the bound of the route
    purge --route NAME    delete the answers of a route; --consumer NAME only those of one consumer, --dry-run says only
                          what would be deleted

NAME of a consumer is as in the access log, or @ADDRESS for a client without a consumer; a shared cache has no
consumers. `relayd state forget` deletes the answers of a consumer in all routes. Answers of requests in progress are
stored afterwards. With a store in Redis, the answers of all instances are shown and deleted; while Redis cannot be
reached, the command fails.

Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from relayd.cli.action import add_daemon_options, request
from relayd.cli.output import err, out, plain, table

HELP = "show the answers that routes keep, or delete them"
COLUMNS = ("ROUTE", "CONSUMER", "ANSWERS", "BYTES", "OF")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("show", "purge"), help="show: what is kept; purge: delete that of a route")
    parser.add_argument("--route", metavar="NAME", help="the route")
    parser.add_argument("--consumer", metavar="NAME", help="the consumer, or @ADDRESS of a client without one")
    parser.add_argument("--dry-run", action="store_true", help="purge: only say what would be deleted")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_daemon_options(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "purge" and not arguments.route:
        err("relayd: cache purge: needs --route")
        return 2
    if arguments.action == "show" and arguments.dry_run:
        err("relayd: cache show: takes no --dry-run")
        return 2
    return show(arguments) if arguments.action == "show" else purge(arguments)


def show(arguments: argparse.Namespace) -> int:
    data = request(arguments, "POST", "cache", "show")
    if data is None:
        return 1
    rows = [
        one for one in data["caches"]
        if arguments.route in (None, one["route"]) and arguments.consumer in (None, one["consumer"])
    ]
    if arguments.json:
        out(json.dumps(rows, indent=2))
        return 0
    if not rows:
        out("nothing is kept")
        return 0
    for line in table([COLUMNS, *map(row, rows)]):
        out(line)
    return 0


def row(one: dict[str, Any]) -> tuple[str, ...]:
    size = "-" if one["size"] is None else str(one["size"])
    return plain(one["route"]), plain(one["consumer"]) or "-", str(one["entries"]), str(one["bytes"]), size


def purge(arguments: argparse.Namespace) -> int:
    consumer = () if arguments.consumer is None else (arguments.consumer,)
    data = request(arguments, "POST", "cache", "dry" if arguments.dry_run else "purge", arguments.route, *consumer)
    if data is None:
        return 1
    if arguments.json:
        out(json.dumps(data, indent=2))
        return 0
    done = "would delete" if arguments.dry_run else "deleted"
    out(f"{done} {data['entries']} answers ({data['bytes']} bytes) of the route {plain(arguments.route)}")
    return 0
