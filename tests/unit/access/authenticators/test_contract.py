"""The contract of every authenticator: where it expects a consumer's key is where a client sends it, and what recognises
requests without a stored key does so for the right ones only."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, Protocol

import pytest

from relayd import registry
from relayd.access.authenticators import addresses, basic, bearer, header, jwt, key, mtls, none
from relayd.access.client_certificate import ClientCertificate
from relayd.access.client_request import ClientRequest
from relayd.access.credential import AI_KEY_FIELDS, Credential
from relayd.access.token_claims import Party
from relayd.config.access import AUTHENTICATORS
from relayd.schema import Secret
from relayd.wire.http1 import parse_head

SECRET = Secret("sk", "env X")


class Authenticator(Protocol):
    def credentials(self) -> Iterable[Credential]: ...

    def lines(self) -> list[str]: ...


MADE: dict[str, Authenticator] = {
    "addresses": addresses.Authenticator(addresses.Options(addresses=("10.0.0.0/8", "::1"))),
    "basic": basic.Authenticator(basic.Options(basic=basic.BasicKey(user="ann", password=SECRET))),
    "bearer": bearer.Authenticator(bearer.Options(bearer=SECRET)),
    "header": header.Authenticator(header.Options(header=header.HeaderKey(name="X-Team", value=SECRET))),
    "jwt": jwt.Authenticator(jwt.Options(jwt=jwt.Issuer(issuer="i", jwks=jwt.KeySetSource(url="https://i.example/")))),
    "key": key.Authenticator(key.Options(key=SECRET)),
    "mtls": mtls.Authenticator(mtls.Options(mtls=mtls.ClientNames(subject=("CN=worker",)))),
    "none": none.Authenticator(none.Options(none=True)),
}
# The fields in which it is looked for, a value with the key in it, the key, and the line that a client sends.
BEARER = (b"authorization", b"Bearer sk")
BASIC = base64.b64encode(b"ann:sk").decode()
PLACES: dict[str, tuple[list[tuple[bytes, bytes]], str, str]] = {
    "basic": ([(b"authorization", b"basic " + BASIC.encode())], "ann:sk", f"Authorization: Basic {BASIC}"),
    "bearer": ([BEARER], "sk", "Authorization: Bearer sk"),
    "header": ([(b"x-team", b" sk")], "sk", "X-Team: sk"),
    "key": ([BEARER, *((name.encode(), b"sk") for name in AI_KEY_FIELDS)], "sk", "Authorization: Bearer sk"),
}
# A request that it recognises, by its lines, address and certificate.
CERTIFICATE = ClientCertificate(frozenset({("CN", "worker")}), (), 4e9)
RECOGNISED: dict[str, tuple[list[str], str, ClientCertificate | None]] = {
    "addresses": ([], "10.1.2.3", None), "mtls": ([], "192.0.2.1", CERTIFICATE), "none": ([], "192.0.2.1", None),
}  # fmt: skip
RANKS = {"jwt": 1, "mtls": 2, "addresses": 3, "none": 4}
each_kind = pytest.mark.parametrize("kind", registry.kinds(AUTHENTICATORS))


def request(lines: Iterable[str], client: str, certificate: ClientCertificate | None) -> ClientRequest:
    head = parse_head("\r\n".join(["GET / HTTP/1.1", "Host: a", *lines, "", ""]).encode())
    return ClientRequest(head, (b"authorization", b"x-api-key"), client, lambda: certificate)


@each_kind
def test_the_key_is_read_where_clients_put_it(kind: str) -> None:
    places, expected, _ = PLACES.get(kind, ([], "", ""))
    found = list(MADE[kind].credentials())
    assert [one.field for one in found] == [field for field, _ in places]
    for one, (_, value) in zip(found, places, strict=True):
        assert one.read(value) == expected.encode() and one.secret.reveal() == expected


@each_kind
def test_a_client_sends_what_is_expected(kind: str) -> None:
    lines = MADE[kind].lines()
    assert lines == ([PLACES[kind][2]] if kind in PLACES else [])
    for line in lines:
        name, _, value = line.partition(": ")
        first = next(one for one in MADE[kind].credentials() if one.field == name.lower().encode())
        assert first.read(value.encode()) == PLACES[kind][1].encode()


@each_kind
def test_every_kind_either_stores_a_key_or_recognises_requests_in_a_known_order(kind: str) -> None:
    assert (kind in RANKS) is hasattr(MADE[kind], "party")
    assert getattr(MADE[kind], "rank", None) == RANKS.get(kind)
    assert bool(list(MADE[kind].credentials())) is (kind in PLACES)


@pytest.mark.parametrize("kind", RECOGNISED)
def test_a_request_is_recognised_and_one_of_somebody_else_is_not(kind: str) -> None:
    made: Any = MADE[kind]
    made.prepare()
    lines, client, certificate = RECOGNISED[kind]
    assert made.party(request(lines, client, certificate)) == Party()
    assert made.party(request(["Authorization: Bearer wrong"], "192.0.2.1", None)) is None
