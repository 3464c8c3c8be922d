"""Reload, restart, upgrade, crash: what is open goes on, byte for byte, and who comes is answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.conftest import WEB, Testbed, on_a_quiet_machine, until

pytestmark = pytest.mark.packaging

STREAMS = 50


@pytest.fixture(scope="module")
def serving(system: Testbed) -> Testbed:
    system.configure()
    system.upstream()
    return system


def test_fifty_streams_live_through_reload_restart_upgrade_and_restart(
    serving: Testbed, another: Callable[..., Path]
) -> None:
    newer = another("99.0")
    held = serving.hold(STREAMS, 18)
    asking = serving.beside("ask", "127.0.0.1:8282", "16")
    serving.configure(WEB + "headers: {proxy_by: X-Changed}\n")
    first = serving.main_pid()
    serving.run("exec", "systemctl", "restart", "relayd")
    second = serving.main_pid()
    assert second != first
    serving.run("install", str(newer))
    assert serving.main_pid() == second, "an upgrade does not end the keeper"
    assert serving.status()["version"] == "99.0"
    serving.run("exec", "systemctl", "restart", "relayd")
    told = serving.outcome(asking)
    assert told["faults"] == []
    assert told["asked"] > 1
    assert told["slowest_s"] < on_a_quiet_machine(1.0)
    assert serving.outcome(held) == {"streams": STREAMS, "faults": []}
    until(lambda: len(serving.sh("cat /sys/fs/cgroup/system.slice/relayd.service/cgroup.procs").split()) == 2)


def test_new_requests_are_answered_within_a_second_of_a_restart(serving: Testbed) -> None:
    asking = serving.beside("ask", "127.0.0.1:8282", "3")
    serving.run("exec", "systemctl", "restart", "relayd")
    told = serving.outcome(asking)
    assert told["faults"] == []
    assert told["slowest_s"] < on_a_quiet_machine(1.0)


def test_a_stop_drains_and_leaves_nobody_behind(serving: Testbed) -> None:
    held = serving.hold(5, 10)  # longer than a busy machine needs for the restart
    serving.run("exec", "systemctl", "restart", "relayd")  # five streams in a process that was left behind
    began = time.monotonic()
    serving.run("exec", "systemctl", "stop", "relayd")
    assert time.monotonic() - began > 1.0, "a stop waits for those too"
    assert serving.outcome(held) == {"streams": 5, "faults": []}
    assert serving.call("exec", "pgrep", "-u", "relayd").returncode == 1
    assert serving.show("Result") == "success"
    assert serving.call("netexec", "curl", "-s", "http://127.0.0.1:8282/").returncode == 7
    serving.run("exec", "systemctl", "start", "relayd")


def test_a_stop_gives_those_left_behind_no_more_time_than_a_drain(serving: Testbed) -> None:
    serving.configure(WEB + "daemon: {drain_timeout: 1s}\n")
    held = serving.hold(3, 12)
    serving.run("exec", "systemctl", "restart", "relayd")
    began = time.monotonic()
    serving.run("exec", "systemctl", "stop", "relayd")
    assert time.monotonic() - began < on_a_quiet_machine(4.0)
    assert len(serving.outcome(held)["faults"]) == 3
    assert serving.call("exec", "pgrep", "-u", "relayd").returncode == 1
    serving.run("exec", "systemctl", "start", "relayd")
    serving.configure()


def test_the_keeper_killed_loses_nothing_and_connections_wait(serving: Testbed) -> None:
    held = serving.hold(5, 5)
    asking = serving.beside("ask", "127.0.0.1:8282", "4")
    serving.sh("kill -9 $(systemctl show -p MainPID --value relayd)")
    assert serving.outcome(asking)["faults"] == []
    assert serving.outcome(held) == {"streams": 5, "faults": []}
    assert serving.show("ActiveState") == "active"


def test_the_process_that_serves_killed_loses_only_what_was_in_flight(serving: Testbed) -> None:
    held = serving.hold(5, 5)
    asking = serving.beside("ask", "127.0.0.1:8282", "4")
    serving.sh(f"kill -9 {serving.worker_pid()}")
    assert len(serving.outcome(held)["faults"]) == 5, "cut, and seen to be cut"
    assert len(serving.outcome(asking)["faults"]) <= 1
    assert serving.show("ActiveState") == "active"


def test_a_loop_that_hangs_is_found_by_the_watchdog(serving: Testbed) -> None:
    serving.drop_in("quick-watchdog", "[Service]\nWatchdogSec=2\n")
    serving.run("exec", "systemctl", "restart", "relayd")
    before, restarts = serving.main_pid(), int(serving.show("NRestarts"))
    serving.sh(f"kill -STOP {serving.worker_pid()}")
    until(lambda: int(serving.show("NRestarts")) > restarts and serving.show("ActiveState") == "active")
    assert serving.main_pid() != before
    assert "watchdog" in serving.journal()
    assert '"path": "/after"' in serving.curl("http://127.0.0.1:8282/after")


def test_handover_timeout_bounds_what_is_left_behind(serving: Testbed) -> None:
    serving.configure(WEB + "daemon: {handover_timeout: 1s, drain_timeout: 1s}\n")
    held = serving.hold(3, 8)
    serving.run("exec", "systemctl", "restart", "relayd")
    assert len(serving.outcome(held)["faults"]) == 3
    assert "drain_timed_out" in serving.journal()
