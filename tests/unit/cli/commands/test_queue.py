"""`relayd queue`."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.cli.commands.queue import consumers, lines
from relayd.cli.main import main
from relayd.limits.gate import GateLimits
from tests.unit.cli.admin_case import Admin
from tests.unit.limits.gate_rig import Rig


def page(rig: Rig) -> dict[str, object]:
    return {"gates": [rig.gate.describe()], "waiting": rig.gate.waiters(1000)}


def test_a_gate_and_its_waiters_are_shown_in_the_order_of_turns() -> None:
    """The keys of Gate.describe match those read by the command."""
    rig = Rig(1, 5)
    for _ in range(3):
        ticket = rig.acquire("team")
        rig.clock.now_s += 4
        rig.gate.release(ticket)
    rig.acquire("team")
    rig.acquire("team")
    rig.acquire("")
    rig.acquire("vip", 5)
    rig.clock.now_s += 2
    shown = list(lines(page(rig)))
    assert shown[1].split() == [
        "g", "1", "of", "1", "3", "of", "5", "2.0s", "4.0s", "16.0s", "team", "1+1,", "nobody", "0+1,", "vip", "0+1"]
    assert [line.split() for line in shown[4:]] == [
        ["1", "g", "vip", "5", "2.0s", "4.0s"], ["2", "g", "nobody", "0", "2.0s", "8.0s"], ["3", "g", "team", "0", "2.0s", "12.0s"]]


def test_without_waiting_requests_no_second_table_is_shown() -> None:
    rig = Rig(3, 5)
    rig.acquire("a")
    assert [line.split()[0] for line in lines(page(rig))] == ["LIMIT", "g"]


def test_without_limits_a_line_is_shown() -> None:
    assert list(lines({"gates": [], "waiting": []})) == ["nothing is limited"]


def test_a_long_queue_is_cut_and_counted() -> None:
    rig = Rig(1, 100)
    for _ in range(71):
        rig.acquire("a")
    shown = list(lines(page(rig)))
    assert len(shown) == 2 + 1 + 1 + 50 + 1
    assert shown[-1].startswith("... 70 wait")


def test_many_consumers_are_cut() -> None:
    assert consumers({"a": 1}, {"b": 5}) == "b 0+5, a 1+0"
    assert consumers(dict.fromkeys("abcdefgh", 1), {}).endswith("f 1+0, 2 more")


def test_without_a_limit_any_number_is_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rig = Rig()
    rig.gate.configure(GateLimits(0, 5))
    with Admin(tmp_path, (200, page(rig))) as admin:
        assert main(["queue", *admin.options]) == 0
    assert admin.asked == ["GET /queue"]
    assert "0 of any" in capsys.readouterr().out
