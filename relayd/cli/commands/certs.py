"""`relayd certs`: certificates from ACME: show them, renew them now, save and restore them.

    list            every certificate of the running relayd, with its end, its renewal, the machine that has ordered it
                    (machines share certificates with `sharing_key`), and its last fault
    renew [NAME]    renew one certificate now, or all, and wait for the result
    export FILE     write accounts, certificates and their private keys into FILE (tar.gz, mode 0600)
    import FILE     restore such a file; a running relayd uses the certificates within seconds

`export` and `import` need root or the user of relayd, and no running relayd. Exit codes: 0 done, 1 failed (the reason
is on standard error), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from relayd import clock
from relayd.acme.state import LockedByOther, State
from relayd.cli import certificate_archive
from relayd.cli.admin_client import Unreachable, add_socket_options, seconds, send_request
from relayd.cli.output import err, file_fault, out, paint, plain, span, table
from relayd.daemon.generations import SYSTEM_STATE
from relayd.daemon.state_dir import ACME

HELP = "show, renew, export or import certificates from ACME"
STEP_S = 0.5
ASK_S = 5.0
COLUMNS = ("DOMAIN", "LISTENER", "VALID FOR", "RENEWAL", "DIRECTORY", "ORDERED BY", "LAST FAULT")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=("list", "renew", "export", "import"),
        help="list: show all certificates; renew: renew NAME now, or all; "
        "export: save them with their private keys in FILE; import: restore them from FILE",
    )
    parser.add_argument("argument", nargs="?", metavar="NAME|FILE", help="the domain to renew, or the file")
    add_socket_options(parser)
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    parser.add_argument("--state", metavar="DIR", help=f"relayd's state directory (default {SYSTEM_STATE})")
    parser.add_argument(
        "--timeout", type=seconds, default="5m", metavar="TIME", help="how long to wait for a renewal (default 5m)"
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.action in ("export", "import") and not arguments.argument:
        err(f"relayd: certs {arguments.action} needs the name of a file")
        return 2
    try:
        if arguments.action == "list":
            return show(arguments)
        if arguments.action == "renew":
            return renew(arguments)
        return transfer(arguments)
    except Unreachable as failed:
        err(f"relayd: {failed}")
    except LockedByOther:
        err("relayd: a certificate is being ordered now; try again in a minute")
    except certificate_archive.ArchiveFault as failed:
        err(f"relayd: {failed}")
    except OSError as failed:
        err(f"relayd: {file_fault(failed)}")
    return 1


def transfer(arguments: argparse.Namespace) -> int:
    """Write or restore an archive."""
    folder = (arguments.state or SYSTEM_STATE).rstrip("/")  # instances share their certificates
    state, file = State(os.path.join(folder, ACME)), arguments.argument
    if arguments.action == "export":
        if not os.path.isdir(state.folder):
            raise certificate_archive.ArchiveFault(f"{state.folder} does not exist, or this user may not read it")
        count = certificate_archive.export(state, file)
        out(f"{file}: {count} certificates with their accounts")
        err("relayd: the file contains private keys: keep it secret")
        return 0
    done = certificate_archive.restore(state, file)
    for name in done.restored:
        out(f"{name}: restored")
    for name in done.retained:
        out(f"{name}: kept, because the present certificate is valid longer")
    return 0


def entries(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The certificates from ACME of the running relayd. Raises Unreachable."""
    data = json.loads(send_request(arguments, "GET", "/status", ASK_S).body)
    return [one for one in data.get("certificates", ()) if "domain" in one]


def show(arguments: argparse.Namespace) -> int:
    found = entries(arguments)
    if arguments.json:
        out(json.dumps(found, indent=2))
        return 0
    if not found:
        out("no listener has tls.acme")
        return 0
    for line in table([COLUMNS, *map(row, found)]):
        out(line)
    return 0


def row(one: dict[str, Any]) -> tuple[str, ...]:
    left = span(max(one["left_s"], 0)) if one["expires_at"] else "none"
    colour = {"error": "red", "warning": "yellow"}.get(one["urgency"], "")
    renewal = f"{day(one['renew_at'])}{' (suggested)' if one['suggested'] else ''}" if one["renew_at"] else "-"
    fault = plain(one["fault"])
    if fault:
        fault = f"{fault}; attempt {one['failures'] + 1} in {span(max(one['next_try'] - clock.wall(), 0))}"
    machine = plain(one.get("origin", "")) or ("this machine" if one["expires_at"] else "-")
    return (
        one["domain"], one["name"], paint(left, colour) if colour else left, renewal, plain(one["directory"]) or "-",
        machine, paint(fault, colour) if colour else fault,
    )


def day(wall_s: float) -> str:
    return datetime.datetime.fromtimestamp(wall_s, datetime.UTC).strftime("%Y-%m-%d")


def renew(arguments: argparse.Namespace) -> int:
    """Renew, and wait for the result."""
    name = arguments.argument
    path = f"/certs/{quote(name, safe='')}/renew" if name else "/certs/renew"
    answer = send_request(arguments, "POST", path, ASK_S)
    reply = json.loads(answer.body)
    if answer.status != 200:
        err(f"relayd: not renewed: {reply['error']['message']}")
        return 1
    waiting, failed, end = set(reply["domains"]), False, clock.monotonic() + arguments.timeout
    while waiting and clock.monotonic() < end:
        for one in finished(entries(arguments), waiting, reply["at"]):
            waiting.discard(one["domain"])
            failed = failed or bool(one["fault"])
            if one["fault"]:
                err(f"relayd: {one['domain']}: not renewed: {plain(one['fault'])}")
            else:
                out(f"{one['domain']}: renewed, valid for {span(one['left_s'])}")
        if waiting:
            time.sleep(STEP_S)  # noqa: TID251  # a command has no loop to block
    for domain in sorted(waiting):
        err(f"relayd: {domain}: no result within {span(arguments.timeout)}; the journal will have it")
    return int(failed or bool(waiting))


def finished(found: list[dict[str, Any]], waiting: set[str], since: float) -> Iterator[dict[str, Any]]:
    """The certificates of which an attempt has begun after `since` and has ended."""
    for one in found:
        if one["domain"] in waiting and one["tried_at"] >= since and not one["trying"]:
            yield one
