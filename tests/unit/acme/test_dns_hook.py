"""The hook of dns-01: bounded in time and output, killed with its children."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from relayd.acme.dns_hook import HookFault, run_hook


def hook(folder: Path, text: str) -> str:
    file = folder / "hook"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


def test_a_hook_gets_its_arguments_and_environment(tmp_path: Path) -> None:
    argv = [hook(tmp_path, f'echo "$@ $CERTBOT_DOMAIN" >{tmp_path}/seen'), "set", "_acme-challenge.a.example", "value"]
    run_hook(argv, 30.0, {"CERTBOT_DOMAIN": "a.example", "PATH": os.environ["PATH"]}, threading.Event())
    assert (tmp_path / "seen").read_text() == "set _acme-challenge.a.example value a.example\n"


def test_a_failed_hook_is_reported_with_the_end_of_its_output(tmp_path: Path) -> None:
    with pytest.raises(HookFault, match=r"ended with status 3: .*no such zone$"):
        run_hook([hook(tmp_path, "yes long | head -c 100000; echo no such zone >&2; exit 3")], 30.0, os.environ, threading.Event())
    with pytest.raises(HookFault, match="cannot be run: No such file"):
        run_hook([str(tmp_path / "other")], 30.0, os.environ, threading.Event())


def test_a_hook_that_closes_its_output_is_waited_for(tmp_path: Path) -> None:
    run_hook([hook(tmp_path, f"exec >&- 2>&-; sleep 0.3; touch {tmp_path}/done")], 30.0, os.environ, threading.Event())
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("start", ["sleep 300", "setsid sleep 300"])
def test_a_hook_that_hangs_is_killed_with_its_children(tmp_path: Path, start: str) -> None:
    begun = time.monotonic()
    with pytest.raises(HookFault, match="did not end within"):
        run_hook([hook(tmp_path, f"{start} & echo $! >{tmp_path}/child; yes")], 0.5, os.environ, threading.Event())
    assert time.monotonic() - begun < 30
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + 30
    while Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end, "the child is still running"
        time.sleep(0.02)


def test_a_stop_ends_the_hook(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(HookFault):
        run_hook([hook(tmp_path, "sleep 300")], 300.0, os.environ, stop)
