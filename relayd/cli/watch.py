"""Shows a page of the running relayd: once, or repeatedly with --watch.

1. On a terminal the screen is redrawn in place, cut to the size of the terminal. Otherwise the output is appended, so
   that it can be saved in a file.
2. The first request must succeed. Later ones may fail, because relayd may be restarted meanwhile.
3. --json prints the page unchanged: indented, or with --watch one line each time.
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
from relayd.cli.output import PAINT, err, json_text, out, paint, width

HOME, CLEAR_LINE, CLEAR_REST = "\033[H", "\033[K", "\033[J"
DEFAULT_INTERVAL = "2s"
SHORTEST_S = 0.1

Lines = Callable[[dict[str, Any]], Iterator[str]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that shows a page of the running relayd."""
    add_socket_options(parser)
    parser.add_argument("--json", action="store_true", help="everything as JSON; with --watch a line each time")
    parser.add_argument(
        "--watch", nargs="?", type=seconds, const=seconds(DEFAULT_INTERVAL), metavar="TIME",
        help=f"repeat at this interval ({DEFAULT_INTERVAL}) until interrupted",
    )
    parser.add_argument("--timeout", type=seconds, default="5s", metavar="TIME", help="how long to wait (default 5s)")


def show(arguments: argparse.Namespace, page: str, lines: Lines) -> int:
    """Fetch the page and show it, once or repeatedly. Returns the exit code."""
    try:
        data = fetched(arguments, page)
    except (Unreachable, ValueError) as failed:
        err(f"relayd: nothing to show: {failed}")
        return 1
    if arguments.watch is None:
        for line in [json_text(data, indent=2)] if arguments.json else lines(data):
            out(line)
        return os.EX_OK
    try:
        watch(arguments, page, lines, data, threading.Event().wait)
    except KeyboardInterrupt:  # the normal end of --watch
        out("")
    return os.EX_OK


def watch(
    arguments: argparse.Namespace, page: str, lines: Lines, data: dict[str, Any], pause: Callable[[float], object]
) -> None:
    """Show the page, and fetch it again after each pause, until `pause` raises."""
    redrawn = sys.stdout.isatty() and not arguments.json
    while True:
        if arguments.json:
            screen = [json_text(data)]
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
    """Redraw the screen in place, without flicker and with no line longer than the terminal."""
    columns, rows = shutil.get_terminal_size()
    fitting = [cut(line, columns) for line in screen[: max(1, rows - 1)]]
    sys.stdout.write(HOME + "".join(f"{line}{CLEAR_LINE}\n" for line in fitting) + CLEAR_REST)


def cut(line: str, columns: int) -> str:
    """The line cut to the width of the terminal. A line that is cut loses its colours."""
    return line if width(line) <= columns else PAINT.sub("", line)[:columns]


def fetched(arguments: argparse.Namespace, page: str) -> dict[str, Any]:
    """Fetch the page. Raises Unreachable, ValueError."""
    answer = send_request(arguments, "GET", page, arguments.timeout)
    data = json.loads(answer.body)
    if answer.status != 200 or not isinstance(data, dict):
        raise ValueError(f"{page} answers {answer.status}: the running relayd may be an older one")
    return data
