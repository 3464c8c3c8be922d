"""The names of this service: which are looked up, and where they point."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.cli.diagnosis import FINE, UNKNOWN, WARNING
from relayd.cli.doctor.checks import domains
from tests.aids.certificates import made
from tests.unit.cli.doctor.cases import context_of, findings, written


def test_names_of_certificates_and_routes_without_wildcards_and_addresses(tmp_path: Path) -> None:
    pair = made(tmp_path, "own", "A.relayd.test", "*.relayd.test", "127.0.0.1")
    context = context_of(written(
        tmp_path, listeners={"web": {"address": "127.0.0.1:1", "tls": {"certificates": [{"cert": pair.cert, "key": pair.key}]}}},
        routes=[{"name": "a", "match": {"host": ["b.relayd.test", "localhost"]}, "upstream": "up"}],
    ))
    assert domains.names_of(context.config) == ["a.relayd.test", "b.relayd.test"]
    found = findings(domains, context)
    assert {one.subject for one in found} == {"domain a.relayd.test", "domain b.relayd.test"}
    assert all(one.level == WARNING and "does not resolve" in one.cause for one in found)


def test_a_name_of_this_machine_and_one_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert domains.judge("localhost").level == FINE
    assert domains.judge("192.0.2.1").level == UNKNOWN
    assert domains.is_local("127.0.0.1") and not domains.is_local("192.0.2.1")


@pytest.mark.parametrize(("name", "public"), [
    ("a.test", True), ("*.a.test", False), ("localhost", False), ("x.localhost", False), ("127.0.0.1", False), ("[::1]", False),
])
def test_names_that_clients_look_up(name: str, public: bool) -> None:
    assert domains.is_public(name) is public
