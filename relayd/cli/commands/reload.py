"""`relayd reload`: let the running relayd read its configuration again; wait, and say what changed or why not.

Exit codes: 0 in force, 1 refused or nobody answers, 2 wrong usage. A refused configuration changes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from relayd.cli.admin_client import Answer, Unreachable, add_socket_options, ask, seconds
from relayd.cli.output import err, out, paint

HELP = "let the running relayd read its configuration again, and say what changed"
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
        return report(ask(arguments, "POST", "/reload", arguments.timeout))
    except (Unreachable, ValueError) as failed:
        err(f"relayd: not reloaded: {failed}")
        return 1


def report(answer: Answer) -> int:
    """Say what became of a reload; the exit code. Raises ValueError for an answer that is none."""
    told = json.loads(answer.body)
    if answer.status != 200:
        for finding in told.get("findings", []):
            err(finding)
        err(f"relayd: reload refused; generation {told.get('generation')} stays in force")
        return 1
    for warning in told["warnings"]:
        err(paint(warning, "yellow", sys.stderr))
    for change in told["changes"]:
        out(paint(change, COLOUR_OF_SIGN.get(change[:1], "bold")))
    count = len(told["changes"])
    out(f"generation {told['generation']}: {count or 'no'} change{'' if count == 1 else 's'}")
    return os.EX_OK
