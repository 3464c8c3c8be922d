"""Runs the operator's program that publishes the TXT records of dns-01, with a bounded time and output."""

from __future__ import annotations

import os
import selectors
import subprocess
import threading
from collections.abc import Mapping, Sequence

from relayd import clock, process_tree

SHOWN_BYTES = 300
STEP_S = 0.2


class HookFault(Exception):
    """The program failed, or ran too long. The text is the reason with the end of its output."""


def run_hook(
    argv: Sequence[str], timeout_s: float, environment: Mapping[str, str], stop: threading.Event
) -> None:
    """Run a program. It and its children are killed at the timeout or if `stop` is set. Raises HookFault."""
    mark = process_tree.new_mark()
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**environment, **mark}, start_new_session=True,
        )
    except OSError as error:
        raise HookFault(f"{argv[0]} cannot be run: {error.strerror}") from None
    assert process.stdout is not None
    shown, end = b"", clock.monotonic() + timeout_s
    with process.stdout, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        open_ = True
        while process.poll() is None and clock.monotonic() < end and not stop.is_set():
            if not open_:
                stop.wait(STEP_S)
            elif selector.select(STEP_S):
                piece = os.read(process.stdout.fileno(), 8192)
                open_ = bool(piece)
                shown = (shown + piece)[-SHOWN_BYTES:]
                if not open_:
                    selector.unregister(process.stdout)
        ended = process.poll() is not None
        while open_ and ended and selector.select(0) and (piece := os.read(process.stdout.fileno(), 8192)):
            shown = (shown + piece)[-SHOWN_BYTES:]
        if not ended:
            process_tree.kill(process.pid, mark)
            process.wait()
    if not ended:
        raise HookFault(f"{argv[0]} did not end within {timeout_s:g} s")
    if process.returncode:
        output = " ".join(shown.decode("utf-8", "replace").split())
        raise HookFault(f"{argv[0]} ended with status {process.returncode}" + (f": {output}" if output else ""))
