"""`relayd spend`: the sums of all instances, by column and day, in three forms."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from relayd.cli.main import main
from relayd.limits.ledger_file import FILE, LedgerFile

ONE = (1, 0, 10, 5, 0, 0, 0, 7, 1)


@pytest.fixture
def state(tmp_path: Path) -> str:
    """Two instances: one request of `m` each, and one of `n` a day before."""
    (tmp_path / "b").mkdir()
    for folder, days in ((tmp_path, ("2026-11-29", "2026-11-28")), (tmp_path / "b", ("2026-11-29",))):
        file = LedgerFile(str(folder / FILE))
        for day in days:
            file.write([((day, "team", "paying", "llm", "up", "m" if day.endswith("29") else "n", "USD"), ONE)], ())
        file.close()
    return str(tmp_path)


def shown(capsys: pytest.CaptureFixture[str], state: str, *words: str) -> str:
    assert main(["spend", "--state", state, *words]) == 0
    return capsys.readouterr().out


def test_the_sums_of_all_instances_are_shown(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, state).splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["team", "m", "2"], ["team", "n", "1"]]
    assert lines[3] == "total: 3 requests, 0.000000021 USD"


def test_days_and_columns_are_selected(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(shown(capsys, state, "--json", "--by", "day", "--since", "2026-11-29", "--until", "2026-11-29"))
    assert [(one["day"], one["requests"], one["cost"]) for one in found] == [("2026-11-29", 2, "0.000000014")]
    head, row = shown(capsys, state, "--csv", "--by", "none", "--until", "2026-11-28").splitlines()
    assert dict(zip(head.split(","), row.split(","), strict=True))["requests"] == "1"
    assert "no requests in these days" in shown(capsys, state, "--since", "today", "--until", "yesterday")
    assert "no requests in these days" in shown(capsys, state, "--until", "9999d")


@pytest.mark.parametrize("words", [("--by", "colour"), ("--since", "monday")])
def test_wrong_words_are_named(state: str, capsys: pytest.CaptureFixture[str], words: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["spend", "--state", state, *words])
    assert ended.value.code == 2 and words[1] in capsys.readouterr().err


def test_a_missing_and_a_damaged_file_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spend", "--state", str(tmp_path)]) == 1 and "no spend was recorded" in capsys.readouterr().err
    (tmp_path / FILE).write_bytes(b"x" * 5000)
    assert main(["spend", "--state", str(tmp_path)]) == 1 and "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "cell"), [
    ("=cmd|x!A1", "'=cmd|x!A1"), ("+1", "'+1"), ("-1", "'-1"), ("@SUM(1)", "'@SUM(1)"), ("\r=1", "?=1"), ("a\rteam,=1\n", "a?team,=1?"),
    ('"a",b', '"a",b'),
])
def test_a_name_in_csv_is_no_formula_for_a_spreadsheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, cell: str
) -> None:
    """Clients choose names of models."""
    file = LedgerFile(str(tmp_path / FILE))
    file.write([(("2026-11-29", "team", "", "llm", "up", name, "USD"), ONE)], ())
    file.close()
    (row,) = csv.DictReader(io.StringIO(shown(capsys, str(tmp_path), "--csv"), newline=""))
    assert row["model"] == cell and row["requests"] == "1"
    (row,) = json.loads(shown(capsys, str(tmp_path), "--json"))
    assert row["model"] == name
