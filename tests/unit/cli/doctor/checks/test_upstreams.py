"""Every endpoint is asked, all at once; the clock of this machine is compared with theirs."""

from __future__ import annotations

import time
from email.utils import formatdate
from pathlib import Path

import pytest

from relayd.cli.diagnosis import FAILURE, FINE, WARNING
from relayd.cli.doctor.checks import upstreams
from tests.functional.harness.message import answer
from tests.functional.harness.upstream import Upstream, saying
from tests.unit.cli.doctor.cases import context_of, findings, only, written


def test_one_that_works_and_one_that_does_not(tmp_path: Path) -> None:
    with Upstream() as upstream:
        found = findings(upstreams, context_of(written(tmp_path, upstreams={
            "good": {"endpoints": [upstream.url]}, "bad": {"endpoints": ["http://127.0.0.1:1"]},
        }, routes=[{"name": "all", "upstream": "good"}])))
        assert only(found, "upstream good").level == FINE
        assert only(found, "upstream bad").level == FAILURE


@pytest.mark.parametrize(("ahead_s", "cause"), [(3600, "s behind the Date"), (-3600, "s ahead of the Date"), (0, "")])
def test_a_clock_that_differs_from_those_of_the_endpoints(tmp_path: Path, ahead_s: int, cause: str) -> None:
    with Upstream() as upstream:
        upstream.script = saying(answer(b"", b"Date: " + formatdate(time.time() + ahead_s, usegmt=True).encode()))
        found = findings(upstreams, context_of(written(tmp_path, upstreams={"up": {"endpoints": [upstream.url]}})))
        assert [one.level for one in found] == ([FINE, WARNING] if cause else [FINE])
        assert cause in found[-1].cause


def test_dates_that_are_none_and_no_upstreams(tmp_path: Path) -> None:
    assert upstreams.skew_of("yesterday") is None
    path = written(tmp_path, upstreams={}, routes=[{"name": "all", "respond": {"status": 204}}])
    assert [one.level for one in findings(upstreams, context_of(path))] == [FINE]
