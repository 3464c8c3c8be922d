"""`relayd certs`: the list, the result of a renewal, and archives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from relayd.acme.state import State
from relayd.cli.commands.certs import finished, row
from relayd.cli.main import main
from tests.unit.cli.commands.conftest import ServeReply
from tests.unit.server.certificates import certificate

ENTRY: dict[str, Any] = {
    "of": "listener", "name": "web", "file": "/x", "domain": "a.example", "expires_at": 4e9, "left_s": 86400 * 60, "warning": "", "urgency": "",
    "directory": "https://d/", "renew_at": 2e9, "suggested": True, "failures": 0, "next_try": 0.0, "tried_at": 5.0, "trying": False, "fault": "",
}
FILE = {"of": "listener", "name": "web", "file": "/y", "expires_at": 4e9, "left_s": 1, "warning": ""}


def test_the_list_shows_certificates_from_acme(serve_reply: ServeReply, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", "list", *serve_reply(200, {"certificates": [ENTRY, FILE]})]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].split() == ["a.example", "web", "60d0h", "2033-05-18", "(suggested)", "https://d/", "this", "machine"]


def test_the_list_is_json_on_request_and_may_be_empty(serve_reply: ServeReply, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", "list", "--json", *serve_reply(200, {"certificates": [ENTRY]})]) == 0
    assert json.loads(capsys.readouterr().out) == [ENTRY]
    assert main(["certs", "list", *serve_reply(200, {"certificates": [FILE]})]) == 0
    assert capsys.readouterr().out == "no listener has tls.acme\n"


def test_a_failure_is_shown_with_the_next_attempt() -> None:
    cells = row(ENTRY | {"expires_at": 0.0, "left_s": 0, "renew_at": 0.0, "directory": "", "failures": 2, "fault": "no\x1banswer", "next_try": clock.wall() + 90, "urgency": "error"})
    assert cells[2:5] == ("none", "-", "-") and cells[5] == "-" and cells[6].startswith("no?answer; attempt 3 in 1m")


def test_the_machine_that_has_ordered_a_certificate_is_shown() -> None:
    assert row(ENTRY | {"origin": "web2"})[5] == "web2"


def test_an_unknown_name_is_reported(serve_reply: ServeReply, capsys: pytest.CaptureFixture[str]) -> None:
    reply = serve_reply(404, {"error": {"message": "No listener obtains a certificate for b.example."}})
    assert main(["certs", "renew", "b.example", *reply]) == 1
    assert "not renewed: No listener" in capsys.readouterr().err


def test_a_renewal_without_a_result_ends_at_its_timeout(serve_reply: ServeReply, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", "renew", "--timeout", "0", *serve_reply(200, {"domains": ["a.example"], "at": 1.0})]) == 1
    assert "a.example: no result within" in capsys.readouterr().err


def test_only_attempts_that_have_begun_later_and_have_ended_count() -> None:
    found = [ENTRY, ENTRY | {"domain": "b"}, ENTRY | {"domain": "c", "trying": True}, ENTRY | {"domain": "d", "tried_at": 4.0}]
    assert [one["domain"] for one in finished(found, {"b", "c", "d"}, 5.0)] == ["b"]


def test_archives_are_written_and_restored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, made = State(str(tmp_path / "s/acme")), certificate(tmp_path, "a.example")
    assert main(["certs", "export", str(tmp_path / "x"), "--state", str(tmp_path / "s")]) == 1
    state.prepare()
    state.write_certificate("a.example", Path(made.key).read_bytes() + Path(made.cert).read_bytes())
    assert main(["certs", "export", str(tmp_path / "x"), "--state", str(tmp_path / "s")]) == 0
    assert "private keys" in capsys.readouterr().err
    (tmp_path / "t").mkdir()
    assert main(["certs", "import", str(tmp_path / "x"), "--state", str(tmp_path / "t")]) == 0
    assert capsys.readouterr().out == "a.example: restored\n"
    with state.lock():
        assert main(["certs", "export", str(tmp_path / "y"), "--state", str(tmp_path / "s")]) == 1
    assert "being ordered now" in capsys.readouterr().err


def test_wrong_usage_and_a_missing_daemon(tmp_path: Path) -> None:
    assert main(["certs", "export"]) == 2
    assert main(["certs", "list", "--socket", str(tmp_path / "none")]) == 1


def test_files_that_cannot_be_used_are_named_with_a_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["certs", "import", str(tmp_path / "none"), "--state", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"relayd: {tmp_path}/none: No such file or directory\n"
    state = State(str(tmp_path / "acme"))
    state.prepare()

    def denied(one: State) -> None:  # root, who runs tests, is denied nothing
        raise PermissionError(13, "Permission denied", f"{one.folder}/lock")

    monkeypatch.setattr(State, "lock", denied)
    assert main(["certs", "export", str(tmp_path / "x"), "--state", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"relayd: {tmp_path}/acme/lock: Permission denied; do this as root or as the user of the service\n"
