"""`relayd endpoint`: take an endpoint out of service and bring it back, at run time.

What is said here is kept over reloads until it is undone by `enable`. Exit codes: 0 in force, 1 refused or nobody
answers, 2 wrong usage.
"""

from __future__ import annotations

import argparse

from relayd.cli.action import add_action_options, perform
from relayd.cli.output import out

HELP = "drain, disable or enable one endpoint of an upstream, until it is undone"
MEANING = {
    "draining": "nothing new is sent there; what is under way goes on",
    "disabled": "nothing new is sent there, nor is its health checked",
    "enabled": "it may be asked again",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=("drain", "disable", "enable"),
        help="drain: send nothing new there, what is under way goes on; disable: out of service; enable: undo either",
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
