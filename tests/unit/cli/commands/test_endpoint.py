"""`relayd endpoint`."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.cli.main import main
from tests.unit.cli.admin_case import Admin


@pytest.mark.parametrize(("action", "state", "words"), [
    ("drain", "draining", "running ones continue"), ("disable", "disabled", "no health checks"),
    ("enable", "enabled", "in use again"),
])
def test_the_resulting_state_is_shown(action: str, state: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reply = {"upstream": "u", "endpoint": {"address": "a:1", "state": state, "in_flight": 3}}
    with Admin(tmp_path, (200, reply)) as admin:
        assert main(["endpoint", action, "u", "a:1", *admin.options]) == 0
    assert admin.asked == [f"POST /upstreams/u/endpoints/a%3A1/{action}"]
    shown = capsys.readouterr().out
    assert shown.startswith(f"u a:1: {state} (")
    assert words in shown
    assert shown.endswith("3 in flight\n")


def test_a_refusal_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (404, {"error": {"message": "There is no upstream 'v'."}})) as admin:
        assert main(["endpoint", "drain", "v", "a:1", *admin.options]) == 1
    assert "no upstream 'v'" in capsys.readouterr().err


def test_other_actions_are_wrong_usage() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["endpoint", "explode", "u", "a:1"])
    assert ended.value.code == 2


def test_addresses_are_set_and_reset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = [{"address": "b:2", "state": "enabled"}, {"address": "a:1", "state": "leaving"}]
    reply = {"upstream": "u", "overridden": True, "endpoints": ends}
    with Admin(tmp_path, (200, reply)) as admin:
        assert main(["endpoint", "set", "u", "http://b:2/v1", "unix:/run/c", *admin.options]) == 0
    assert admin.asked == ["POST /upstreams/u/set/http%3A%2F%2Fb%3A2%2Fv1/unix%3A%2Frun%2Fc"]
    assert capsys.readouterr().out == "u: b:2 (set by hand, until reset, a change of its configuration, or a restart)\n"
    (tmp_path / "again").mkdir()
    with Admin(tmp_path / "again", (200, {**reply, "overridden": False, "endpoints": []})) as admin:
        assert main(["endpoint", "reset", "u", *admin.options]) == 0
    assert admin.asked == ["POST /upstreams/u/reset"]
    assert capsys.readouterr().out == "u: no endpoint (as configured)\n"


def test_addresses_are_listed_with_their_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {"source": "file /x", "age_s": 1.0, "changed_age_s": 61.0, "fault": "is broken", "note": ""}
    reply = {"upstreams": [
        {"name": "u", "endpoints": [{"address": "a:1", "state": "enabled"}], "discovery": None},
        {"name": "v", "endpoints": [], "discovery": found, "overridden": True},
    ]}  # fmt: skip
    with Admin(tmp_path, (200, reply)) as admin:
        assert main(["endpoint", "list", *admin.options]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split() == ["u", "a:1", "enabled", "configuration"]
    assert shown[2].split()[:2] == ["v", "none"] and "set by hand" in shown[2] and "is broken" in shown[2]
    (tmp_path / "again").mkdir()
    with Admin(tmp_path / "again", (200, reply)) as admin:
        assert main(["endpoint", "list", "w", *admin.options]) == 1
    assert "no upstream w" in capsys.readouterr().err


@pytest.mark.parametrize("words", [
    ["set", "u"], ["set"], ["reset"], ["reset", "u", "a:1"], ["list", "u", "a:1"], ["drain", "u"], ["drain", "u", "a", "b"],
])
def test_missing_and_superfluous_words_are_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["endpoint", *words]) == 2
    assert "usage: relayd endpoint" in capsys.readouterr().err
