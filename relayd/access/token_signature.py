"""Verifies the signatures of tokens with the library of python3-jwt, whose only importer this module is.

Loaded through the registry, and only if a consumer has `jwt`: the library costs time and memory. relayd parses tokens
and key sets by itself (token.py, key_set.py) and uses the library for keys and signatures, whose interface is the
same in its versions 2.6 to 2.15; the checks of claims and of critical headers differ between them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import jwt

_ALGORITHMS = jwt.algorithms.get_default_algorithms()
# The public ones (RFC 7518 6, RFC 8037 2).
_PARAMETERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_KINDS = {
    "RSA": jwt.algorithms.RSAAlgorithm, "EC": jwt.algorithms.ECAlgorithm, "OKP": jwt.algorithms.OKPAlgorithm,
}
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192  # RFC 7518 3.3; a larger key holds the loop for too long
MAX_RSA_EXPONENT = 1 << 32
MIN_SECRET_BYTES = 32
MAX_MEMBER_CHARS = 2048


class KeyFault(Exception):
    """A key cannot be used; the text is the reason."""


def public_key(jwk: Mapping[str, Any]) -> object:
    """The key in a JWK of kty RSA, EC, OKP or oct. Private parameters are ignored. Raises KeyFault."""
    kty = jwk.get("kty")
    if kty == "oct":
        return secret_key(_octets(jwk.get("k")))
    if not isinstance(kty, str) or kty not in _PARAMETERS:
        raise KeyFault("its kty is not supported")
    names = _PARAMETERS[kty]
    if not all(isinstance(jwk.get(name), str) and len(jwk[name]) <= MAX_MEMBER_CHARS for name in names):
        raise KeyFault(f"needs the members {', '.join(names)}")
    text = json.dumps({"kty": kty, **{name: jwk[name] for name in names}})
    kind = _KINDS[kty]
    try:
        key = kind.from_jwk(text)
        bits = key.key_size if kty == "RSA" else 0
        exponent = key.public_numbers().e if kty == "RSA" else 0
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
        raise KeyFault("its members are no key") from None
    if bits and not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        raise KeyFault(f"has {bits} bits; usable are {MIN_RSA_BITS} to {MAX_RSA_BITS}")
    if exponent >= MAX_RSA_EXPONENT:
        raise KeyFault("has too large an exponent")
    return key


def secret_key(secret: bytes) -> object:
    """The key of the HMAC algorithms. Raises KeyFault."""
    if len(secret) < MIN_SECRET_BYTES:
        raise KeyFault(f"has fewer than {MIN_SECRET_BYTES} bytes (RFC 7518 3.2)")
    return secret


def is_signature(alg: str, key: object, signed: bytes, signature: bytes) -> bool:
    """True if this is a signature of `signed`. `key` must be of the kind that `alg` uses (key_set.FAMILIES)."""
    try:
        return bool(_ALGORITHMS[alg].verify(signed, key, signature))
    except (jwt.PyJWTError, ValueError):
        return False


def _octets(text: Any) -> bytes:
    if not isinstance(text, str):
        raise KeyFault("needs the member k")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise KeyFault("its k is not base64url") from None
