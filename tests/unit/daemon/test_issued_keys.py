"""The service of the key store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relayd.access.issued_key import digest_of
from relayd.access.key_journal import KeyJournal
from relayd.access.key_record import KeyRecord
from relayd.access.key_store import FILE
from relayd.daemon.issued_keys import IssuedKeys

DIGEST = digest_of(b"sk")


class Gateway:
    """Runs deferred calls at once."""

    keys: Any = None

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        callback()
        return lambda: None


class Events:
    """Records events by name."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def error(self, name: str, message: str = "", **fields: object) -> None:
        self.names.append(name)

    info = error


def write(folder: Path, *records: KeyRecord) -> None:
    journal = KeyJournal(str(folder))
    with journal.locked():
        journal.append(journal.read(), records, 0.0)


@pytest.fixture
def made(tmp_path: Path) -> tuple[IssuedKeys, Gateway, Events]:
    write(tmp_path, KeyRecord("000000000001", "a", DIGEST.hex()))
    gateway, events = Gateway(), Events()
    return IssuedKeys(gateway, str(tmp_path), events), gateway, events  # type: ignore[arg-type]


def test_keys_are_known_before_the_first_plan(made: tuple[IssuedKeys, Gateway, Events]) -> None:
    assert made[1].keys is made[0].store and made[0].store.active == 1


def test_many_changes_are_read_without_a_request(made: tuple[IssuedKeys, Gateway, Events], tmp_path: Path) -> None:
    write(tmp_path, *(KeyRecord(f"{number:012x}", f"k{number}", DIGEST.hex()) for number in range(2, 2000)))
    made[0].tick()
    assert made[0].store.active == 1999


def test_a_fault_of_the_file_is_reported_once_and_its_end_too(made: tuple[IssuedKeys, Gateway, Events], tmp_path: Path) -> None:
    service, _, events = made
    good = (tmp_path / FILE).read_bytes()
    for content, expected in ((b"broken", ["key_store_unreadable"]), (good, ["key_store_unreadable", "key_store_readable"])):
        (tmp_path / "new").write_bytes(content)
        os.replace(tmp_path / "new", tmp_path / FILE)
        service.tick()
        service.tick()
        assert events.names == expected
    assert service.store.find(DIGEST) is not None


def test_the_times_of_last_use_are_on_disk_at_the_end(made: tuple[IssuedKeys, Gateway, Events], tmp_path: Path) -> None:
    service = made[0]
    assert service.store.find(DIGEST) is not None
    service.close()
    assert KeyJournal(str(tmp_path)).read_used()["000000000001"] > 0


def test_times_that_cannot_be_written_are_kept(made: tuple[IssuedKeys, Gateway, Events], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    service = made[0]
    service.store.find(DIGEST)
    monkeypatch.setattr(KeyJournal, "write_used", full)
    service.close()
    assert list(service.store.used) == ["000000000001"]
