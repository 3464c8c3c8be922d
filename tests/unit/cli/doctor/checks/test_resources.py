"""Resources of the machine against the needs of the configuration, from texts of /proc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relayd.cli.diagnosis import FAILURE, FINE, UNKNOWN, WARNING
from relayd.cli.doctor.checks import resources
from relayd.config.load import load
from tests.unit.cli.admin_case import Admin
from tests.unit.cli.doctor.cases import STATUS, context_of, findings, written

LIMITS = "Max open files            1024                 {0}                files\n"
MEMINFO = "MemTotal:       {0} kB\nMemFree:        1 kB\nMemAvailable:   {1} kB\n"


@pytest.mark.parametrize(("hard", "pid", "connections", "level"), [
    (65536, 7, 0, FINE), (1024, 7, 0, WARNING), (1024, 0, 0, UNKNOWN), (65536, 7, 40000, WARNING), (65536, 7, 20000, FINE),
])
def test_the_limit_of_descriptors(tmp_path: Path, hard: int, pid: int, connections: int, level: str) -> None:
    config = load(written(tmp_path, daemon={"connections": connections})).config
    (one,) = resources.descriptors(LIMITS.format(hard), pid, config)
    assert one.level == level and str(hard) in one.cause


def test_the_descriptors_of_the_machine() -> None:
    assert [one.level for one in resources.used_descriptors("900\t0\t1000\n")] == [FAILURE]
    assert not list(resources.used_descriptors("9\t0\t1000\n")) and not list(resources.used_descriptors(""))


@pytest.mark.parametrize(("total", "available", "size", "levels"), [
    (4 << 20, 2 << 20, "256MiB", [FINE]), (4 << 20, 1 << 10, "256MiB", [WARNING]), (4 << 20, 2 << 20, "0", [WARNING, FINE]),
    (256 << 10, 200 << 10, "256MiB", [WARNING, FINE]), (0, 0, "256MiB", [UNKNOWN]),
])
def test_memory(tmp_path: Path, total: int, available: int, size: str, levels: list[str]) -> None:
    config = load(written(tmp_path, daemon={"request_buffers": size})).config
    found = list(resources.memory(MEMINFO.format(total, available) if total else "", "VmRSS:\t  5120 kB\n", config))
    assert [one.level for one in found] == levels
    assert not total or "relayd uses 5.0M" in found[-1].cause


def test_folders_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = resources.disk([str(tmp_path)])
    assert one.level == FINE
    assert resources.folders_of(context_of(written(tmp_path, telemetry={"access_log": {"file": f"{tmp_path}/a.log"}})), {}) == [
        str(tmp_path)
    ]
    state = {"spend": {"file": f"{tmp_path}/ledger.sqlite", "fault": "", "cure": ""}}
    assert resources.folders_of(context_of(written(tmp_path)), state) == [str(tmp_path)]
    monkeypatch.setattr(resources, "LOW_DISK", 1 << 60)
    assert [one.level for one in resources.disk([str(tmp_path)])] == [FAILURE]
    if os.statvfs("/sys").f_flag & os.ST_RDONLY:
        assert "read-only" in next(resources.disk(["/sys"])).cause


def test_the_queue_of_a_listening_socket() -> None:
    line = "  {0}: 0100007F:{1:04X} 00000000:0000 {2} 00000000:{3:08X} 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n"
    table = line.format(0, 8282, "0A", 5) + line.format(1, 8283, "0A", 50) + line.format(2, 8282, "01", 500)
    assert resources.longest_queue("  sl  local_address\n" + table, {8282}) == 5
    assert resources.longest_queue("", {8282}) == 0


def test_this_machine_with_and_without_a_running_relayd(tmp_path: Path) -> None:
    found = findings(resources, context_of(written(tmp_path)))
    assert {one.subject for one in found} >= {"descriptors", "memory", "sockets"}
    with Admin(tmp_path, (200, {**STATUS, "pid": os.getpid()})) as admin:
        found = findings(resources, context_of(written(tmp_path), socket=admin.path))
        assert any(f"pid {os.getpid()}" in one.cause for one in found)
