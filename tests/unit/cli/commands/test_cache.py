"""`relayd cache`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relayd.cli.main import main
from tests.unit.cli.admin_case import Admin

CACHES = {"caches": [
    {"route": "chat", "consumer": "", "entries": 0, "bytes": 0, "size": 1024}, {"route": "llm", "consumer": "ann", "entries": 3, "bytes": 99, "size": None},
]}  # fmt: skip
PURGED = {"route": "l/m", "consumer": None, "entries": 3, "bytes": 99}


def test_what_is_kept_is_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, CACHES)) as admin:
        assert main(["cache", "show", "--socket", admin.path]) == 0
        assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
            ["ROUTE", "CONSUMER", "ANSWERS", "BYTES", "OF"], ["chat", "-", "0", "0", "1024"], ["llm", "ann", "3", "99", "-"],
        ]
        assert main(["cache", "show", "--route", "llm", "--json", "--socket", admin.path]) == 0
        assert json.loads(capsys.readouterr().out) == CACHES["caches"][1:]
        assert main(["cache", "show", "--consumer", "eve", "--socket", admin.path]) == 0
        assert capsys.readouterr().out == "nothing is kept\n"


def test_names_are_sent_percent_encoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, PURGED)) as admin:
        assert main(["cache", "purge", "--route", "l/m", "--dry-run", "--socket", admin.path]) == 0
        assert capsys.readouterr().out == "would delete 3 answers (99 bytes) of the route l/m\n"
        assert main(["cache", "purge", "--route", "l/m", "--consumer", "ci/ann", "--json", "--socket", admin.path]) == 0
        assert json.loads(capsys.readouterr().out) == PURGED
        assert admin.asked == ["POST /cache/dry/l%2Fm", "POST /cache/purge/l%2Fm/ci%2Fann"]


def test_a_refusal_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (503, {"error": {"message": "try again later"}})) as admin:
        for words in (["show"], ["purge", "--route", "llm"]):
            assert main(["cache", *words, "--socket", admin.path]) == 1
            assert "try again later" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("purge",), ("show", "--dry-run")])
def test_wrong_usage(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", *words]) == 2
    assert "--" in capsys.readouterr().err
