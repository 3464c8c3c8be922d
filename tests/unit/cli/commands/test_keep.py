"""The command line that the keeper starts. Tests with real processes: tests/functional/test_handover.py."""

from __future__ import annotations

import sys

import pytest

from relayd.cli.commands.keep import command


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["python3", "/usr/bin/relayd", "keep"], ["/usr/bin/relayd", "run", "-c", "/etc/relayd.yaml"]),
        (["python3", "-m", "relayd", "keep", "-c", "x"], ["-m", "relayd", "run", "-c", "/etc/relayd.yaml"]),
        (["python3", "-X", "dev", "keep", "keep"], ["-X", "dev", "keep", "run", "-c", "/etc/relayd.yaml"]),
    ],
)
def test_the_same_relayd_is_started_with_run_instead_of_keep(argv: list[str], expected: list[str]) -> None:
    assert command(argv, "/etc/relayd.yaml") == [sys.executable, *expected]
