"""`relayd breaker`: open an endpoint's breaker by hand, or reset it.

Exit codes: 0 in force, 1 refused or relayd does not respond, 2 wrong usage.
"""

from __future__ import annotations

import argparse

from relayd.cli.action import add_action_options, perform
from relayd.cli.output import out

HELP = "open the breaker of one endpoint by hand, or reset it to closed"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=("open", "reset"),
        help="open: do not use the endpoint until reset; reset: closed, with its count of failures at zero",
    )
    add_action_options(parser)


def run(arguments: argparse.Namespace) -> int:
    reply = perform(arguments, f"breaker/{arguments.action}")
    if reply is None:
        return 1
    endpoint = reply["endpoint"]
    condition = ", until it is reset by hand" if endpoint["forced"] else ""
    out(f"{reply['upstream']} {endpoint['address']}: breaker {endpoint['breaker']}{condition}")
    return 0
