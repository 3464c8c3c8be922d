"""`relayd endpoint`: take one endpoint out of service and bring it back, or set those of an upstream, at run time.

`drain` and `disable` are kept over reloads until `enable` undoes them. `set` is for deploy hooks: it replaces the
addresses of the upstream at once, without a reload; running requests finish at the old ones. It lasts until `reset`, a
reload that changes the upstream, or a restart or upgrade of relayd. Addresses that must last longer belong into the
configuration, or into a file for `discovery: {file: ...}`. `list` shows the addresses and where they come from.

    relayd endpoint set web http://172.17.0.5:5000

Exit codes: 0 in force, 1 refused or relayd does not respond, 2 wrong usage.
"""

from __future__ import annotations

import argparse
from typing import Any

from relayd.cli.action import add_daemon_options, perform, request
from relayd.cli.output import discovery, err, out, plain, table

HELP = "drain, disable or enable one endpoint of an upstream; set, reset or list all of them"
MEANING = {
    "draining": "no new requests; running ones continue",
    "disabled": "no new requests and no health checks",
    "enabled": "in use again",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=("drain", "disable", "enable", "set", "reset", "list"),
        help="drain: no new requests, running ones continue; disable: out of service; enable: undo either; set: use "
        "these URLs instead of the configured or discovered addresses; reset: undo set; list: show the addresses",
    )
    parser.add_argument("upstream", metavar="UPSTREAM", nargs="?", help="name of the upstream; optional for list")
    parser.add_argument(
        "addresses", metavar="ADDRESS", nargs="*",
        help="address of the endpoint, as relayd upstreams shows it; for set: URLs, as under endpoints",
    )
    add_daemon_options(parser)


def run(arguments: argparse.Namespace) -> int:
    action, upstream, addresses = arguments.action, arguments.upstream, arguments.addresses
    if action == "list" and not addresses:
        return _list(arguments)
    if upstream is not None and action == "set" and addresses:
        return _changed(request(arguments, "POST", "upstreams", upstream, "set", *addresses))
    if upstream is not None and action == "reset" and not addresses:
        return _changed(request(arguments, "POST", "upstreams", upstream, "reset"))
    if upstream is not None and action in ("drain", "disable", "enable") and len(addresses) == 1:
        arguments.address = addresses[0]
        return _state(perform(arguments, action))
    wanted = {"set": "UPSTREAM URL...", "reset": "UPSTREAM", "list": "[UPSTREAM]"}.get(action, "UPSTREAM ADDRESS")
    err(f"relayd: usage: relayd endpoint {action} {wanted}")
    return 2


def _state(reply: dict[str, Any] | None) -> int:
    if reply is None:
        return 1
    endpoint = reply["endpoint"]
    state, count = endpoint["state"], endpoint["in_flight"]
    out(f"{reply['upstream']} {endpoint['address']}: {state} ({MEANING.get(state, state)}), {count} in flight")
    return 0


def _changed(reply: dict[str, Any] | None) -> int:
    if reply is None:
        return 1
    used = ", ".join(plain(one["address"]) for one in reply["endpoints"] if one["state"] != "leaving") or "no endpoint"
    by_hand = "set by hand, until reset, a change of its configuration, or a restart"
    out(f"{reply['upstream']}: {used} ({by_hand if reply['overridden'] else 'as configured'})")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    reply = request(arguments, "GET", "upstreams")
    if reply is None:
        return 1
    chosen = [one for one in reply["upstreams"] if arguments.upstream in (None, one["name"])]
    if not chosen:
        err(f"relayd: there is no upstream {arguments.upstream}")
        return 1
    rows = [("UPSTREAM", "ENDPOINT", "STATE", "SOURCE")]
    for one in chosen:
        source = discovery(one) or "configuration"
        rows += [(one["name"], plain(end["address"]), end["state"], source) for end in one["endpoints"]]
        if not one["endpoints"]:
            rows.append((one["name"], "none", "", source))
    for line in table([*rows]):
        out(line)
    return 0
