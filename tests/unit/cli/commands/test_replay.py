"""`relayd replay`: the difference of the responses is the exit code, and what is printed of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relayd.cli.main import main
from tests.unit.cli.admin_case import Admin
from tests.unit.cli.captured_case import IDENTITY, exchange

PLAN: dict[str, Any] = {
    "id": IDENTITY, "upstream": "other", "model": "", "method": "POST", "target": "/v1/\x1b[2J",
    "fields": ["Host: ai.test", "X: \x1b"], "body_bytes": 7,
}


def test_the_same_response_is_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, exchange()), (200, exchange('{"a": 1}', identity="again"))) as admin:
        assert main(["replay", "0123", *admin.options]) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith("the same\n") and "status      200\n" in shown.out and shown.err == ""
    assert admin.asked == ["GET /captures/0123", "POST /captures/replay"]
    assert json.loads(admin.bodies[1]) == {"id": "0123", "upstream": "", "model": ""}


def test_another_response_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, exchange()), (200, exchange('{"a":2}', status=202))) as admin:
        assert main(["replay", IDENTITY, "--upstream", "other", "--model", "m", *admin.options]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == "different" and {'-  "a": 1', '+  "a": 2', "status      200 -> 202"} <= set(shown)
    assert json.loads(admin.bodies[1]) == {"id": IDENTITY, "upstream": "other", "model": "m"}


def test_a_response_that_was_not_kept_as_a_whole_is_never_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = exchange("begin", size=100, missing=95)
    with Admin(tmp_path, (200, cut)) as admin:
        assert main(["replay", IDENTITY, *admin.options]) == 2
        shown = capsys.readouterr()
        assert "the same" not in shown.out and shown.out.endswith("not compared\n")
        assert shown.err == "relayd: not compared: 95 of 100 bytes of the captured response were not kept\n"
        assert main(["replay", IDENTITY, "--json", *admin.options]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["difference"]["same"] is False and told["not_comparable"].startswith("95 of 100 bytes")


def test_json_has_the_difference_and_the_replayed_exchange(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replayed = exchange('{"a":2}', identity="again")
    with Admin(tmp_path, (200, exchange()), (200, replayed)) as admin:
        assert main(["replay", IDENTITY, "--json", *admin.options]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["replayed"] == replayed and told["not_comparable"] == "" and told["difference"]["same"] is False
    assert '+  "a": 2' in told["difference"]["body"] and told["difference"]["status"] == [200, 200]


def test_on_request_the_whole_replayed_exchange_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, exchange()), (200, exchange(identity="again"))) as admin:
        assert main(["replay", IDENTITY, "--show", *admin.options]) == 0
    difference, _, whole = capsys.readouterr().out.partition("the same\n\n")
    assert "exchange" not in difference and whole.startswith("exchange  again\n") and "attempt 1  up a:1" in whole


def test_a_dry_run_shows_what_would_be_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, PLAN), (200, {**PLAN, "model": "m\x1b"}), (200, PLAN)) as admin:
        assert main(["replay", IDENTITY, "--dry-run", *admin.options]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "to upstream other, as from a client:", "POST /v1/?[2J", "Host: ai.test", "X: ?", "7 bytes of body"]
        assert main(["replay", IDENTITY, "--dry-run", "--model", "m", *admin.options]) == 0
        assert capsys.readouterr().out.startswith("to upstream other, as model m?, as from a client:\n")
        assert main(["replay", IDENTITY, "--dry-run", "--json", *admin.options]) == 0
        assert json.loads(capsys.readouterr().out) == PLAN
    assert admin.asked == ["POST /captures/replay"] * 3 and all(json.loads(one)["dry_run"] is True for one in admin.bodies)


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_what_cannot_be_sent_is_exit_code_2(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = (409, {"error": {"message": "The request was not sent to any upstream."}})
    answers = [refused] if options else [(200, exchange()), refused]
    with Admin(tmp_path, *answers) as admin:
        assert main(["replay", IDENTITY, *options, *admin.options]) == 2
    assert capsys.readouterr().err == "relayd: not done: The request was not sent to any upstream.\n"


def test_what_was_not_captured_is_not_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (404, {"error": {"message": "No captured exchange has the id x."}})) as admin:
        assert main(["replay", "x", *admin.options]) == 2
    assert admin.asked == ["GET /captures/x"] and "No captured exchange has the id x." in capsys.readouterr().err
