"""Consumers: which named party a request's key belongs to.

1. Only digests of the keys are kept here. A presented key is hashed and looked up by its digest, so that ten thousand
   consumers cost what one costs; a digest tells nothing of a key that the time of the look-up could give away. What is
   found is compared once more in constant time. Nothing about a presented key is remembered.
2. What is malformed, repeated or claims to be two parties at once is no key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from relayd.access.credential import USUAL_KEY_FIELDS, Credential

Reader = Callable[[bytes], bytes | None]
Stored = tuple[bytes, str]  # a digest and its consumer


class Head(Protocol):
    """What is read of a request head."""

    def get_all(self, name_lower: bytes, /) -> Sequence[bytes]: ...


class Consumers:
    """All consumers of one plan; never changed."""

    __slots__ = ("_fields", "_places", "_shared", "names")

    def __init__(self, credentials: Iterable[tuple[str, Credential]] = ()) -> None:
        places: dict[tuple[bytes, Reader], dict[bytes, Stored]] = {}
        names: dict[str, None] = {}
        shared: dict[tuple[str, str], None] = {}
        for consumer, credential in credentials:
            names[consumer] = None
            digest = _digest(credential.secret.reveal().encode())
            place = places.setdefault((credential.field, credential.read), {})
            first = place.setdefault(digest, (digest, consumer))[1]
            if first != consumer:
                shared[first, consumer] = None
        self.names = tuple(names)
        self._places = tuple((field, read, stored) for (field, read), stored in places.items())
        self._fields = USUAL_KEY_FIELDS.union(field for field, _ in places)
        self._shared = list(shared)

    def key_fields(self) -> frozenset[bytes]:
        """Lower-case names of all fields in which a client's key may come."""
        return self._fields

    def identify(self, head: Head) -> str | None:
        """The consumer whose key the request carries, or None."""
        found: str | None = None
        for field, read, stored in self._places:
            values = head.get_all(field)
            if len(values) != 1:
                continue
            key = read(values[0])
            if key is None:
                continue
            digest = _digest(key)
            known = stored.get(digest)
            if known is None or not hmac.compare_digest(known[0], digest):
                continue
            if found is not None and found != known[1]:
                return None
            found = known[1]
        return found

    def shared(self) -> list[tuple[str, str]]:
        """Pairs of consumers that have the same key in the same place: the second could never be recognised."""
        return self._shared


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
