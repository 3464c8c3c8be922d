"""`relayd sessions`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relayd.cli.main import main
from relayd.proxy.client_session import key_of
from tests.unit.cli.admin_case import Admin

DIGEST = key_of(b"one")
LISTED = {"id": DIGEST, "consumer": "team", "size_bytes": 300, "expires_in_s": 7000.0}
OTHER = {**LISTED, "id": key_of(b"two"), "consumer": "", "expires_in_s": 60.0}
MISSING = (404, {"error": {"message": "There is no such session."}})


def test_sessions_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, {"sessions": [LISTED, OTHER], "omitted": 3})) as admin:
        assert main(["sessions", "list", *admin.options]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert [line.split() for line in shown[1:]] == [
            [str(OTHER["id"])[:16], "-", "300", "1m00s"], [DIGEST[:16], "team", "300", "1h56m"], ["...", "3", "more"]]
        assert main(["sessions", "list", "--json", "--consumer", "team", *admin.options]) == 0
        assert json.loads(capsys.readouterr().out)["sessions"] == [LISTED]


def test_without_sessions_a_line_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, {"sessions": [], "omitted": 0})) as admin:
        assert main(["sessions", "list", *admin.options]) == 0
    assert capsys.readouterr().out == "no sessions\n"


def test_a_session_is_shown_by_digest_or_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = {**LISTED, "document": {"a": 1}, "endpoints": {"web": "host:1"}}
    with Admin(tmp_path, (200, page)) as admin:
        assert main(["sessions", "show", DIGEST[:8], *admin.options]) == 0
        shown = capsys.readouterr().out
        assert DIGEST in shown and '"a": 1' in shown and "host:1" in shown and "team" in shown
        assert main(["sessions", "show", "one", "--json", *admin.options]) == 0
        assert json.loads(capsys.readouterr().out) == page
    assert admin.asked == [f"GET /sessions/{DIGEST[:8]}", f"GET /sessions/{DIGEST}"]


def test_an_id_that_looks_like_a_digest_is_tried_as_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, MISSING) as admin:
        assert main(["sessions", "show", "abcdef12", *admin.options]) == 1
    assert admin.asked == ["GET /sessions/abcdef12", f"GET /sessions/{key_of(b'abcdef12')}"]
    assert capsys.readouterr().err == "relayd: not done: There is no such session.\n"


def test_sessions_are_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, {"forgotten": 2})) as admin:
        for words in (["one"], ["--consumer", "team"], ["--all"]):
            assert main(["sessions", "forget", *words, *admin.options]) == 0
    assert capsys.readouterr().out == "2 deleted\n" * 3 and admin.asked == ["POST /sessions/forget"] * 3


@pytest.mark.parametrize("words", [
    ["show"], ["list", "x"], ["forget"], ["forget", "x", "--all"], ["forget", "--all", "--consumer", "a"], ["import"],
    ["import", "--redis", "redis://x"], ["import", "x", "--redis", "redis://x", "--pattern", "y"],
])
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sessions", *words]) == 2
    assert capsys.readouterr().err.startswith(f"relayd: sessions {words[0]}: ")


def test_a_password_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--redis", "redis://x", "--pattern", "y", "--password-file", f"{tmp_path}/none"]
    assert main(["sessions", "import", *words]) == 1 and f"{tmp_path}/none" in capsys.readouterr().err
