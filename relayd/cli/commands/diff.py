"""`relayd diff`: shows what a reload would change now. Opens nothing, changes nothing, shows no secret.

Exit codes: 0 nothing would change, 1 something would, 3 the file would be refused or relayd does not respond, 2 wrong
usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from relayd.cli.admin_client import Unreachable, add_socket_options, seconds, send_request
from relayd.cli.output import err, out, paint

HELP = "show what a reload would change: the running configuration against the file"
COLOUR_OF_SIGN = {"+": "green", "-": "red", "~": "yellow"}
FAILED = 3


def configure(parser: argparse.ArgumentParser) -> None:
    add_socket_options(parser)
    parser.add_argument("--timeout", type=seconds, default="20s", metavar="TIME", help="how long to wait (default 20s)")


def run(arguments: argparse.Namespace) -> int:
    try:
        answer = send_request(arguments, "POST", "/diff", arguments.timeout)
        reply = json.loads(answer.body)
    except (Unreachable, ValueError) as failed:
        err(f"relayd: cannot compare: {failed}")
        return FAILED
    if not reply.get("accepted"):
        for finding in reply.get("findings", []):
            err(finding)
        err(f"relayd: a reload would be refused; generation {reply.get('generation')} would stay in force")
        return FAILED
    for warning in reply["warnings"]:
        err(paint(warning, "yellow", sys.stderr))
    for change in reply["changes"]:
        out(paint(change, COLOUR_OF_SIGN.get(change[:1], "bold")))
    return 1 if reply["changes"] else os.EX_OK
