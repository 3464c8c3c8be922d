"""`relayd replay`: send a captured request again, and show how the response differs.

The running relayd sends it to the upstream that served it, or to --upstream, with the key of that upstream,
translated if its dialect differs, in the order of its queue. It belongs to no consumer: it counts in no
consumer's limits, but costs what the upstream charges. The client's own keys and cookies, which are masked, are not
sent.

Exit codes: 0 the response is the same, 1 it differs, 2 it could not be sent or compared, or wrong usage.
"""

from __future__ import annotations

import argparse
import os

from relayd.cli.action import post, request
from relayd.cli.admin_client import add_socket_options, seconds
from relayd.cli.captured import Document, lines
from relayd.cli.output import err, json_text, out, plain
from relayd.cli.replay_difference import Difference

HELP = "send a captured request again, and show how the response differs"
SAME, DIFFERENT, NOT_DONE = 0, 1, 2


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the captured exchange: its request id, or the beginning of it")
    parser.add_argument("--upstream", default="", metavar="NAME", help="send it to this upstream (default: the same)")
    parser.add_argument("--model", default="", metavar="NAME", help="the model's name at the upstream")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be sent, as a client sends it")
    parser.add_argument("--show", action="store_true", help="also show the whole replayed exchange")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_socket_options(parser)
    parser.add_argument("--timeout", type=seconds, default="10m", metavar="TIME", help="how long to wait (default 10m)")


def run(arguments: argparse.Namespace) -> int:
    asked = {"id": arguments.id, "upstream": arguments.upstream, "model": arguments.model}
    if arguments.dry_run:
        return dry_run(arguments, asked)
    original = request(arguments, "GET", "captures", arguments.id)
    replayed = None if original is None else post(arguments, "/captures/replay", asked)
    if original is None or replayed is None:
        return NOT_DONE
    difference = Difference(original, replayed)
    if arguments.json:
        shown = {"difference": difference.describe(), "not_comparable": difference.incomplete, "replayed": replayed}
        out(json_text(shown, indent=2))
    else:
        for line in difference.lines():
            out(line)
        if arguments.show:
            out("")
            for line in lines(replayed):
                out(line)
    if difference.incomplete:
        err(f"relayd: not compared: {difference.incomplete}")
        return NOT_DONE
    return SAME if difference.is_same else DIFFERENT


def dry_run(arguments: argparse.Namespace, asked: Document) -> int:
    """Show what would be sent."""
    found = post(arguments, "/captures/replay", {**asked, "dry_run": True})
    if found is None:
        return NOT_DONE
    if arguments.json:
        out(json_text(found, indent=2))
        return os.EX_OK
    as_model = f", as model {plain(found['model'])}" if found["model"] else ""
    out(f"to upstream {plain(found['upstream'])}{as_model}, as from a client:")
    out(f"{found['method']} {plain(found['target'])}")
    for line in found["fields"]:
        out(plain(line))
    out(f"{found['body_bytes']} bytes of body")
    return os.EX_OK
