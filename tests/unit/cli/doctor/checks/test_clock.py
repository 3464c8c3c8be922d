"""The clock: plausible and synchronised, according to whom it can be asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.cli.diagnosis import FAILURE, FINE, UNKNOWN, WARNING
from relayd.cli.doctor.checks import clock
from tests.unit.cli.doctor.cases import context_of, findings, written

DAY_S = 86400.0


def test_a_clock_before_relayd_s_own_files_is_wrong() -> None:
    assert clock.plausibility(10 * DAY_S, 20 * DAY_S).level == FAILURE
    assert clock.plausibility(20 * DAY_S, 20 * DAY_S + 60).level == FINE


@pytest.mark.parametrize(("by_systemd", "kernel", "level"), [
    (True, 5, FINE), (False, 0, FINE), (False, 5, WARNING), (False, None, UNKNOWN),
])
def test_synchronisation(by_systemd: bool, kernel: int | None, level: str) -> None:
    assert clock.synchronisation(by_systemd, kernel).level == level


def test_this_machine_has_a_clock(tmp_path: Path) -> None:
    first, second = findings(clock, context_of(written(tmp_path)))
    assert first.level == FINE and second.level in (FINE, WARNING, UNKNOWN)
    assert clock.kernel_state() in (None, *range(6))
