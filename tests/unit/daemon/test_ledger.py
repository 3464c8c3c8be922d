"""The service that writes the ledger's file: what is not written yet is written later; windows survive a restart."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.daemon.ledger import MOST_WINDOWS, Ledger
from relayd.limits.ledger_file import FILE, LedgerFile, read_spend
from relayd.limits.spend import Spend
from relayd.telemetry.metrics import Metrics


class Windows:
    """Windows as the rates have them."""

    def __init__(self) -> None:
        self.changed: dict[str, Any] = {}
        self.loaded: dict[str, Any] = {}

    @property
    def is_dirty(self) -> bool:
        return bool(self.changed)

    def dirty(self, most: int) -> list[tuple[str, Any]]:
        return [(key, self.changed.pop(key)) for key in list(self.changed)[:most]]

    def load(self, items: Iterable[tuple[str, Any]]) -> list[str]:
        self.loaded = dict(items)
        return [key for key, state in self.loaded.items() if state is None]


class Journal:
    def __init__(self) -> None:
        self.events: list[str] = []

    def limited(self, key: str, interval_s: float, level: str, event: str, message: str, **fields: object) -> None:
        self.events.append(event)

    def info(self, event: str, message: str = "") -> None:
        self.events.append(event)

    warning = info


class Gateway:
    def __init__(self) -> None:
        self.spend, self.leaving, self.telemetry = Spend(), False, self
        self.metrics = Metrics()
        self.later: list[Callable[[], None]] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        self.later.append(callback)
        return lambda: None


def add(gateway: Gateway, cost_nano: int = 5) -> None:
    gateway.spend.add(0.0, "team", "", "llm", "up", "m", "USD", None, cost_nano)


def made(folder: Path | str) -> tuple[Gateway, Journal, Windows, Ledger]:
    gateway, journal, windows = Gateway(), Journal(), Windows()
    return gateway, journal, windows, Ledger(gateway, journal, str(folder), windows)  # type: ignore[arg-type]


def ticked_until(ledger: Ledger, holds: Callable[[], Any]) -> None:
    end = time.monotonic() + 60.0
    while not holds():
        assert time.monotonic() < end
        ledger.tick()
        time.sleep(0.001)


def test_without_a_state_directory_no_changes_are_kept() -> None:
    gateway, _, windows, ledger = made("")
    windows.changed = {str(number): [[]] for number in range(MOST_WINDOWS + 1)}
    add(gateway)
    ledger.tick()
    assert gateway.spend.pop() == [] and len(windows.changed) == 1
    gateway.later.pop()()
    assert not windows.changed and not gateway.later


def requests(folder: Path) -> int:


    return sum(sums[0] for _, sums in read_spend(str(folder / FILE), "", "9"))


@pytest.fixture
def obstacle(tmp_path: Path) -> Iterator[Path]:
    """A folder in the place of the file, so that it cannot be opened."""
    path = tmp_path / FILE
    path.mkdir()
    yield path


def test_the_rest_is_written_at_the_end(tmp_path: Path) -> None:
    gateway, _, windows, ledger = made(tmp_path)
    add(gateway)
    windows.changed = {"a": ["1m", [[1, 2]]]}
    ledger.close()
    assert requests(tmp_path) == 1
    _, _, again, ledger = made(tmp_path)
    ledger.restore()
    assert again.loaded == {"a": ["1m", [[1, 2]]]}
    ledger.close()


def test_a_window_that_is_no_longer_needed_is_deleted(tmp_path: Path) -> None:
    _, _, windows, ledger = made(tmp_path)
    windows.changed = {"a": ["1m", [[1, 2]]], "b": ["1m", [[1, 2]]]}
    ledger.close()
    _, _, windows, ledger = made(tmp_path)
    windows.changed = {"a": ["1m", []]}
    ledger.close()
    file = LedgerFile(str(tmp_path / FILE))
    assert file.windows() == [("b", ["1m", [[1, 2]]])]
    file.close()


def test_what_cannot_be_written_is_written_later_and_said(obstacle: Path, tmp_path: Path) -> None:
    gateway, journal, windows, ledger = made(tmp_path)
    add(gateway)
    windows.changed = {"a": ["1m", [[1, 2]]]}
    ticked_until(ledger, lambda: "ledger_failed" in journal.events)
    assert gateway.metrics.value("relayd.spend.failed") > 0
    assert ledger.describe()["fault"] and ledger.describe()["file"] == str(tmp_path / FILE) and ledger.describe()["cure"]
    add(gateway)
    windows.changed = {"a": ["1m", [[1, 3]]]}
    obstacle.rmdir()
    ticked_until(ledger, lambda: "ledger_written" in journal.events)
    assert ledger.describe()["fault"] == ""
    ledger.close()
    assert requests(tmp_path) == 2
    file = LedgerFile(str(tmp_path / FILE))
    assert file.windows() == [("a", ["1m", [[1, 3]]])]
    file.close()


def test_many_windows_are_written_in_batches_and_all_of_them_at_the_end(tmp_path: Path) -> None:
    gateway, _, windows, ledger = made(tmp_path)
    many = {f"w{number}": ["1m", [[1, number]]] for number in range(3 * MOST_WINDOWS + 5)}
    windows.changed = dict(many)
    ledger.tick()
    assert len(windows.changed) == 2 * MOST_WINDOWS + 5 and len(gateway.later) == 1
    while len(windows.changed) > MOST_WINDOWS + 5:  # the writer may not have finished when it is asked
        gateway.later.pop()()
        time.sleep(0.001)
    ledger.close()
    assert not windows.changed
    file = LedgerFile(str(tmp_path / FILE))
    assert dict(file.windows()) == many
    file.close()


def test_a_process_that_is_being_replaced_leaves_the_windows_to_its_successor(tmp_path: Path) -> None:
    gateway, _, windows, ledger = made(tmp_path)
    gateway.leaving = True
    add(gateway)
    windows.changed = {"a": ["1m", [[1, 2]]]}
    ledger.close()
    assert requests(tmp_path) == 1
    file = LedgerFile(str(tmp_path / FILE))
    assert file.windows() == []
    file.close()


def test_without_a_state_directory_nothing_is_kept() -> None:
    gateway, _, _, ledger = made("")
    ledger.restore()
    add(gateway)
    ledger.tick()
    assert gateway.spend.pop() == []
    ledger.close()
    assert not os.path.exists(FILE)


def test_a_damaged_file_does_not_stop_a_start(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"damaged" * 1000)
    _, journal, windows, ledger = made(tmp_path)
    ledger.restore()
    assert journal.events[0] == "ledger_set_aside"
    assert windows.loaded == {}
    ledger.close()


def test_a_start_without_a_file_creates_none(tmp_path: Path) -> None:
    _, _, _, ledger = made(tmp_path)
    ledger.restore()
    ledger.tick()
    ledger.close()
    assert list(tmp_path.iterdir()) == []
