"""The key store as one plan sees it: the identity of each key."""

from __future__ import annotations

from collections.abc import Callable

from relayd.access.identity import Identity
from relayd.access.issued_key import is_mistyped
from relayd.access.key_record import KeyRecord
from relayd.access.key_store import KeyStore


class KeyRing:
    """Owned by the consumers of one plan. Identities are made on first use, so that a plan costs the same for any
    number of keys."""

    __slots__ = ("_identities", "_identity_of", "store")

    def __init__(self, store: KeyStore, identity_of: Callable[[KeyRecord], Identity | None]) -> None:
        """`identity_of` returns None for a key that does not fit the plan: its group does not exist, or its name is
        that of a consumer."""
        self.store, self._identity_of = store, identity_of
        self._identities: dict[str, tuple[KeyRecord, Identity | None]] = {}

    def find(self, key: bytes, digest: bytes) -> tuple[bytes, Identity] | None:
        """The stored digest and the identity of a presented key, or None. Raises KeysBehind."""
        return None if is_mistyped(key) else self.find_digest(digest)

    def find_digest(self, digest: bytes) -> tuple[bytes, Identity] | None:
        """The stored digest and the identity of the key with this digest, or None. Raises KeysBehind."""
        found = self.store.find(digest)
        if found is None:
            return None
        stored, record = found
        known = self._identities.get(record.id)
        if known is None or known[0] is not record:
            known = self._identities[record.id] = record, self._identity_of(record)
        return None if known[1] is None else (stored, known[1])
