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
