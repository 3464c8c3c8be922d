"""A credential: a key and the field in which a client sends it, as an authenticator makes it from its Options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from relayd.lazy_regex import lazy_regex
from relayd.schema import Secret
from relayd.wire.key_filter import PLACEHOLDERS

# Fields in which clients of AI APIs send keys. None of them is forwarded unless the route passes it through.
AI_KEY_FIELDS = ("x-api-key", "api-key", "x-goog-api-key")
_PLACEHOLDERS = frozenset(text.encode() for text in PLACEHOLDERS)
_BEARER = lazy_regex(rb"[ \t]*(?i:bearer) +([^\x00-\x20\x7f]+)[ \t]*")
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
    found = _BEARER.fullmatch(value)
    return None if found is None else found[1]


def plain_key(value: bytes) -> bytes | None:
    """The key in a field that contains only a key, or None."""
    return value.strip(b" \t") or None


def presents_key(values: Iterable[bytes]) -> bool:
    """True if one of these values of key fields contains a key. SDKs insist on some key; placeholders are none."""
    return any(_is_key(value) for value in values)


def _is_key(value: bytes) -> bool:
    text = value.strip(b" \t")
    scheme, _, rest = text.partition(b" ")
    if scheme.lower() in (b"bearer", b"basic"):
        text = rest.strip(b" ")
    return bool(text) and text.lower() not in _PLACEHOLDERS
