"""The writing side of the key store."""

from __future__ import annotations

import dataclasses
import os
import stat
import threading
from pathlib import Path

import pytest

from relayd.access import key_journal
from relayd.access.issued_key import digest_of
from relayd.access.key_journal import RETENTION_S, USED, JournalFault, KeyJournal
from relayd.access.key_record import KeyRecord
from relayd.access.key_store import FILE


def record(number: int, **words: object) -> KeyRecord:
    digest = digest_of(f"key-{number}".encode()).hex()
    return dataclasses.replace(KeyRecord(f"{number:012x}", f"k{number}", digest), **words)  # type: ignore[arg-type]


def write(journal: KeyJournal, *records: KeyRecord, now_s: float = 0.0) -> None:
    with journal.locked():
        journal.append(journal.read(), records, now_s)


def names(journal: KeyJournal) -> list[str]:
    return [one.name for one in journal.read().records()]


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    journal = KeyJournal(str(tmp_path / "keys"))
    write(journal, record(1))
    journal.write_used({record(1).id: 5.0}, [record(1).id])
    assert stat.S_IMODE(os.stat(journal.folder).st_mode) == 0o700
    assert {stat.S_IMODE(os.stat(os.path.join(journal.folder, name)).st_mode) for name in os.listdir(journal.folder)} == {0o600}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_that_root_writes_belong_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    journal = KeyJournal(str(tmp_path / "keys"))
    write(journal, record(1))
    write(journal, record(2))
    journal.write_used({record(1).id: 5.0}, [record(1).id])
    files = [journal.folder, *(os.path.join(journal.folder, name) for name in os.listdir(journal.folder))]
    assert {os.stat(path).st_uid for path in files} == {65534}


def test_outdated_lines_are_removed_and_old_revoked_keys_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_journal, "OUTDATED_LINES", 5)
    journal = KeyJournal(str(tmp_path))
    write(journal, record(1), record(2, revoked_s=1.0), record(3, revoked_s=RETENTION_S))
    inode = os.stat(tmp_path / FILE).st_ino
    for turn in range(8):
        write(journal, record(1, rotated_s=float(turn)), now_s=RETENTION_S + 2)
    assert names(journal) == ["k1", "k3"]
    assert os.stat(tmp_path / FILE).st_ino != inode and journal.read().lines < 10


def test_a_line_that_a_crash_cut_is_removed_by_the_next_change(tmp_path: Path) -> None:
    journal = KeyJournal(str(tmp_path))
    write(journal, record(1))
    with open(tmp_path / FILE, "ab") as file:
        file.write(record(2).line()[:40])
    write(journal, record(3))
    assert names(journal) == ["k1", "k3"] and not journal.read().problem


def test_a_file_that_is_no_key_store_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("something else\n" * 20)
    journal = KeyJournal(str(tmp_path))
    with pytest.raises(JournalFault, match="no key store"):
        write(journal, record(1))
    assert (tmp_path / FILE).read_text().startswith("something else")


def test_changes_of_several_commands_at_once_are_all_kept(tmp_path: Path) -> None:
    def work(first: int) -> None:
        for number in range(first, first + 20):
            write(KeyJournal(str(tmp_path)), record(number))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 80, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(names(KeyJournal(str(tmp_path)))) == sorted(f"k{number}" for number in range(80))


def test_times_of_use_of_several_instances_are_merged(tmp_path: Path) -> None:
    journal = KeyJournal(str(tmp_path))
    journal.write_used({"a": 5.9, "b": 7.0}, ["a", "b"])
    journal.write_used({"a": 3.0, "c": 8.0}, ["a", "c"])
    assert journal.read_used() == {"a": 5.0, "c": 8.0}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a":"x"}', b'{"a":1e999}', b"[" * 100_000])
def test_damaged_times_of_use_are_unknown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / USED).write_bytes(content)
    assert KeyJournal(str(tmp_path)).read_used() == {}


def test_a_full_disk_is_reported_with_the_file(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full, pytest.raises(OSError, match=r"No space left on device: '.*keys\.jsonl'"):
        key_journal._write_all(full.fileno(), b"x", str(tmp_path / "keys.jsonl"))
