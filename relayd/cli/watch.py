"""Showing a page of the running relayd: once, or again and again with --watch.

1. On a terminal the picture is drawn anew in its place, cut to what the terminal can show; elsewhere it is repeated
   below, so that it can be kept in a file.
2. The first question must be answered. Later ones may not be: relayd may be restarted while somebody watches.
3. --json gives the page as it came: indented once, or one line for each time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from relayd.cli.admin_client import Unreachable, add_socket_options, seconds, send_request
from relayd.cli.output import PAINT, err, out, paint, width

HOME, CLEAR_LINE, CLEAR_REST = "\033[H", "\033[K", "\033[J"
DEFAULT_INTERVAL = "2s"
SHORTEST_S = 0.1

Lines = Callable[[dict[str, Any]], Iterator[str]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that shows something of the running relayd."""
    add_socket_options(parser)
    parser.add_argument("--json", action="store_true", help="everything as JSON; with --watch a line each time")
    parser.add_argument(
        "--watch", nargs="?", type=seconds, const=seconds(DEFAULT_INTERVAL), metavar="TIME",
        help=f"show it again and again, this often ({DEFAULT_INTERVAL}), until interrupted",
    )
    parser.add_argument("--timeout", type=seconds, default="5s", metavar="TIME", help="how long to wait (default 5s)")


def show(arguments: argparse.Namespace, page: str, lines: Lines) -> int:
    """Ask for the page and show it, as often as the options say; the exit code."""
    try:
        data = fetched(arguments, page)
    except (Unreachable, ValueError) as failed:
        err(f"relayd: nothing to show: {failed}")
        return 1
    if arguments.watch is None:
        for line in [json.dumps(data, indent=2, ensure_ascii=False)] if arguments.json else lines(data):
            out(line)
        return os.EX_OK
    try:
        watch(arguments, page, lines, data, threading.Event().wait)
    except KeyboardInterrupt:  # the way to end it
        out("")
    return os.EX_OK


def watch(
    arguments: argparse.Namespace, page: str, lines: Lines, data: dict[str, Any], pause: Callable[[float], object]
) -> None:
    """Show the page, and ask for it anew after each pause, until `pause` raises."""
    redrawn = sys.stdout.isatty() and not arguments.json
    while True:
        if arguments.json:
            screen = [json.dumps(data, ensure_ascii=False)]
        else:
            screen = list(lines(data))
        if redrawn:
            redraw(screen)
        else:
            out("\n".join(screen if arguments.json else [*screen, ""]))
        sys.stdout.flush()
        while True:
            pause(max(SHORTEST_S, arguments.watch))
            try:
                data = fetched(arguments, page)
                break
            except (Unreachable, ValueError) as failed:
                if redrawn:
                    redraw([*screen, "", paint(f"no answer: {failed}", "red")])
                else:
                    err(f"relayd: no answer: {failed}")


def redraw(screen: list[str]) -> None:
    """Draw over what was drawn before; nothing flickers and no line is longer than the terminal."""
    columns, rows = shutil.get_terminal_size()
    fitting = [cut(line, columns) for line in screen[: max(1, rows - 1)]]
    sys.stdout.write(HOME + "".join(f"{line}{CLEAR_LINE}\n" for line in fitting) + CLEAR_REST)


def cut(line: str, columns: int) -> str:
    """The line without what does not fit; one that is too long loses its colours."""
    return line if width(line) <= columns else PAINT.sub("", line)[:columns]


def fetched(arguments: argparse.Namespace, page: str) -> dict[str, Any]:
    """The page. Raises Unreachable, ValueError."""
    answer = send_request(arguments, "GET", page, arguments.timeout)
    data = json.loads(answer.body)
    if answer.status != 200 or not isinstance(data, dict):
        raise ValueError(f"{page} answers {answer.status}: the running relayd may be an older one")
    return data
