"""Actions on an endpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from relayd.cli.action import add_action_options, perform
from tests.unit.cli.admin_case import Admin


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_action_options(parser)
    return parser.parse_args(list(words))


def test_an_address_is_one_part_of_the_path_whatever_it_holds(tmp_path: Path) -> None:
    with Admin(tmp_path, (200, {"upstream": "u", "endpoint": {}})) as admin:
        assert perform(options("u", "unix:/run/a b.sock?", *admin.options), "breaker/open") is not None
    assert admin.asked == ["POST /upstreams/u/endpoints/unix%3A%2Frun%2Fa%20b.sock%3F/breaker/open"]


@pytest.mark.parametrize(("answer", "words"), [
    ((404, {"error": {"code": "not_found", "message": "it has: a:1."}}), "it has: a:1."), ((200, b"<html>"), "not done"),
    ((500, {}), "not done"),
])
def test_a_refusal_is_reported(answer: tuple[int, object], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, answer) as admin:
        assert perform(options("u", "a:9", *admin.options), "drain") is None
    assert words in capsys.readouterr().err


def test_a_missing_daemon_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert perform(options("u", "a:9", "--socket", str(tmp_path / "none")), "drain") is None
    assert "not done" in capsys.readouterr().err
