"""`relayd endpoint`: take an endpoint out of service and bring it back, at run time.

The state is kept over reloads until `enable` undoes it. Exit codes: 0 in force, 1 refused or relayd does not respond,
2 wrong usage.
"""

from __future__ import annotations

import argparse

from relayd.cli.action import add_action_options, perform
from relayd.cli.output import out

HELP = "drain, disable or enable one endpoint of an upstream, until it is undone"
MEANING = {
    "draining": "no new requests; running ones continue",
    "disabled": "no new requests and no health checks",
    "enabled": "in use again",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=("drain", "disable", "enable"),
        help="drain: no new requests, running ones continue; disable: out of service; enable: undo either",
    )
    add_action_options(parser)


def run(arguments: argparse.Namespace) -> int:
    reply = perform(arguments, arguments.action)
    if reply is None:
        return 1
    endpoint = reply["endpoint"]
    state, count = endpoint["state"], endpoint["in_flight"]
    out(f"{reply['upstream']} {endpoint['address']}: {state} ({MEANING.get(state, state)}), {count} in flight")
    return 0
