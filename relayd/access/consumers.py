"""Consumers: which named party a request's key belongs to.

1. Only digests of the keys are kept here, and a presented key is hashed before anything is compared with it.
2. Every digest of a field is compared, in constant time, whether or not one has already fitted: the time says nothing
   about the keys. Nothing about a presented key is remembered.
3. What is malformed, repeated or claims to be two parties at once is no key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from relayd.schema import Secret

# Fields in which clients of AI APIs send keys; none of them goes upstream unless the route passes it through.
AI_KEY_FIELDS = ("x-api-key", "api-key", "x-goog-api-key")
USUAL_KEY_FIELDS = frozenset({b"authorization", b"proxy-authorization", *(name.encode() for name in AI_KEY_FIELDS)})


class Head(Protocol):
    """What is read of a request head."""

    def get_all(self, name_lower: bytes, /) -> Sequence[bytes]: ...


class ConsumerKey(NamedTuple):
    """One key of one consumer. `kind` is bearer or header; `field` the name of the field, unused for bearer."""

    consumer: str
    kind: str
    field: str
    secret: Secret


class Consumers:
    """All consumers of one plan; never changed."""

    __slots__ = ("_fields", "_keys", "names")

    def __init__(self, keys: Iterable[ConsumerKey | tuple[str, str, str, Secret]] = ()) -> None:
        stored: dict[tuple[bytes, bool], list[tuple[bytes, str]]] = {}
        names: dict[str, None] = {}
        for consumer, kind, field, secret in keys:
            if kind not in ("bearer", "header"):
                raise ValueError(f"unknown kind of key {kind!r}")
            bearer = kind == "bearer"
            name = b"authorization" if bearer else field.lower().encode()
            names[consumer] = None
            stored.setdefault((name, bearer), []).append((_digest(secret.reveal().encode()), consumer))
        self.names = tuple(names)
        self._keys = tuple((name, bearer, tuple(entries)) for (name, bearer), entries in stored.items())
        self._fields = USUAL_KEY_FIELDS.union(name for name, _ in stored)

    def key_fields(self) -> frozenset[bytes]:
        """Lower-case names of all fields in which a client's key may come."""
        return self._fields

    def identify(self, head: Head) -> str | None:
        """The consumer whose key the request carries, or None."""
        found: str | None = None
        for name, bearer, entries in self._keys:
            values = head.get_all(name)
            if len(values) != 1:
                continue
            key = bearer_key(values[0]) if bearer else values[0].strip(b" \t")
            if not key:
                continue
            digest = _digest(key)
            owner: str | None = None
            for stored, consumer in entries:
                if hmac.compare_digest(stored, digest) and owner is None:
                    owner = consumer
            if owner is not None:
                if found is not None and found != owner:
                    return None
                found = owner
        return found

    def shared(self) -> list[tuple[str, str]]:
        """Pairs of consumers that have the same key in the same field: the second could never be recognised."""
        pairs: list[tuple[str, str]] = []
        for _, _, entries in self._keys:
            first: dict[bytes, str] = {}
            pairs.extend(
                (first[digest], consumer)
                for digest, consumer in entries
                if first.setdefault(digest, consumer) != consumer
            )
        return pairs


def bearer_key(value: bytes) -> bytes | None:
    """The key of an Authorization field's Bearer credentials (RFC 6750 2.1, any case of the scheme), or None."""
    scheme, _, key = value.strip(b" \t").partition(b" ")
    key = key.lstrip(b" ")
    if scheme.lower() != b"bearer" or not key or any(byte <= 0x20 or byte == 0x7F for byte in key):
        return None
    return key


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
