"""`relayd state`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relayd.cli.main import main
from tests.unit.cli.admin_case import Admin

HELD = {"state": [
    {"consumer": "", "kind": "spend", "entries": 4, "bytes": 0}, {"consumer": "team", "kind": "stored", "entries": 3, "bytes": 99},
]}  # fmt: skip


def test_what_is_held_is_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, HELD)) as admin:
        assert main(["state", "show", "--socket", admin.path]) == 0
        assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
            ["CONSUMER", "KIND", "ENTRIES", "BYTES"], ["-", "spend", "4", "-"], ["team", "stored", "3", "99"],
        ]
        assert main(["state", "show", "--consumer", "team", "--json", "--socket", admin.path]) == 0
        assert json.loads(capsys.readouterr().out) == HELD["state"][1:]


def test_the_name_of_a_consumer_is_sent_percent_encoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, {"consumer": "ci/ann b", "stored": 2, "window": 1})) as admin:
        assert main(["state", "forget", "--consumer", "ci/ann b", "--dry-run", "--socket", admin.path]) == 0
        assert capsys.readouterr().out == "would delete of ci/ann b: 2 stored, 1 window\n"
        assert main(["state", "forget", "--consumer", "ci/ann b", "--socket", admin.path]) == 0
        assert admin.asked == ["POST /state/dry/ci%2Fann%20b", "POST /state/forget/ci%2Fann%20b"]


@pytest.mark.parametrize("words", [("forget",), ("show", "--dry-run")])
def test_wrong_usage(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", *words]) == 2
    assert "--" in capsys.readouterr().err
