"""Key expected wherever clients of AI APIs put it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from relayd.access.credential import AI_KEY_FIELDS, Credential, bearer_key, plain_key
from relayd.schema import Secret, section, setting
from relayd.wire.field_syntax import bearer_key_fault


@section()
class Options:
    """A key of a client of an AI API."""

    key: Secret = setting(
        doc="Key expected wherever clients of AI APIs put it: `Authorization: Bearer ...`, x-api-key, api-key or "
            "x-goog-api-key.",
    )

    def check(self) -> Iterable[tuple[str, str]]:
        if fault := bearer_key_fault(self.key.reveal()):
            yield "key", fault


class Authenticator:
    """One consumer's key, in any of the usual fields."""

    def __init__(self, options: Options) -> None:
        self._secret = options.key

    def credentials(self, key_headers: Sequence[str] = AI_KEY_FIELDS) -> Iterable[Credential]:
        """The fields in which the key is expected: as a bearer token, and in any of `key_headers`."""
        yield Credential(b"authorization", bearer_key, self._secret)
        yield from (Credential(name.encode(), plain_key, self._secret) for name in key_headers)

    def lines(self) -> list[str]:
        """The header lines that a client sends."""
        return [f"Authorization: Bearer {self._secret.reveal()}"]
