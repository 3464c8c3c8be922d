"""The key store: changes are in force for the next look-up, at the same cost for any number of keys."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from relayd import clock
from relayd.access.issued_key import digest_of
from relayd.access.key_journal import KeyJournal
from relayd.access.key_record import KeyRecord
from relayd.access.key_store import FILE, KeysBehind, KeyStore


def record(number: int, **words: object) -> KeyRecord:
    digest = digest_of(f"key-{number}".encode()).hex()
    return dataclasses.replace(KeyRecord(f"{number:012x}", f"k{number}", digest), **words)  # type: ignore[arg-type]


def write(folder: Path, *records: KeyRecord, now_s: float = 0.0) -> None:
    journal = KeyJournal(str(folder))
    with journal.locked():
        journal.append(journal.read(), records, now_s)


def found(store: KeyStore, number: int) -> str | None:
    hit = store.find(digest_of(f"key-{number}".encode()))
    return None if hit is None else hit[1].name


def test_a_key_is_known_at_once_and_unknown_at_once(tmp_path: Path) -> None:
    store = KeyStore(str(tmp_path))
    assert found(store, 1) is None and store.is_empty and not store.problem
    write(tmp_path, record(1), record(2))
    assert (found(store, 1), found(store, 2), found(store, 3), store.active) == ("k1", "k2", None, 2)
    write(tmp_path, record(1, revoked_s=5.0))
    assert (found(store, 1), found(store, 2), store.active) == (None, "k2", 1)
    os.unlink(tmp_path / FILE)
    assert found(store, 2) is None and store.is_empty


def test_two_instances_see_the_same_keys(tmp_path: Path) -> None:
    write(tmp_path, record(1))
    stores = [KeyStore(str(tmp_path)) for _ in range(2)]
    assert [found(store, 1) for store in stores] == ["k1", "k1"]
    write(tmp_path, record(1, revoked_s=1.0))
    assert [found(store, 1) for store in stores] == [None, None]


def test_a_rotated_key_is_accepted_until_the_end_of_its_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = KeyStore(str(tmp_path))
    new = digest_of(b"new").hex()
    write(tmp_path, record(1))
    assert found(store, 1) == "k1"
    write(tmp_path, record(1, digest=new, previous=record(1).digest, previous_until_s=1000.0))
    monkeypatch.setattr(clock, "wall", lambda: 999.0)
    assert found(store, 1) == "k1" and store.find(bytes.fromhex(new)) is not None
    monkeypatch.setattr(clock, "wall", lambda: 1000.0)
    assert found(store, 1) is None and store.find(bytes.fromhex(new)) is not None


def test_an_expired_key_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, record(1, expires_s=1000.0))
    store = KeyStore(str(tmp_path))
    monkeypatch.setattr(clock, "wall", lambda: 999.9)
    assert found(store, 1) == "k1"
    monkeypatch.setattr(clock, "wall", lambda: 1000.0)
    assert found(store, 1) is None


def test_a_half_written_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    write(tmp_path, record(1))
    store = KeyStore(str(tmp_path))
    assert found(store, 1) == "k1"
    line = record(1, revoked_s=9.0).line()
    with open(tmp_path / FILE, "ab", buffering=0) as file:
        file.write(line[:50])
        assert found(store, 1) == "k1"
        file.write(line[50:])
    assert found(store, 1) is None


def test_a_damaged_line_is_left_out_and_reported(tmp_path: Path) -> None:
    write(tmp_path, record(1))
    with open(tmp_path / FILE, "ab") as file:
        file.write(b'{"id":"broken\n' + record(2).line())
    store = KeyStore(str(tmp_path))
    assert (found(store, 1), found(store, 2)) == ("k1", "k2")
    assert "damaged lines" in store.problem and store.problem.endswith(": 3")
    write(tmp_path, record(3))  # the next change writes the file anew
    assert found(store, 3) == "k3" and not store.problem


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 5000, b"keys:\n"])
def test_a_file_that_is_none_of_relayd_leaves_the_keys_in_force_and_is_reported(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, record(1))
    store = KeyStore(str(tmp_path))
    assert found(store, 1) == "k1"
    (tmp_path / "new").write_bytes(content)
    os.replace(tmp_path / "new", tmp_path / FILE)
    assert found(store, 1) == "k1" and "no key store" in store.problem
    fresh = KeyStore(str(tmp_path))
    assert found(fresh, 1) is None and fresh.problem


def test_a_file_that_was_put_in_its_place_is_read_from_its_beginning(tmp_path: Path) -> None:
    write(tmp_path, record(1), record(2))
    store = KeyStore(str(tmp_path))
    assert found(store, 2) == "k2"
    other = tmp_path / "other"
    write(other, *(record(number) for number in range(3, 40)))
    with open(tmp_path / FILE, "r+b") as file:  # even in the same inode
        file.write((other / FILE).read_bytes())
    assert (found(store, 1), found(store, 2), found(store, 39)) == (None, None, "k39")


def test_many_changes_are_read_in_steps_and_nothing_is_accepted_before(tmp_path: Path) -> None:
    write(tmp_path, record(1))
    store = KeyStore(str(tmp_path))
    assert found(store, 1) == "k1"
    write(tmp_path, *(record(number) for number in range(2, 3000)), record(1, revoked_s=1.0))
    with pytest.raises(KeysBehind) as behind:
        found(store, 1)
    with pytest.raises(KeysBehind):
        found(store, 2)
    for _ in behind.value.steps:
        pass
    assert (found(store, 1), found(store, 2999)) == (None, "k2999")


def test_a_look_up_costs_the_same_for_ten_thousand_keys_as_for_one(tmp_path: Path) -> None:
    counts = {}
    for number in (1, 10_000):
        folder = tmp_path / str(number)
        write(folder, *(record(one) for one in range(number)))
        store = KeyStore(str(folder))
        store.load()
        assert found(store, 0) == "k0"
        counts[number] = lines_run(partial(store.find, digest_of(b"key-0")))
    assert counts[1] == counts[10_000] < 40


def lines_run(call: Callable[[], object]) -> int:
    """The number of lines of Python that a call runs."""
    ran = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal ran
        ran += event == "line"
        return trace

    kept = sys.gettrace()  # of the measurement of coverage
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(kept)
    return ran
