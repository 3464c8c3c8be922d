"""statsd: a datagram that arrives, one that the machine rejects, a name that does not resolve."""

from __future__ import annotations

import socket
from pathlib import Path

from relayd.cli.diagnosis import FAILURE, FINE
from relayd.cli.doctor.checks import statsd
from tests.unit.cli.doctor.cases import context_of, findings, written


def test_a_daemon_gets_a_counter_of_zero_and_its_absence_is_a_failure(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{daemon.getsockname()[1]}"
        path = written(tmp_path, telemetry={"statsd": {"address": address, "prefix": "mine"}})
        (one,) = findings(statsd, context_of(path))
        assert one.level == FINE and daemon.recv(100) == b"mine.doctor:0|c"
    (one,) = findings(statsd, context_of(path))
    assert one.level == FAILURE and "metrics are lost" in one.cause and one.subject == f"statsd {address}"


def test_a_name_that_does_not_resolve_and_no_statsd(tmp_path: Path) -> None:
    assert statsd.judge("nowhere.invalid:8125", "").level == FAILURE
    assert [one.level for one in findings(statsd, context_of(written(tmp_path)))] == [FINE]
