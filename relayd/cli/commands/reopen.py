"""`relayd reopen`: make the running relayd reopen its log files, after a rotation. The configuration is not read.

Exit codes: 0 done, 1 a file could not be opened (the old one stays in use) or relayd does not respond, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os

from relayd.cli.admin_client import Unreachable, add_socket_options, seconds, send_request
from relayd.cli.output import err

HELP = "make the running relayd reopen its log files, after a rotation"


def configure(parser: argparse.ArgumentParser) -> None:
    add_socket_options(parser)
    parser.add_argument("--timeout", type=seconds, default="20s", metavar="TIME", help="how long to wait (default 20s)")


def run(arguments: argparse.Namespace) -> int:
    try:
        response = send_request(arguments, "POST", "/reopen", arguments.timeout)
        reply = json.loads(response.body)
    except (Unreachable, ValueError) as failed:
        err(f"relayd: not reopened: {failed}")
        return 1
    if response.status != 200:
        for finding in reply.get("findings", ["this relayd does not support it"]):
            err(f"relayd: not reopened: {finding}")
        return 1
    return os.EX_OK
