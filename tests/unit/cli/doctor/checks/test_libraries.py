"""Versions of libraries: too old ones, faults that concern the configuration only, missing features."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.cli.diagnosis import FAILURE, FINE, UNKNOWN, WARNING
from relayd.cli.doctor.checks import libraries
from relayd.config.load import load
from relayd.daemon.checks import versions
from tests.unit.cli.doctor.cases import context_of, findings, written


def test_this_set_of_libraries(tmp_path: Path) -> None:
    found = findings(libraries, context_of(written(tmp_path)))
    assert found[-1].level == FINE and f"libcurl {versions()['libcurl']}" in found[-1].cause
    assert all(one.level == FINE for one in found)


@pytest.mark.parametrize(("version", "count"), [("7.88.1", 1), ("8.5.0", 0), ("8.12.1", 1), ("8.16.0", 1), ("8.23.0", 0)])
def test_a_known_fault_of_http2_matters_where_http2_is_spoken(tmp_path: Path, version: str, count: int) -> None:
    found = {**versions(), "libcurl": version}
    plain = load(written(tmp_path)).config
    assert not list(libraries.known_faults(found, plain))
    http2 = load(written(tmp_path, upstreams={"up": {"endpoints": ["https://127.0.0.1:1"], "http": "2"}})).config
    told = list(libraries.known_faults(found, http2))
    assert [one.level for one in told] == [WARNING] * count and all("http" in one.cure for one in told)
    assert [one.level for one in libraries.known_faults(found, None)] == [UNKNOWN] * count


def test_features_that_a_build_lacks(tmp_path: Path) -> None:
    http2 = load(written(tmp_path, upstreams={"up": {"endpoints": ["https://127.0.0.1:1"], "http": "2"}})).config
    assert [one.level for one in libraries.missing_features(frozenset(), http2)] == [FAILURE, WARNING, FAILURE]
    assert not list(libraries.missing_features(frozenset({"SSL", "AsynchDNS"}), None))
