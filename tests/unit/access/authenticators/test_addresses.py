"""Addresses: which clients need no key."""

from __future__ import annotations

import pytest

from relayd.access.authenticators.addresses import Authenticator, Options
from relayd.access.authenticators.none import Authenticator as Anybody
from relayd.access.authenticators.none import Options as AnybodyOptions
from relayd.access.client_request import ClientRequest
from relayd.wire.http1 import parse_head

OFFICE = Authenticator(Options(addresses=("10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::1", "unix")))
OFFICE.prepare()


def knows(client: str, *lines: str, office: Authenticator | Anybody = OFFICE) -> bool:
    head = parse_head("\r\n".join(["GET / HTTP/1.1", "Host: a", *lines, "", ""]).encode())
    return office.party(ClientRequest(head, (b"authorization", b"x-api-key"), client)) is not None


@pytest.mark.parametrize(("client", "expected"), [
    ("10.255.1.1", True), ("11.0.0.1", False), ("192.0.2.7", True), ("192.0.2.70", False), ("::ffff:10.0.0.1", True), ("::ffff:11.0.0.1", False),
    ("2001:db8:ffff::1", True), ("2001:db9::1", False), ("::1", True), ("::", False), ("unix", True), ("", False), ("10.0.0.1.", False), ("0x0a.0.0.1", False),
])
def test_the_address_of_the_client_decides(client: str, expected: bool) -> None:
    assert knows(client) is expected


@pytest.mark.parametrize("line", ["Authorization: Bearer wrong", "X-Api-Key: wrong", "Authorization: Basic d3Jvbmc6d3Jvbmc=", "Authorization: wrong"])
def test_a_request_with_a_key_is_not_of_the_office_nor_anonymous(line: str) -> None:
    assert not knows("10.0.0.1", line)
    assert not knows("10.0.0.1", line, office=Anybody(AnybodyOptions(none=True)))


@pytest.mark.parametrize("line", ["Authorization: Bearer none", "X-Api-Key: EMPTY", "Authorization:", "Authorization: Bearer", "X-Api-Key: sk-none "])
def test_a_placeholder_that_an_sdk_insists_on_is_no_key(line: str) -> None:
    assert knows("10.0.0.1", line) is ("sk-none" not in line)


@pytest.mark.parametrize(("networks", "key", "fault"), [
    (("10.0.0.1/8",), "addresses[0]", "the network is 10.0.0.0/8"), (("::1", "office"), "addresses[1]", "neither an address"), ((), "addresses", "is empty"),
    (("::1", "::1"), "addresses[1]", "written twice"),
])
def test_what_is_no_network_is_a_fault(networks: tuple[str, ...], key: str, fault: str) -> None:
    ((at, text),) = Options(addresses=networks).check()
    assert at == key and fault in text
