"""`relayd top`: the live view of the dashboard in a terminal: streams, endpoints, rates and budgets, failures, queues.

It sorts, filters, and cancels streams or drains endpoints after a question. `?` shows the keys. The data are those of
the dashboard: its event stream over the admin socket, which sends the state once and then what changes. Without a
terminal it does what `relayd status --watch` does; `--once` prints one screen as text.

Exit codes: 0 ended by the user, 1 relayd does not respond, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import http.client
import os
import shutil
import sys

from relayd import clock
from relayd.cli.admin_client import add_socket_options, seconds
from relayd.cli.commands import status
from relayd.cli.output import err, out
from relayd.cli.top.feed import Refused, whole_state
from relayd.cli.top.interaction import Interaction
from relayd.cli.top.live_state import LiveState
from relayd.cli.top.screen import Screen
from relayd.cli.top.session import Session
from relayd.cli.top.terminal import Terminal, painted
from relayd.cli.top.views import VIEWS
from relayd.cli.watch import show
from relayd.wire.sse import SseError

HELP = "live view in the terminal: sort, filter, cancel streams, drain endpoints"
PRINTED = (120, 60)  # columns and rows of --once if standard output is no terminal


def configure(parser: argparse.ArgumentParser) -> None:
    add_socket_options(parser)
    names = [one.name for one in VIEWS]
    parser.add_argument("--view", choices=names, default=names[0], help=f"the first view (default {names[0]})")
    parser.add_argument("--sort", metavar="COLUMN", default="", help="sort the view by this column")
    parser.add_argument("--reverse", action="store_true", help="reverse the order")
    parser.add_argument("--filter", metavar="TEXT", default="", help="only rows that contain this text")
    parser.add_argument("--read-only", action="store_true", help="offer no actions")
    parser.add_argument("--once", action="store_true", help="print one screen as text, then end")
    parser.add_argument(
        "--interval", type=seconds, default="2s", metavar="TIME",
        help="without a terminal: repeat at this interval (default 2s)",
    )
    parser.add_argument("--timeout", type=seconds, default="5s", metavar="TIME", help="how long to wait (default 5s)")


def run(arguments: argparse.Namespace) -> int:
    live = LiveState()
    top = Interaction(live)
    try:
        top.choose(arguments.view, arguments.sort, True if arguments.reverse else None, arguments.filter)
    except ValueError as wrong:
        err(f"relayd top: {wrong}")
        return 2
    if not arguments.once and not is_terminal():
        arguments.json, arguments.watch = False, arguments.interval
        return show(arguments, "/status", status.lines)
    try:
        live.replace(whole_state(arguments))
    except (OSError, http.client.HTTPException, Refused, SseError, ValueError) as failed:
        err(f"relayd: nothing to show: {failed}")
        return 1
    top.lost, top.may_write = "", not arguments.read_only
    colour = "NO_COLOR" not in os.environ
    if arguments.once:
        print_once(top, colour=colour)
        return os.EX_OK
    terminal = Terminal(sys.stdin.fileno(), sys.stdout.fileno(), sys.stdout.encoding, colour=colour)
    return Session(arguments, live, top, terminal, clock.wall).run()


def is_terminal() -> bool:
    """True if both ends are a terminal that can be controlled."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def print_once(top: Interaction, *, colour: bool) -> None:
    """Print the screen without the line of keys. Without a terminal it has no styles."""
    columns, rows = shutil.get_terminal_size(PRINTED)
    *lines, _ = Screen(top, marks_selected=False).lines(columns, rows, clock.wall())
    is_styled = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    texts = [painted(line, colour=colour) if is_styled else "".join(text for text, _ in line) for line in lines]
    while texts and not texts[-1].strip():
        texts.pop()
    for text in texts:
        out(text.rstrip())
