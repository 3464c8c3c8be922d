"""The end of the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import atexit, sys, threading
import relayd.__main__ as entry_point
def command():
    {work}
    print("result")
    return 3
atexit.register(print, "finalised")
entry_point.main = command
entry_point.entry()
"""


@pytest.mark.parametrize(("work", "printed"), [
    ("pass", "result\nfinalised\n"),
    ("threading.Thread(target=threading.Event().wait, daemon=True).start()", "result\n"),
], ids=["no thread", "a thread that does not end"])
def test_the_interpreter_is_not_finalised_under_a_thread(work: str, printed: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(work=work)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, printed, "")
