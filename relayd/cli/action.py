"""Runs one action on one endpoint of the running relayd, over the admin socket."""

from __future__ import annotations

import argparse
import json
from typing import Any
from urllib.parse import quote

from relayd.cli.admin_client import Unreachable, add_socket_options, seconds, send_request
from relayd.cli.output import err


def add_action_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name the endpoint, and the options that find the daemon."""
    parser.add_argument("upstream", metavar="UPSTREAM", help="name of the upstream")
    parser.add_argument("address", metavar="ADDRESS", help="address of the endpoint, as relayd upstreams shows it")
    add_socket_options(parser)
    parser.add_argument("--timeout", type=seconds, default="5s", metavar="TIME", help="how long to wait (default 5s)")


def perform(arguments: argparse.Namespace, action: str) -> dict[str, Any] | None:
    """The endpoint's state after the action. None if the action failed; the error is printed."""
    upstream, address = quote(arguments.upstream, safe=""), quote(arguments.address, safe="")
    try:
        path = f"/upstreams/{upstream}/endpoints/{address}/{action}"
        answer = send_request(arguments, "POST", path, arguments.timeout)
        reply: dict[str, Any] = json.loads(answer.body)
        if answer.status != 200:
            raise ValueError(reply["error"]["message"])
    except (Unreachable, ValueError, KeyError) as failed:
        err(f"relayd: not done: {failed}")
        return None
    return reply
