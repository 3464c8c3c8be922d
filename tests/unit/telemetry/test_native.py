"""The journal's native protocol, spoken to a datagram socket as journald has one."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
from collections.abc import Iterator

import pytest

from relayd.telemetry import native
from relayd.telemetry.native import WAITING, Native, cut, field, is_journal


@pytest.fixture
def journald(tmp_path: pathlib.Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "socket"))
        made.settimeout(60)
        yield made


def test_a_record_arrives_as_one_datagram(journald: socket.socket) -> None:
    sender = Native(journald.getsockname())
    assert sender.send(field("MESSAGE", "hello") + field("PRIORITY", "6"))
    assert journald.recv(65536) == b"MESSAGE=hello\nPRIORITY=6\n"
    sender.close()


def test_a_value_with_a_line_end_cannot_forge_a_field() -> None:
    assert field("A", "x\nPRIORITY=0") == b"A\n\x0c\0\0\0\0\0\0\0x\nPRIORITY=0\n"


def test_a_journal_that_is_away_loses_records_without_an_error(tmp_path: pathlib.Path) -> None:
    sender = Native(str(tmp_path / "nobody"))
    assert not sender.send(b"MESSAGE=x\n")
    assert sender.dropped == 1
    sender.close()


def test_a_journal_that_does_not_read_never_makes_relayd_wait(journald: socket.socket) -> None:
    sender = Native(journald.getsockname())
    sent = 0
    while sender.send(b"MESSAGE=" + b"x" * 4000 + b"\n"):
        sent += 1
        assert sent < 100_000
    assert sender.dropped == 1
    journald.recv(65536)
    assert sender.send(b"MESSAGE=again\n")
    sender.close()


def test_records_wait_while_the_queue_of_the_journal_is_full(journald: socket.socket) -> None:
    """A burst is longer than the queue; only the newest records beyond a bound are lost, and this is reported once."""
    sender = Native(journald.getsockname())
    faults: list[str] = []
    recovered: list[int] = []
    sender.on_fault, sender.on_recovery = faults.append, recovered.append
    records = [b"MESSAGE=%d " % number + b"x" * 10_000 + b"\n" for number in range(WAITING // 10_000)]
    waiting = sender.send_all(records)
    assert waiting and sender.dropped == 0
    waiting = sender.send_all(waiting + records + records)
    assert sum(map(len, waiting)) <= WAITING and faults == ["the reader is too slow"] and sender.dropped > 0
    journald.setblocking(False)
    got: list[bytes] = []
    while waiting:
        with contextlib.suppress(BlockingIOError):
            while True:
                got.append(journald.recv(65536))
        waiting = sender.send_all(waiting)
    with contextlib.suppress(BlockingIOError):
        while True:
            got.append(journald.recv(65536))
    assert len(got) == 3 * len(records) - sender.dropped
    assert got[: len(records)] == records and recovered == [sender.dropped]
    sender.close()


def test_records_for_a_journal_that_is_away_are_lost_and_reported(tmp_path: pathlib.Path) -> None:
    sender = Native(str(tmp_path / "nobody"))
    faults: list[str] = []
    sender.on_fault = faults.append
    assert sender.send_all([b"MESSAGE=x\n"] * 5) == []
    assert (sender.dropped, faults) == (5, ["No such file or directory"])
    sender.close()


def test_a_journal_that_was_started_anew_is_found(journald: socket.socket) -> None:
    path = journald.getsockname()
    sender = Native(path)
    assert sender.send(b"MESSAGE=1\n")
    os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as second:
        second.bind(path)
        assert sender.send(b"MESSAGE=2\n")
        assert second.recv(100) == b"MESSAGE=2\n"
    sender.close()


def test_a_record_too_large_for_the_socket_is_cut_at_the_end_of_a_field(journald: socket.socket) -> None:
    sender = Native(journald.getsockname())
    assert sender.send(b"MESSAGE=short\n" + b"RELAYD_DETAIL=" + b"x" * 4_000_000 + b"\n")
    assert journald.recv(1 << 20) == b"MESSAGE=short\n"
    sender.close()


def test_a_single_field_too_large_is_cut_within() -> None:
    assert cut(b"MESSAGE=" + b"x" * 100 + b"\n", 20) == b"MESSAGE=" + b"x" * 11 + b"\n"


def test_the_journal_is_recognised_by_device_and_inode() -> None:
    with open(os.devnull) as file:
        found = os.fstat(file.fileno())
        assert is_journal(file.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        assert not is_journal(file.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
        assert not is_journal(file.fileno(), {"JOURNAL_STREAM": "junk"})
        assert not is_journal(file.fileno(), {})
    assert native.PRIORITIES["error"] < native.PRIORITIES["info"]
