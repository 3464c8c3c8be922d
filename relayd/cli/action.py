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
    add_daemon_options(parser)


def add_daemon_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that find the daemon."""
    add_socket_options(parser)
    parser.add_argument("--timeout", type=seconds, default="5s", metavar="TIME", help="how long to wait (default 5s)")


def perform(arguments: argparse.Namespace, action: str) -> dict[str, Any] | None:
    """The endpoint's state after the action. None if the action failed; the error is printed."""
    parts = ("upstreams", arguments.upstream, "endpoints", arguments.address, *action.split("/"))
    return request(arguments, "POST", *parts)


def request(arguments: argparse.Namespace, method: str, *parts: str, quiet: bool = False) -> dict[str, Any] | None:
    """The reply to a request for the path of these parts. None if it failed; the error is printed unless `quiet`."""
    return _reply(arguments, method, "".join(f"/{quote(part, safe='')}" for part in parts), b"", quiet)


def post(arguments: argparse.Namespace, path: str, document: object, *, quiet: bool = False) -> dict[str, Any] | None:
    """The reply to a POST of this document as JSON. None if it failed; the error is printed unless `quiet`."""
    return _reply(arguments, "POST", path, json.dumps(document).encode(), quiet)


def _reply(
    arguments: argparse.Namespace, method: str, path: str, body: bytes, quiet: bool
) -> dict[str, Any] | None:
    try:
        answer = send_request(arguments, method, path, arguments.timeout, body)
        reply: dict[str, Any] = json.loads(answer.body)
        if answer.status != 200:
            raise ValueError(reply["error"]["message"])
    except (Unreachable, ValueError, KeyError) as failed:
        if not quiet:
            err(f"relayd: not done: {failed}")
        return None
    return reply
