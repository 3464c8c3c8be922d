"""The files of a relayd that does not run: what they hold of consumers, and its deletion."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from relayd.cli.main import main
from relayd.cli.stored_state import forget, show
from relayd.limits.ledger_file import FILE, KEYS, SUMS, LedgerFile
from relayd.proxy.client_session import SPACE
from relayd.stores.sqlite import Store

USED: Any = ["3600s", [[1, 2]]]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "shared").mkdir()
    (tmp_path / "one").mkdir()
    store = Store(str(tmp_path / "shared/store.sqlite"), 100, 1 << 20, 1000.0)
    for space, key in (("ann", "r1"), ("ann", "r2"), (SPACE + "ann", "s"), ("bob", "r")):
        store.space(space).put(key, {"a": 1})
    store.settle()
    store.close()
    ledger = LedgerFile(str(tmp_path / "one" / FILE))
    rows = [((day, name, *("" for _ in KEYS[2:])), [1] * len(SUMS)) for day in ("2026-01-01", "2026-01-02") for name in ("ann", "bob")]
    windows = [("consumer ann requests 1h", USED), ("consumer bob requests 1h", USED), ("consumer ann tokens 1h", ["3600s", []])]
    ledger.write(rows, windows)
    ledger.close()
    return str(tmp_path)


def counts(folder: str) -> dict[tuple[str, str], int]:
    return {(one["consumer"], one["kind"]): one["entries"] for one in show(folder)}


def test_what_is_stored_is_counted_and_that_of_one_consumer_deleted(folder: str) -> None:
    expected = {
        ("ann", "stored"): 2, ("ann", "session"): 1, ("ann", "window"): 1, ("ann", "spend"): 2,
        ("bob", "stored"): 1, ("bob", "window"): 1, ("bob", "spend"): 2,
    }
    assert counts(folder) == expected
    found = {"session": 1, "session_endpoint": 0, "stored": 2, "cached": 0, "window": 1, "spend": 2}
    assert forget(folder, "ann", dry_run=True) == found and counts(folder) == expected
    assert forget(folder, "ann", dry_run=False) == found
    assert counts(folder) == {key: count for key, count in expected.items() if key[0] == "bob"}
    assert sorted(os.listdir(folder)) == ["one", "shared"], "no file is created"


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert show(str(tmp_path)) == [] and set(forget(str(tmp_path), "ann", dry_run=False).values()) == {0}
    assert not os.listdir(tmp_path)


def test_the_command_reads_files_only_while_no_relayd_answers(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = ["--socket", str(tmp_path / "none.sock")]
    assert main(["state", "forget", "--consumer", "ann", "--state", folder, *socket]) == 0
    assert capsys.readouterr().out.startswith("deleted of ann: 1 session, 0 session_endpoint, 2 stored")
    assert main(["state", "show", "--state", f"{folder}/none", *socket]) == 1
    assert "is not a folder" in capsys.readouterr().err

    def damaged(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr("relayd.cli.stored_state.show", damaged)
    assert main(["state", "show", "--state", folder, *socket]) == 1
    assert "disk I/O error" in capsys.readouterr().err
