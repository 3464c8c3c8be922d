"""What the inspection of an endpoint means: one cause and one cure for each way to fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relayd.cli.diagnosis import FAILURE, FINE, UNKNOWN, WARNING, Finding, covers, diagnose, masked, worst
from relayd.schema import Secret
from relayd.upstream.spec import AuthSpec, EndpointSpec, TlsSpec, UpstreamSpec
from relayd.upstream.transport.inspection import Inspection
from tests.aids.certificates import Pair, made

END = EndpointSpec("https://api.test", "/v1", "api.test:443")
KEY = AuthSpec("bearer", "Authorization", Secret("sk-secret", "file /keys/one"))


def found(**more: Any) -> Inspection:
    given = {"addresses": ("192.0.2.1",), "target": "/v1/models", **more}
    return Inspection("api.test:443", "https://api.test/v1", "api.test", **given)


def finding(inspection: Inspection, auth: AuthSpec | None = None, tls: TlsSpec | None = None) -> Finding:
    (one,) = diagnose(UpstreamSpec("up", (END,), auth=auth, tls=tls or TlsSpec()), inspection)
    assert one.subject == "upstream up, https://api.test/v1"
    assert one.cure or one.level == FINE, "a finding without a cure"
    return one


@pytest.mark.parametrize(("more", "level", "cause", "cure"), [
    ({"status": 200}, FINE, "status 200", ""),
    ({"status": 404}, FINE, "status 404", ""),
    ({"status": 200, "lists_models": True, "models": ("a", "b")}, FINE, "2 models", ""),
    ({"status": 404, "lists_models": True}, WARNING, "no list of models", "base URL"),
    ({"status": 200, "lists_models": True, "models_fault": "is bad"}, WARNING, "is bad", "protocol"),
    ({"status": 401, "lists_models": True, "key": "file /k"}, FAILURE, "refuses the key of file /k", "replace the key"),
    ({"status": 401, "lists_models": True}, FAILURE, "requires a key", "auth"),
    ({"status": 401}, FINE, "status 401", ""),
    ({"status": 429}, WARNING, "refuses more requests", "credit"),
    ({"status": 301, "location": "https://b.test/\x1b"}, WARNING, "redirected to https://b.test/?", "final address"),
    ({"status": 502}, FAILURE, "answered 502", "log"),
    ({"code": "connect_failed", "fault": "refused"}, FAILURE, "no connection: refused", "firewall"),
    ({"code": "connect_failed", "addresses": (), "fault": "not known"}, FAILURE, "cannot be resolved", "getent hosts api.test"),
    ({"code": "connect_timeout", "fault": "5 s"}, FAILURE, "not established", "timeouts.connect"),
    ({"code": "first_byte_timeout", "fault": "5 s"}, FAILURE, "no response", "load"),
    ({"code": "upstream_closed", "fault": "empty"}, FAILURE, "upstream_closed: empty", "log"),
    ({"code": "tls_failed", "fault": "wrong version"}, FAILURE, "TLS fails: wrong version", "http://"),
])
def test_a_cause_and_a_cure(more: dict[str, Any], level: str, cause: str, cure: str) -> None:
    one = finding(found(**more))
    assert one.level == level and cause in one.cause and cure in one.cure


def test_a_key_of_the_upstream_that_the_plain_endpoint_refuses() -> None:
    assert finding(found(status=403), KEY).level == WARNING  # the health check was sent without the key
    assert finding(found(status=403, key="file /keys/one"), KEY).level == FAILURE


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return made(tmp_path_factory.mktemp("ca"), "Test authority", authority=True)


@pytest.mark.parametrize(("name", "begins_d", "ends_d", "signed", "cause", "cure"), [
    ("api.test", -30, -1, True, "expired on ", "renew"),
    ("api.test", 2, 30, True, "not valid before ", "clock"),
    ("other.test", -1, 30, True, "is for other.test, not for api.test", "tls.server_name"),
    ("api.test", -1, 30, True, "authority Test authority is not trusted", "tls.ca"),
    ("api.test", -1, 30, False, "self-signed", "tls.ca"),
])
def test_a_refused_certificate(
    authority: Pair, tmp_path: Path, name: str, begins_d: float, ends_d: float, signed: bool, cause: str, cure: str
) -> None:
    pair = made(tmp_path, "leaf", name, begins_d=begins_d, ends_d=ends_d, issuer=authority if signed else None)
    one = finding(found(code="tls_failed", fault="x", certificates=(Path(pair.cert).read_bytes(), b"damaged")))
    assert one.level == FAILURE and cause in one.cause and cure in one.cure


def test_a_certificate_that_expires_soon_is_a_warning_unless_it_is_not_verified(tmp_path: Path) -> None:
    pem = Path(made(tmp_path, "soon", "api.test", ends_d=3).cert).read_bytes()
    one = finding(found(status=200, certificates=(pem,)))
    assert one.level == WARNING and "expires in 2 days" in one.cause
    assert finding(found(status=200, certificates=(pem,)), tls=TlsSpec(verify=False)).level == FINE
    both = list(diagnose(UpstreamSpec("up", (END,)), found(status=500, certificates=(pem,))))
    assert [one.level for one in both] == [WARNING, FAILURE]


def test_the_server_name_of_the_upstream_is_the_name_that_counts(tmp_path: Path) -> None:
    pem = Path(made(tmp_path, "named", "named.test").cert).read_bytes()
    one = finding(found(code="tls_failed", certificates=(pem,)), tls=TlsSpec(server_name="named.test"))
    assert "self-signed" in one.cause


@pytest.mark.parametrize(("names", "host", "valid"), [
    (("a.test",), "A.test.", True), (("*.a.test",), "b.a.test", True), (("*.a.test",), "c.b.a.test", False),
    (("*.a.test",), "a.test", False), (("192.0.2.1",), "192.0.2.1", True), (("*.0.2.1",), "192.0.2.1", False),
    (("2001:db8::1",), "2001:db8::1", True),
])
def test_names_of_certificates(names: tuple[str, ...], host: str, valid: bool) -> None:
    assert covers(names, host) is valid


def test_the_worst_level_and_the_mask() -> None:
    assert worst([]) == FINE
    assert worst([Finding(UNKNOWN, "", ""), Finding(FAILURE, "", ""), Finding(FINE, "", "")]) == FAILURE
    assert masked("the key sk-secret and x", ["sk-secret", "x"]) == "the key *** and x"
