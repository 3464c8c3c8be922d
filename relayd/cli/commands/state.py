"""`relayd state`: what the running relayd holds about consumers, and its deletion.

    show                      each kind of data, its consumer, the number of entries, their bytes
    forget --consumer NAME    delete all of a consumer; --dry-run says only what would be deleted

NAME is a consumer as in the access log (ENTRY/NAME for tokens), or @ADDRESS for a client without a consumer. Kinds are
`stored` (responses, conversations, signatures), `session`, `session_endpoint`, `window` (what is counted of rates and
budgets, which begin anew) and `spend` (the rows of `relayd spend`). Not deleted are keys (`relayd keys revoke`), logs,
the configuration, and what requests in progress have reserved and will store. Spend is that of this process and its
state directory. Windows that instances share through Redis are shown and deleted for all of them. While Redis cannot be
reached, the command fails.

Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from relayd.cli.action import add_daemon_options, request
from relayd.cli.output import err, out, plain, table

HELP = "show what is stored about consumers, or delete all of one"
COLUMNS = ("CONSUMER", "KIND", "ENTRIES", "BYTES")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=("show", "forget"), help="show: all that is held; forget: delete that of a consumer",
    )
    parser.add_argument("--consumer", metavar="NAME", help="the consumer, or @ADDRESS of a client without one")
    parser.add_argument("--dry-run", action="store_true", help="forget: only say what would be deleted")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_daemon_options(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "forget" and not arguments.consumer:
        err("relayd: state forget: needs --consumer")
        return 2
    if arguments.action == "show" and arguments.dry_run:
        err("relayd: state show: takes no --dry-run")
        return 2
    return show(arguments) if arguments.action == "show" else forget(arguments)


def show(arguments: argparse.Namespace) -> int:
    data = request(arguments, "POST", "state", "show")
    if data is None:
        return 1
    rows = [one for one in data["state"] if arguments.consumer in (None, one["consumer"])]
    if arguments.json:
        out(json.dumps(rows, indent=2))
        return 0
    if not rows:
        out("nothing is held")
        return 0
    for line in table([COLUMNS, *map(row, rows)]):
        out(line)
    return 0


def row(one: dict[str, Any]) -> tuple[str, ...]:
    return plain(one["consumer"]) or "-", one["kind"], str(one["entries"]), str(one["bytes"] or "-")


def forget(arguments: argparse.Namespace) -> int:
    data = request(arguments, "POST", "state", "dry" if arguments.dry_run else "forget", arguments.consumer)
    if data is None:
        return 1
    if arguments.json:
        out(json.dumps(data, indent=2))
        return 0
    counts = ", ".join(f"{count} {kind}" for kind, count in data.items() if kind != "consumer")
    out(f"{'would delete' if arguments.dry_run else 'deleted'} of {plain(arguments.consumer)}: {counts}")
    return 0
