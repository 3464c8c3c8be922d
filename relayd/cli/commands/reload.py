"""`relayd reload`: make the running relayd reload its configuration, wait, and print the changes or the errors.

Exit codes: 0 in force, 1 refused or relayd does not respond, 2 wrong usage. A refused configuration changes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from relayd.cli.admin_client import AdminResponse, Unreachable, add_socket_options, seconds, send_request
from relayd.cli.output import err, out, paint

HELP = "reload the configuration of the running relayd, and show what changed"
DEFAULT_TIMEOUT = "20s"
COLOUR_OF_SIGN = {"+": "green", "-": "red", "~": "yellow"}


def configure(parser: argparse.ArgumentParser) -> None:
    add_socket_options(parser)
    parser.add_argument(
        "--timeout", type=seconds, default=DEFAULT_TIMEOUT, metavar="TIME",
        help=f"how long to wait (default {DEFAULT_TIMEOUT})",
    )


def run(arguments: argparse.Namespace) -> int:
    try:
        return report(send_request(arguments, "POST", "/reload", arguments.timeout))
    except (Unreachable, ValueError) as failed:
        err(f"relayd: not reloaded: {failed}")
        return 1


def report(response: AdminResponse) -> int:
    """Print the result of a reload. Returns the exit code. Raises ValueError for an invalid response."""
    reply = json.loads(response.body)
    if response.status != 200:
        for finding in reply.get("findings", []):
            err(finding)
        err(f"relayd: reload refused; generation {reply.get('generation')} stays in force")
        return 1
    for warning in reply["warnings"]:
        err(paint(warning, "yellow", sys.stderr))
    for change in reply["changes"]:
        out(paint(change, COLOUR_OF_SIGN.get(change[:1], "bold")))
    count = len(reply["changes"])
    out(f"generation {reply['generation']}: {count or 'no'} change{'' if count == 1 else 's'}")
    return os.EX_OK
