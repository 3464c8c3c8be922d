"""The file of the ledger: sums are added, windows replaced, a damaged file set aside."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from relayd.limits.ledger_file import KEYS, SUMS, LedgerFile, read_spend

KEY = ("2026-11-29", "team", "paying", "llm", "up", "m", "USD")
ONE = (1, 0, 10, 5, 0, 0, 0, 7, 0)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger ?#%.sqlite")


def rows(path: str, since: str = "", until: str = "9") -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    return [(tuple(key), tuple(sums)) for key, sums in read_spend(path, since, until)]


def test_two_processes_add_to_one_row(path: str) -> None:
    first, second = LedgerFile(path), LedgerFile(path)
    for file in (first, second, first):
        file.write([(KEY, ONE)], ())
    assert rows(path) == [(KEY, tuple(3 * count for count in ONE))]
    assert (len(KEY), len(ONE)) == (len(KEYS), len(SUMS))
    first.close()
    second.close()


def test_days_are_selected_with_both_ends(path: str) -> None:
    file = LedgerFile(path)
    file.write([((day, *KEY[1:]), ONE) for day in ("2026-11-28", "2026-11-29", "2026-11-30")], ())
    assert [key[0] for key, _ in rows(path, "2026-11-29", "2026-11-30")] == ["2026-11-29", "2026-11-30"]
    file.close()


def test_a_file_that_was_created_on_a_full_disk_has_no_spend_yet(path: str) -> None:
    Path(path).touch()
    assert rows(path) == []


def test_a_file_of_an_earlier_version_is_read_and_gets_the_new_column(path: str) -> None:
    file = LedgerFile(path)
    file.write([(KEY, ONE)], ())
    file.close()
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.execute("ALTER TABLE spend DROP COLUMN estimated")
    assert rows(path) == [(KEY, ONE)]
    file = LedgerFile(path)
    file.write([(KEY, (*ONE[:-1], 1))], ())
    assert rows(path) == [(KEY, (*(2 * count for count in ONE[:-1]), 1))]
    file.close()


def test_windows_are_replaced_and_deleted(path: str) -> None:
    file = LedgerFile(path)
    file.write((), [("a", [1, 2]), ("b", {"x": 1})])
    file.write((), [("a", [3]), ("b", None)])
    assert file.windows() == [("a", [3])]
    file.close()


def test_a_batch_is_written_whole_or_not_at_all(path: str) -> None:
    file = LedgerFile(path)
    file.write([(KEY, ONE)], ())
    with pytest.raises(sqlite3.Error):
        file.write([(KEY, ONE), (KEY, (None,) * len(SUMS))], ())  # type: ignore[list-item]
    file.write([(KEY, ONE)], ())
    assert rows(path)[0][1][0] == 2


@pytest.mark.parametrize("damage", [b"no database" * 500, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_renamed_and_the_call_repeated(path: str, damage: bytes) -> None:
    Path(path).write_bytes(damage)
    file = LedgerFile(path)
    with pytest.raises(sqlite3.DatabaseError):
        file.write([(KEY, ONE)], ())
    file.write([(KEY, ONE)], ())
    (aside,) = Path(path).parent.glob("*.sqlite.20*Z")
    assert aside.read_bytes() == damage
    assert str(aside) in file.notices[0]
    assert len(rows(path)) == 1
    file.close()


def test_the_file_of_another_version_is_kept_beside_the_new_one(path: str) -> None:
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    file = LedgerFile(path)
    with pytest.raises(sqlite3.DatabaseError):
        file.windows()
    assert file.windows() == []
    assert "another version" in file.notices[0]
    file.close()


def test_only_its_owner_can_read_the_file(path: str) -> None:
    file = LedgerFile(path)
    file.write([(KEY, ONE)], ())
    assert Path(path).stat().st_mode & 0o777 == 0o600
    file.close()


def test_reading_changes_nothing_and_needs_a_file(path: str) -> None:
    with pytest.raises(sqlite3.OperationalError):
        rows(path)
    assert not Path(path).exists()


def test_the_rows_of_a_consumer_are_deleted(path: str) -> None:
    file = LedgerFile(path)
    file.write([(KEY, ONE), ((KEY[0], "other", *KEY[2:]), ONE)], ())
    assert file.rows() == {"team": 1, "other": 1}
    assert (file.forget("team"), file.forget("team"), file.rows()) == (1, 0, {"other": 1})
    file.close()
