"""A credential: a key and the field in which a client sends it, as an authenticator makes it from its Options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from relayd.schema import Secret

# Fields in which clients of AI APIs send keys. None of them is forwarded unless the route passes it through.
AI_KEY_FIELDS = ("x-api-key", "api-key", "x-goog-api-key")
USUAL_KEY_FIELDS = frozenset({b"authorization", b"proxy-authorization", *(name.encode() for name in AI_KEY_FIELDS)})


class Credential(NamedTuple):
    """One field in which one key is expected. `field` is in lower case; `read` extracts the key from its value."""

    field: bytes
    read: Callable[[bytes], bytes | None]
    secret: Secret


class Authenticator(Protocol):
    """Created from the Options of its kind."""

    def credentials(self, key_headers: Sequence[str] = AI_KEY_FIELDS) -> Iterable[Credential]:
        """Every field in which this key is expected."""

    def lines(self) -> list[str]:
        """The header lines that a client with this key sends."""


def bearer_key(value: bytes) -> bytes | None:
    """The key of an Authorization field's Bearer credentials (RFC 6750 2.1, any case of the scheme), or None."""
    scheme, _, key = value.strip(b" \t").partition(b" ")
    key = key.lstrip(b" ")
    if scheme.lower() != b"bearer" or not key or any(byte <= 0x20 or byte == 0x7F for byte in key):
        return None
    return key


def plain_key(value: bytes) -> bytes | None:
    """The key in a field that contains only a key, or None."""
    return value.strip(b" \t") or None
