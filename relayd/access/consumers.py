"""Consumers: identification of a request's consumer by its key.

1. Only digests of the keys are stored. A presented key is hashed and looked up by its digest, so the cost does not grow
   with the number of consumers, and the timing of the lookup reveals nothing about a key. A match is compared again in
   constant time. Presented keys are not cached.
2. A key that is malformed or repeated is ignored, and a request with the keys of two consumers belongs to neither.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from relayd.access.credential import USUAL_KEY_FIELDS, Credential

Reader = Callable[[bytes], bytes | None]
Stored = tuple[bytes, str]  # digest, consumer


class HeaderFields(Protocol):
    """The part of a request head that authentication reads."""

    def get_all(self, name_lower: bytes, /) -> Sequence[bytes]: ...


class Consumers:
    """All consumers of one plan. Immutable."""

    __slots__ = ("_fields", "_lookups", "_shared", "names")

    def __init__(self, credentials: Iterable[tuple[str, Credential]] = ()) -> None:
        lookups: dict[tuple[bytes, Reader], dict[bytes, Stored]] = {}
        names: dict[str, None] = {}
        shared: dict[tuple[str, str], None] = {}
        for consumer, credential in credentials:
            names[consumer] = None
            digest = _digest(credential.secret.reveal().encode())
            digests = lookups.setdefault((credential.field, credential.read), {})
            first = digests.setdefault(digest, (digest, consumer))[1]
            if first != consumer:
                shared[first, consumer] = None
        self.names = tuple(names)
        self._lookups = tuple((field, read, stored) for (field, read), stored in lookups.items())
        self._fields = USUAL_KEY_FIELDS.union(field for field, _ in lookups)
        self._shared = list(shared)

    def key_fields(self) -> frozenset[bytes]:
        """The lower-case names of all fields that may carry a client's key."""
        return self._fields

    def identify(self, head: HeaderFields) -> str | None:
        """The consumer whose key the request carries, or None."""
        found: str | None = None
        for field, read, stored in self._lookups:
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
        """Pairs of consumers with the same key in the same field, of which the second could never be identified."""
        return self._shared


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
