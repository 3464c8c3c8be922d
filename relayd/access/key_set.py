"""A set of keys that verify tokens: a JWK Set (RFC 7517 5), or one shared secret.

1. A key is used only with algorithms of its own kind, so that no public key is ever taken for a secret (RFC 8725 2.1).
2. Keys of unknown kinds, for encryption, or with unusable members are left out (RFC 7517 5); a set of which nothing is
   left is a fault.
3. The work is bounded: the size of a set, the number of its keys, and the number of keys that are tried for one token.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, NamedTuple

from relayd import registry
from relayd.access.token import Token, TokenFault

MISSING = "needs the Python package PyJWT, which is not installed (apt install python3-jwt)"
MAX_BYTES = 256 * 1024
MAX_KEYS = 64
MAX_TRIES = 4
# The algorithms, with the kind of their keys: kty, and the curves of which one is needed.
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "RS256": ("RSA", ()), "RS384": ("RSA", ()), "RS512": ("RSA", ()),
    "PS256": ("RSA", ()), "PS384": ("RSA", ()), "PS512": ("RSA", ()),
    "ES256": ("EC", ("P-256",)), "ES384": ("EC", ("P-384",)), "ES512": ("EC", ("P-521",)),
    "EdDSA": ("OKP", ("Ed25519", "Ed448")),
    "HS256": ("oct", ()), "HS384": ("oct", ()), "HS512": ("oct", ()),
}  # fmt: skip


class KeySetFault(ValueError):
    """A document is no usable key set; the text is the reason. It contains no part of the document."""


class UnknownKey(TokenFault):
    """The set has no key of this kid. The issuer may have a newer set."""

    is_guess = False


class Key(NamedTuple):
    """One key. `alg` is the only algorithm that it may be used with, empty if every one of its kind is permitted. A key
    without a `kid` may be the one of any token."""

    kid: str
    alg: str
    kty: str
    crv: str
    value: object

    def fits(self, alg: str) -> bool:
        """True if a token with this algorithm can be signed by this key."""
        kty, curves = FAMILIES[alg]
        return kty == self.kty and (not curves or self.crv in curves) and self.alg in ("", alg)


class KeySet:
    """Immutable."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Collection[Key]) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def verify(self, token: Token) -> None:
        """Verify the signature. The token's `alg` must be one of FAMILIES. Raises UnknownKey or TokenFault."""
        keys = [key for key in self._keys if not token.kid or key.kid in ("", token.kid)]
        if not keys:
            raise UnknownKey("no known key has the kid of the token")
        fitting = [key for key in keys if key.fits(token.alg)]
        if not fitting:
            raise TokenFault("the token's algorithm is not that of its key")
        if len(fitting) > MAX_TRIES:
            raise TokenFault("the token has no kid, and too many keys could be meant")
        is_signature = registry.load("relayd.access", "token_signature").is_signature
        if not any(is_signature(token.alg, key.value, token.signed, token.signature) for key in fitting):
            is_named = not token.kid or any(key.kid == token.kid for key in fitting)
            raise (TokenFault if is_named else UnknownKey)("the signature of the token is wrong")


def can_verify() -> bool:
    """Whether the library that verifies signatures is installed."""
    return registry.is_installed("jwt")


def parse_key_set(data: bytes) -> KeySet:
    """The usable keys of a JWK Set. Raises KeySetFault. Takes some milliseconds for a set of maximum size."""
    if len(data) > MAX_BYTES:
        raise KeySetFault(f"is larger than {MAX_BYTES >> 10} KiB")
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise KeySetFault("is not JSON") from None
    jwks = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(jwks, list):
        raise KeySetFault("is no JWK Set: an object with a list `keys` (RFC 7517 5)")
    if len(jwks) > MAX_KEYS:
        raise KeySetFault(f"has more than {MAX_KEYS} keys")
    if not can_verify():
        raise KeySetFault(MISSING)
    keys, reasons = [], []
    for index, jwk in enumerate(jwks):
        reason = _unsuited(jwk)
        if not reason:
            try:
                keys.append(_key(jwk))
            except ValueError as fault:
                reason = str(fault)
        if reason:
            reasons.append(f"keys[{index}] {reason}")
    if not keys:
        raise KeySetFault("has no usable key" + (f": {'; '.join(reasons[:3])}" if reasons else ""))
    return KeySet(keys)


def secret_set(secret: bytes) -> KeySet:
    """The set of one shared secret. Raises KeySetFault."""
    signatures = registry.load("relayd.access", "token_signature")
    try:
        return KeySet([Key("", "", "oct", "", signatures.secret_key(secret))])
    except signatures.KeyFault as fault:
        raise KeySetFault(str(fault)) from None


def _unsuited(jwk: Any) -> str:
    """Why a member of `keys` verifies no token, without its key being looked at; empty if it may."""
    if not isinstance(jwk, dict):
        return "is no object"
    alg, operations = jwk.get("alg", ""), jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return "is not for signatures"
    if alg not in ("", *FAMILIES) or not isinstance(jwk.get("kid", ""), str):
        return "has an unknown alg, or a kid that is no text"
    return ""


def _key(jwk: dict[str, Any]) -> Key:
    """Raises ValueError."""
    signatures = registry.load("relayd.access", "token_signature")
    try:
        value = signatures.public_key(jwk)
    except signatures.KeyFault as fault:
        raise ValueError(str(fault)) from None
    return Key(jwk.get("kid", ""), jwk.get("alg", ""), jwk["kty"], jwk.get("crv", ""), value)
