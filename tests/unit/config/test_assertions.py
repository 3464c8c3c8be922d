"""The file of `relayd test`, as it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.config.assertions import Assertions, Expected, ExpectedLimits
from relayd.config.load import load_section
from relayd.errors import ConfigError


def loaded(folder: Path, text: str) -> Assertions:
    (folder / "tests.yaml").write_text(text)
    made: Assertions = load_section(str(folder / "tests.yaml"), Assertions)
    return made


def test_what_is_not_named_is_not_expected(tmp_path: Path) -> None:
    (one,) = loaded(tmp_path, "tests: [{request: GET /, expect: {route: a, limits: {queue: 0}}}]").tests
    assert one.expect == Expected(route="a", limits=ExpectedLimits(queue=0))
    assert (one.peer, one.consumer, int(one.body)) == ("127.0.0.1", None, 0)


@pytest.mark.parametrize(("text", "told"), [
    ("tests: []", "must not be empty"),
    ("tests: [{request: 'GET  /', expect: {route: a}}]", "METHOD URL"),
    ("tests: [{request: GET /, headers: {'a b': c}, expect: {route: a}}]", "headers.a b"),
    ("tests: [{request: GET /, expect: {status: 1000}}]", "status"),
    ("{}", "tests"),
    ("- request: GET /", "tests.yaml:1"),
])
def test_every_fault_is_told_at_its_place(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, text)
    assert any(told in str(finding) for finding in refused.value.findings), refused.value.findings
