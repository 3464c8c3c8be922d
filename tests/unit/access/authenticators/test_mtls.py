"""Client certificates: which of them are the consumer's."""

from __future__ import annotations

import pytest

from relayd import clock
from relayd.access.authenticators.mtls import Authenticator, ClientNames, Options
from relayd.access.client_certificate import certificate_of
from relayd.access.client_request import ClientRequest
from relayd.wire.http1 import parse_head

HEAD = parse_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
# As ssl.SSLSocket.getpeercert returns it.
PEER = {
    "subject": ((("countryName", "DE"),), (("organizationName", "Example"),), (("organizationalUnitName", "A"), ("organizationalUnitName", "B")),
                (("commonName", "worker"),)),
    "subjectAltName": (("DNS", "One.Workers.example.org"), ("URI", "spiffe://example.org/ns/a"), ("email", "a@example.org"), ("IP Address", "10.0.0.1"),
                       ("IP Address", "2001:DB8:0:0:0:0:0:1\n"), ("DirName", ((("commonName", "x"),),)), ("DNS", "evil.org\x00.workers.example.org")),
    "notAfter": "Jan  1 00:00:00 2040 GMT",
}  # fmt: skip


def knows(subject: tuple[str, ...] = (), san: tuple[str, ...] = ()) -> bool:
    made = Authenticator(Options(mtls=ClientNames(subject=subject, san=san)))
    return made.party(ClientRequest(HEAD, certificate=lambda: certificate_of(PEER))) is not None


@pytest.mark.parametrize(("subject", "san", "expected"), [
    (("CN=worker",), (), True), (("cn=worker", "O=Example", "OU=B"), (), True), (("CN=Worker",), (), False), (("CN=work*",), (), False),
    (("CN=worker", "O=Other"), (), False), (("O=worker",), (), False), ((), ("DNS:one.workers.example.org",), True), ((), ("DNS:*.WORKERS.example.org",), True),
    ((), ("DNS:*.example.com", "URI:spiffe://example.org/*"), True), ((), ("URI:SPIFFE://example.org/*",), False), ((), ("DNS:10.0.0.1",), False),
    ((), ("IP:10.0.0.1",), True), ((), ("IP:2001:db8::1",), True), ((), ("email:a@example.org",), True), ((), ("DNS:evil*",), False),
    (("CN=worker",), ("DNS:two.workers.example.org",), False), (("CN=other",), ("DNS:one.workers.example.org",), False),
])
def test_all_attributes_and_one_alternative_name_must_be_in_the_certificate(subject: tuple[str, ...], san: tuple[str, ...], expected: bool) -> None:
    assert knows(subject, san) is expected


def test_without_a_certificate_nobody_is_recognised() -> None:
    made = Authenticator(Options(mtls=ClientNames(subject=("CN=worker",))))
    assert made.party(ClientRequest(HEAD)) is None
    assert certificate_of(None) is None and certificate_of({}) is None


def test_a_connection_does_not_outlive_its_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "wall", lambda: 2_208_988_799.0)
    assert knows(("CN=worker",))
    monkeypatch.setattr(clock, "wall", lambda: 2_208_988_800.0)
    assert not knows(("CN=worker",))


@pytest.mark.parametrize(("names", "key", "fault"), [
    (ClientNames(), "", "needs subject or san"), (ClientNames(subject=("worker",)), "subject[0]", "CN=value"), (ClientNames(subject=("X=worker",)), "subject[0]", "unknown attribute"),
    (ClientNames(san=("worker.example.org",)), "san[0]", "needs one of DNS:"), (ClientNames(san=("DNS:a", "DNS:*")), "san[1]", "matches every name"), (ClientNames(san=("DNS:",)), "san[0]", "needs one of"),
])
def test_names_that_no_certificate_can_have_are_faults(names: ClientNames, key: str, fault: str) -> None:
    ((at, text),) = names.check()
    assert at == key and fault in text
