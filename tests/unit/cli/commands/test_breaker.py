"""`relayd breaker`."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.cli.main import main
from tests.unit.cli.admin_case import Admin


@pytest.mark.parametrize(("action", "state", "forced", "shown"), [
    ("open", "open", True, "u a:1: breaker open, until it is reset by hand\n"),
    ("reset", "closed", False, "u a:1: breaker closed\n"),
])
def test_the_resulting_state_is_shown(
    action: str, state: str, forced: bool, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reply = {"upstream": "u", "endpoint": {"address": "a:1", "breaker": state, "forced": forced}}
    with Admin(tmp_path, (200, reply)) as admin:
        assert main(["breaker", action, "u", "a:1", *admin.options]) == 0
    assert admin.asked == [f"POST /upstreams/u/endpoints/a%3A1/breaker/{action}"]
    assert capsys.readouterr().out == shown


def test_a_breaker_that_is_off_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (409, {"error": {"message": "the breaker of u is off."}})) as admin:
        assert main(["breaker", "open", "u", "a:1", *admin.options]) == 1
    assert "is off" in capsys.readouterr().err
