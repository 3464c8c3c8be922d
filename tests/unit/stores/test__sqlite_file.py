"""The file itself: each change is whole or not there."""

from __future__ import annotations

import pathlib
import sqlite3

import pytest

from relayd.stores._sqlite_file import File, Value


def test_a_change_that_fails_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    file = File(str(tmp_path / "s"), 10, 1 << 20, 1.0)
    file.put("team", "a", Value("1", 10, 61.0), 1.0, ())
    with pytest.raises(sqlite3.Error):
        file.put("team", "a", Value("2", 10, 62.0), 2.0, ((1.0, object(), "a"),))  # type: ignore[arg-type]
    reader = file.reader()
    assert reader.execute("SELECT value FROM entries").fetchall() == [("1",)]
    file.put("team", "b", Value("3", 10, 62.0), 2.0, ())
    assert reader.execute("SELECT entries FROM totals").fetchone() == (2,)
    with pytest.raises(sqlite3.OperationalError):
        reader.execute("DELETE FROM entries")
    reader.close()
    file.close()


def test_nothing_waits_for_a_lock_once_the_file_is_open(tmp_path: pathlib.Path) -> None:
    one, two = (File(str(tmp_path / "s"), 10, 1 << 20, 1.0) for _ in range(2))
    one._file.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        two.put("team", "a", Value("1", 10, 61.0), 1.0, ())
    one.close()
    two.put("team", "a", Value("1", 10, 61.0), 1.0, ())
    two.close()


def test_a_replaced_file_is_new_and_the_old_one_is_aside(tmp_path: pathlib.Path) -> None:
    file = File(str(tmp_path / "s"), 10, 1 << 20, 1.0)
    file.put("team", "a", Value("1", 10, 61.0), 1.0, ())
    file.replace("damage")
    reader = file.reader()
    assert file.generation == 1 and reader.execute("SELECT count(*) FROM entries").fetchone() == (0,)
    assert (tmp_path / "s.unusable").exists() and "damage" in file.notices[0]
    reader.close()
    file.close()
