"""A named file is read whole or refused, and never waited for."""

from __future__ import annotations

import os
import pathlib

import pytest

from relayd.schema.files import FileFault, read_file


def test_a_regular_file_is_read_whole_with_its_status(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 5000)
    raw, status = read_file(str(tmp_path / "a"), 5000)
    assert raw == b"x" * 5000
    assert status.st_size == 5000


def test_a_file_above_the_bound_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 2049)
    with pytest.raises(FileFault, match="larger than 2 KiB"):
        read_file(str(tmp_path / "a"), 2048)


def test_what_is_no_regular_file_is_refused_without_a_leak(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    for path, message in ((tmp_path / "none", "No such file"), (tmp_path, "is a directory"),
                          (tmp_path / "pipe", "is not a regular file"), ("a\0b", "not a path")):
        with pytest.raises(FileFault, match=message):
            read_file(str(path), 10)
    assert len(os.listdir("/proc/self/fd")) == before
