"""The key of one consumer, and where it is expected."""

from __future__ import annotations

from relayd.access.authenticators.key import Authenticator, Options
from relayd.schema import Secret

MADE = Authenticator(Options(key=Secret("sk", "env X")))


def test_the_key_is_read_from_the_fields_that_clients_use() -> None:
    lookups = [(b"authorization", b"Bearer sk", b"sk"), (b"x-api-key", b"sk", b"sk"),
        (b"api-key", b"sk", b"sk"), (b"x-goog-api-key", b"sk", b"sk")]
    found = list(MADE.credentials())
    assert [(one.field, one.read(value)) for one, (_, value, _) in zip(found, lookups, strict=True)] == [
        (field, key) for field, _, key in lookups]
    assert all(one.secret.reveal() == "sk" for one in found)


def test_a_client_sends_what_is_expected() -> None:
    (line,) = MADE.lines()
    assert [line] == ["Authorization: Bearer sk"]
    name, _, value = line.partition(": ")
    (first,) = [one for one in MADE.credentials() if one.field == name.lower().encode()][:1]
    assert first.read(value.encode()) == b"sk"
