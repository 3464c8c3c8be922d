"""Log bytes leave without waiting, whatever stands at the other end."""

from __future__ import annotations

import fcntl
import os
import pathlib
import pty
import resource
import signal
import socket

import pytest

from relayd.telemetry.descriptor import LIMIT, Descriptor


def test_lines_are_appended_to_a_file_that_only_its_group_may_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log"
    for line in (b"one\n", b"two\n"):
        sink = Descriptor(str(path))
        sink.write(line, 1)
        sink.close()
    assert path.read_bytes() == b"one\ntwo\n"
    assert path.stat().st_mode & 0o137 == 0


def test_a_file_is_opened_again_after_a_rotation(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log"
    sink = Descriptor(str(path))
    sink.write(b"old\n", 1)
    path.rename(tmp_path / "log.1")
    sink.write(b"still old\n", 1)
    sink.reopen()
    sink.write(b"new\n", 1)
    sink.close()
    assert (tmp_path / "log.1").read_bytes() == b"old\nstill old\n"
    assert path.read_bytes() == b"new\n"


def test_a_rotation_that_fails_keeps_the_old_file(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    sink = Descriptor(str(folder / "log"))
    folder.rename(tmp_path / "moved")
    with pytest.raises(OSError):
        sink.reopen()
    sink.write(b"kept\n", 1)
    sink.close()
    assert (tmp_path / "moved/log").read_bytes() == b"kept\n"


def test_a_pipe_that_nobody_reads_never_makes_relayd_wait_and_is_bounded() -> None:
    reader, writer = os.pipe()
    flags = fcntl.fcntl(writer, fcntl.F_GETFL)
    faults: list[str] = []
    recovered: list[int] = []
    sink = Descriptor(fd=writer)
    sink.on_fault, sink.on_recovery = faults.append, recovered.append
    line = b"x" * 1023 + b"\n"
    for _ in range(3000):
        sink.write(line, 1)
    assert sink.waiting <= LIMIT
    assert 1500 < sink.dropped < 3000
    assert faults == ["the reader is too slow"]
    assert fcntl.fcntl(writer, fcntl.F_GETFL) == flags, "the description that others share was changed"
    got = 0
    while not sink.drain():
        got += len(os.read(reader, 1 << 16))
    os.set_blocking(reader, False)
    try:
        while data := os.read(reader, 1 << 16):
            got += len(data)
    except BlockingIOError:
        pass
    assert got == (3000 - sink.dropped) * 1024, "a line was torn"
    assert recovered == [sink.dropped]
    sink.close()
    os.close(reader)
    os.close(writer)


def test_a_reader_that_is_gone_raises_nothing_and_is_reported_once() -> None:
    reader, writer = os.pipe()
    faults: list[str] = []
    sink = Descriptor(fd=writer)
    sink.on_fault = faults.append
    os.close(reader)
    for _ in range(3):
        sink.write(b"lost\n", 1)
    assert sink.dropped == 3
    assert faults == ["Broken pipe"]
    sink.close()
    os.close(writer)


def test_a_socket_is_written_without_waiting() -> None:
    left, right = socket.socketpair()
    sink = Descriptor(fd=left.fileno())
    for _ in range(2000):
        sink.write(b"y" * 1023 + b"\n", 1)
    assert sink.waiting
    assert left.getblocking()
    assert right.recv(4) == b"yyyy"
    right.close()
    sink.close()
    left.close()


def test_a_terminal_is_known_as_one() -> None:
    leader, follower = pty.openpty()
    sink = Descriptor(fd=follower)
    assert sink.terminal
    sink.write(b"hello\n", 1)
    assert os.read(leader, 100) == b"hello\r\n"
    sink.close()
    os.close(leader)
    os.close(follower)


def test_writing_has_recovered_only_after_something_was_written(tmp_path: pathlib.Path) -> None:
    """A rotation or the end of the process writes nothing if no line waits."""
    path = tmp_path / "log"
    path.symlink_to("/dev/full")
    sink = Descriptor(str(path))
    faults: list[str] = []
    recovered: list[int] = []
    sink.on_fault, sink.on_recovery = faults.append, recovered.append
    sink.write(b"lost\n", 1)
    sink.reopen()
    sink.write(b"lost\n", 1)
    sink.drain()
    assert (faults, recovered) == (["No space left on device"], [])
    path.unlink()
    sink.reopen()
    assert recovered == []
    sink.write(b"kept\n", 1)
    assert recovered == [2] and path.read_bytes() == b"kept\n"
    sink.write(b"more\n", 1)
    sink.close()
    assert recovered == [2]


def test_a_full_disk_loses_lines_and_the_stump_of_one_is_ended(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log"
    sink = Descriptor(str(path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    recovered: list[int] = []
    sink.on_recovery = recovered.append
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6, before[1]))
        sink.write(b"four\nfive\n", 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert sink.dropped == 1
    sink.write(b"six\n", 1)
    sink.close()
    assert path.read_bytes() == b"four\nf\nsix\n"
    assert recovered == [1]


def test_writing_after_the_end_is_counted_and_nothing_else(tmp_path: pathlib.Path) -> None:
    sink = Descriptor(str(tmp_path / "log"))
    sink.close()
    sink.write(b"late\n", 1)
    sink.close()
    assert sink.dropped == 1


def test_a_descriptor_that_relayd_was_given_stays_open() -> None:
    reader, writer = os.pipe()
    Descriptor(fd=writer).close()
    os.write(writer, b"still\n")
    assert os.read(reader, 10) == b"still\n"
    os.close(reader)
    os.close(writer)
