"""Consumers: identification of a request's consumer, by its key, or by what its other authenticators recognise.

1. Only digests of the keys are stored. A presented key is hashed and looked up by its digest, so the cost does not grow
   with the number of consumers, and the timing of the lookup reveals nothing about a key. A match is compared again in
   constant time. Presented keys are not cached.
2. A key that is malformed or repeated is ignored, and a request with the keys of two consumers belongs to neither.
3. Without a known key, the other authenticators are asked in the order of their rank, within a rank in the order of the
   configuration; the first decides that recognises the request as a consumer whom the route allows. If there is none,
   a token or a certificate still names the consumer (403); an address does not, because a key may be missing (401).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from relayd.access.client_request import ClientRequest
from relayd.access.credential import USUAL_KEY_FIELDS, Credential, bearer_key, plain_key
from relayd.access.identity import Identity
from relayd.access.key_ring import KeyRing
from relayd.access.key_source import KeySource
from relayd.access.token_claims import Party

WITHOUT_PROOF = 3  # from this rank on, a client has presented nothing
MAX_PARTIES = 4096  # identities of one entry that are kept
Reader = Callable[[bytes], bytes | None]
Stored = tuple[bytes, Identity]  # digest, consumer


class Recogniser(Protocol):
    """An authenticator without a stored key. `rank` is its place in the order: tokens 1, certificates 2, addresses 3,
    anybody 4. It may have `fields()`, further fields that carry a key, in lower case, and `key_source`."""

    rank: int

    def party(self, request: ClientRequest) -> Party | None:
        """The recognised consumer; None if the request is of somebody else."""


class Recognised:
    """A recogniser of one entry of `consumers`. `identity_of` makes the identity of a party; None refuses it."""

    __slots__ = ("_identities", "_identity_of", "name", "recogniser")

    def __init__(
        self, name: str, recogniser: Recogniser, identity_of: Callable[[Party], Identity | None]
    ) -> None:
        self.name, self.recogniser, self._identity_of = name, recogniser, identity_of
        self._identities: dict[Party, Identity] = {}

    def identify(self, request: ClientRequest) -> Identity | None:
        """The identity of a request that the authenticator recognises."""
        party = self.recogniser.party(request)
        if party is None:
            return None
        identity = self._identities.get(party)
        if identity is None:
            identity = self._identity_of(party)
            if identity is None:
                request.refusal = request.refusal or f"group {party.group} is not in the configuration"
                return None
            while len(self._identities) >= MAX_PARTIES:
                del self._identities[next(iter(self._identities))]
            self._identities[party] = identity
        return identity


class Consumers:
    """All consumers of one plan. Immutable, except for the keys of issuers, which change while the plan is in force."""

    __slots__ = ("_challenges", "_fields", "_lookups", "_recognised", "_shared", "keys", "names", "ordered_fields")

    def __init__(
        self, credentials: Iterable[tuple[Identity, Credential]] = (), recognised: Iterable[Recognised] = (),
        names: Iterable[str] = (), challenges: Iterable[tuple[str, str]] = (), keys: KeyRing | None = None,
        key_fields: Iterable[str] = (),
    ) -> None:
        """`names` are those of all entries. `challenges` are pairs of an entry or group and the value of
        WWW-Authenticate that makes a browser ask for its key. `keys` are those of the key store, None without one;
        they are expected as a bearer token and in any of `key_fields`."""
        lookups: dict[tuple[bytes, Reader], dict[bytes, Stored]] = {}
        known: dict[str, None] = dict.fromkeys(names)
        shared: dict[tuple[str, str], None] = {}
        for identity, credential in credentials:
            known[identity.name] = None
            digest = key_digest(credential.secret.reveal().encode())
            digests = lookups.setdefault((credential.field, credential.read), {})
            first = digests.setdefault(digest, (digest, identity))[1]
            if first.name != identity.name:
                shared[first.name, identity.name] = None
        self.names = tuple(known)
        issued: set[tuple[bytes, Reader]] = set()
        if keys is not None:
            issued = {(b"authorization", bearer_key), *((name.encode(), plain_key) for name in key_fields)}
        for field_and_reader in sorted(issued, key=lambda one: one[0]):
            lookups.setdefault(field_and_reader, {})
        self.keys = keys
        self._lookups = tuple(
            (field, read, stored, keys if (field, read) in issued else None)
            for (field, read), stored in lookups.items()
        )
        self._recognised = tuple(sorted(recognised, key=lambda one: one.recogniser.rank))
        fields = [field for one in self._recognised for field in getattr(one.recogniser, "fields", tuple)()]
        self._fields = USUAL_KEY_FIELDS.union(fields, (field for field, _ in lookups))
        self.ordered_fields = tuple(sorted(self._fields))
        self._shared = list(shared)
        self._challenges = tuple(challenges)

    def key_fields(self) -> frozenset[bytes]:
        """The lower-case names of all fields that may carry a client's key."""
        return self._fields

    def identify(
        self, request: ClientRequest, may_enter: Callable[[Identity], bool] = lambda identity: True
    ) -> Identity | None:
        """The consumer of the request, or None. `may_enter` is true for identities that the route allows. Raises
        KeysBehind."""
        found: Identity | None = None
        head = request.head
        names = head.names
        for field, read, stored, issued in self._lookups:
            if names is not None and field not in names:
                continue
            values = head.get_all(field)
            if len(values) != 1:
                continue
            key = read(values[0])
            if key is None:
                continue
            digest = key_digest(key)
            known = stored.get(digest)
            if known is None and issued is not None:
                known = issued.find(key, digest)
            if known is None or not hmac.compare_digest(known[0], digest):
                continue
            if found is not None and found.name != known[1].name:
                return None
            found = known[1]
        if found is not None or not self._recognised:
            return found
        first: Identity | None = None
        for one in self._recognised:
            found = one.identify(request)
            if found is not None:
                if may_enter(found):
                    return found
                if first is None and one.recogniser.rank < WITHOUT_PROOF:
                    first = found
        return first

    def identify_digest(self, digest: bytes) -> Identity | None:
        """The consumer whose key has this digest (`key_digest`), in whatever field clients send it; None if there is
        none, or more than one. Raises KeysBehind."""
        found: Identity | None = None
        for _field, _read, stored, issued in self._lookups:
            known = stored.get(digest)
            if known is None and issued is not None:
                known = issued.find_digest(digest)
            if known is None or not hmac.compare_digest(known[0], digest):
                continue
            if found is not None and found.name != known[1].name:
                return None
            found = known[1]
        return found

    def key_sources(self) -> Iterator[tuple[str, KeySource]]:
        """The documents with keys of issuers, which the daemon reads, with the names of their entries."""
        for one in self._recognised:
            source: KeySource | None = getattr(one.recogniser, "key_source", None)
            if source is not None:
                yield one.name, source

    def challenges(self, names: Iterable[str]) -> list[str]:
        """The values of WWW-Authenticate for a request that none of these consumers and groups has sent."""
        wanted = set(names)
        return ["Bearer", *dict.fromkeys(text for name, text in self._challenges if name in wanted)]

    @property
    def is_used(self) -> bool:
        """True if there are consumers, or keys in the key store."""
        return bool(self.names) or (self.keys is not None and not self.keys.store.is_empty)

    def shared(self) -> list[tuple[str, str]]:
        """Pairs of consumers with the same key in the same field, of which the second could never be identified."""
        return self._shared


def key_digest(key: bytes) -> bytes:
    """The form in which keys are stored and compared."""
    return hashlib.sha256(key).digest()
