"""`relayd upgrade`: start a new process of the installed relayd that takes over; wait, and print the result.

Exit codes: 0 the new process serves, 1 it does not and the old one continues, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os

from relayd.cli.admin_client import Unreachable, add_socket_options, seconds, send_request
from relayd.cli.output import err, out

HELP = "let a new process take over from the running relayd, which finishes its streams (needs a keeper)"
DEFAULT_TIMEOUT = "40s"


def configure(parser: argparse.ArgumentParser) -> None:
    add_socket_options(parser)
    parser.add_argument(
        "--timeout", type=seconds, default=DEFAULT_TIMEOUT, metavar="TIME",
        help=f"how long to wait (default {DEFAULT_TIMEOUT})",
    )


def run(arguments: argparse.Namespace) -> int:
    try:
        reply = json.loads(send_request(arguments, "POST", "/upgrade", arguments.timeout).body)
    except (Unreachable, ValueError) as failed:
        err(f"relayd: not upgraded: {failed}")
        return 1
    if not reply.get("accepted"):
        for finding in reply.get("findings", []):
            err(f"relayd: not upgraded: {finding}")
        err("relayd: the running process continues to serve")
        return 1
    out("a new process has taken over; the old one finishes its exchanges")
    return os.EX_OK
