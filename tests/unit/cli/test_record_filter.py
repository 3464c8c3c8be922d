"""Filters of access records."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from relayd.cli.record_filter import add_filter_options, filter_of

RECORD = {
    "route": "llm", "upstream": "openai", "consumer": "alice", "model": "gpt-5", "model_served": "gpt-5-mini", "status": 503,
    "outcome": "upstream.attempt", "total_ms": 2500.0,
}


def accepted(*arguments: str, **change: Any) -> bool:
    parser = argparse.ArgumentParser()
    add_filter_options(parser)
    return filter_of(parser.parse_args(arguments)).accepts({**RECORD, **change})


@pytest.mark.parametrize(("arguments", "expected"), [
    ("", True), ("--route llm", True), ("--route other", False), ("--route other --route l*", True),
    ("--upstream openai --consumer bob", False), ("--model gpt-*", True), ("--model gpt-5-mini", True), ("--model o3", False),
    ("--status 5xx", True), ("--status 503", True), ("--status 500", False), ("--status 4xx --status 5XX", True),
    ("--status 2xx", False), ("--outcome upstream.*", True), ("--outcome complete", False), ("--slow 2s", True),
    ("--slow 3s", False), ("--slow 2500ms --status 5xx --route llm", True),
])
def test_conditions(arguments: str, expected: bool) -> None:
    assert accepted(*arguments.split()) is expected


def test_values_that_are_missing() -> None:
    assert not accepted("--model", "*?", model=None, model_served=None)
    assert accepted("--consumer", "", consumer="")
    assert not accepted("--slow", "1ms", total_ms=None)


def test_a_status_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        accepted("--status", "5xy")
    assert "is not a status" in capsys.readouterr().err
