"""The contract of every authenticator: where it expects a consumer's key is where a client sends it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import pytest

from relayd import registry
from relayd.access.authenticators import bearer, header, key
from relayd.access.credential import AI_KEY_FIELDS, Credential
from relayd.config.route import AUTHENTICATORS
from relayd.schema import Secret

SECRET = Secret("sk", "env X")


class Authenticator(Protocol):
    def credentials(self) -> Iterable[Credential]: ...

    def lines(self) -> list[str]: ...


MADE: dict[str, Authenticator] = {
    "bearer": bearer.Authenticator(bearer.Options(bearer=SECRET)),
    "header": header.Authenticator(header.Options(header=header.HeaderKey(name="X-Team", value=SECRET))),
    "key": key.Authenticator(key.Options(key=SECRET)),
}
# The fields in which it is looked for, a value with the key in it, and the line that a client sends.
BEARER = (b"authorization", b"Bearer sk")
PLACES: dict[str, tuple[list[tuple[bytes, bytes]], str]] = {
    "bearer": ([BEARER], "Authorization: Bearer sk"),
    "header": ([(b"x-team", b" sk")], "X-Team: sk"),
    "key": ([BEARER, *((name.encode(), b"sk") for name in AI_KEY_FIELDS)], "Authorization: Bearer sk"),
}
each_kind = pytest.mark.parametrize("kind", registry.kinds(AUTHENTICATORS))


@each_kind
def test_the_key_is_read_where_clients_put_it(kind: str) -> None:
    places, _ = PLACES[kind]
    found = list(MADE[kind].credentials())
    assert [one.field for one in found] == [field for field, _ in places]
    for one, (_, value) in zip(found, places, strict=True):
        assert one.read(value) == b"sk" and one.secret.reveal() == "sk"


@each_kind
def test_a_client_sends_what_is_expected(kind: str) -> None:
    (line,) = MADE[kind].lines()
    assert line == PLACES[kind][1]
    name, _, value = line.partition(": ")
    first = next(one for one in MADE[kind].credentials() if one.field == name.lower().encode())
    assert first.read(value.encode()) == b"sk"
