"""`relayd state`: what the running relayd holds about consumers, and its deletion.

    show                      each kind of data, its consumer, the number of entries, their bytes
    forget --consumer NAME    delete all of a consumer; --dry-run says only what would be deleted

NAME is a consumer as in the access log (ENTRY/NAME for tokens), or @ADDRESS for a client without a consumer. Kinds are
`stored` (responses, conversations, signatures), `session`, `session_endpoint`, `cached` (answers in the caches of
routes; those in shared caches have no consumer, see `relayd cache`), `window` (what is counted of rates and
budgets, which begin anew) and `spend` (the rows of `relayd spend`). Not deleted are keys (`relayd keys revoke`), logs,
the configuration, and what requests in progress have reserved and will store. Spend is that of this process and its
state directory. Windows that instances share through Redis are shown and deleted for all of them. While Redis cannot be
reached, the command fails.

With `--state DIR` the command reads and changes the files of a relayd that does not run, as root or as the user of
relayd: the store in SQLite and the ledger, without what is in Redis. It refuses to while relayd answers at the socket.

Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
from typing import Any

from relayd.cli import stored_state
from relayd.cli.action import add_daemon_options, request
from relayd.cli.admin_client import Unreachable, send_request
from relayd.cli.output import err, out, plain, table

HELP = "show what is stored about consumers, or delete all of one"
COLUMNS = ("CONSUMER", "KIND", "ENTRIES", "BYTES")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=("show", "forget"), help="show: all that is held; forget: delete that of a consumer",
    )
    parser.add_argument("--consumer", metavar="NAME", help="the consumer, or @ADDRESS of a client without one")
    parser.add_argument("--dry-run", action="store_true", help="forget: only say what would be deleted")
    parser.add_argument(
        "--state", metavar="DIR", help="the state directory of a relayd that does not run",
    )
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
    data = request(arguments, "POST", "state", "show") if arguments.state is None else offline(arguments)
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
    action = "dry" if arguments.dry_run else "forget"
    if arguments.state is None:
        data = request(arguments, "POST", "state", action, arguments.consumer)
    else:
        data = offline(arguments)
    if data is None:
        return 1
    if arguments.json:
        out(json.dumps(data, indent=2))
        return 0
    counts = ", ".join(f"{count} {kind}" for kind, count in data.items() if kind != "consumer")
    out(f"{'would delete' if arguments.dry_run else 'deleted'} of {plain(arguments.consumer)}: {counts}")
    return 0


def offline(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The reply from the files of a relayd that does not run. None if it is not possible; the error is printed."""
    folder, consumer = arguments.state, arguments.consumer
    try:
        send_request(arguments, "GET", "/ready", arguments.timeout)
    except Unreachable:
        pass
    else:
        err("relayd: not done: relayd runs, and would write its own again: leave --state out, or stop it first")
        return None
    if not os.path.isdir(folder):
        err(f"relayd: not done: {folder} is not a folder")
        return None
    try:
        if arguments.action == "show":
            return {"state": stored_state.show(folder)}
        return {"consumer": consumer, **stored_state.forget(folder, consumer, dry_run=arguments.dry_run)}
    except (OSError, sqlite3.Error) as error:
        err(f"relayd: not done: {folder}: {error}")
        return None
