"""A program ends with everything that it has started, and nothing else ends with it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from relayd import process_tree


def started(script: str, mark: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["sh", "-c", script], env={"PATH": os.environ["PATH"], **mark}, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def is_over(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_processes_that_have_left_session_and_parent_are_killed_others_are_not() -> None:
    mark, other = process_tree.new_mark(), process_tree.new_mark()
    assert mark != other
    with (
        started("(setsid sh -c 'echo $$; exec sleep 300' &) ; sleep 300", mark) as program,
        started("echo ready; exec sleep 300", other) as bystander,
    ):
        assert program.stdout is not None and bystander.stdout is not None
        child = int(program.stdout.readline())
        assert bystander.stdout.readline() and not is_over(child)
        process_tree.kill(program.pid, mark)
        assert program.stdout.read() == "", "the child held the output open, and has ended"
        program.wait()
        assert bystander.poll() is None
        process_tree.kill(bystander.pid, other)
        bystander.wait()
        process_tree.kill(bystander.pid, other)  # nothing is left: no fault
