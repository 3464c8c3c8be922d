"""A JSON Web Token in compact form (RFC 7515 7.1, RFC 7519): parsed strictly, nothing in it believed.

1. Only the pinned algorithm, the key that `kid` names and the claims that are checked have a meaning. Keys, URLs and
   certificates in the header of a token (`jwk`, `jku`, `x5c`, `x5u`) are never used (RFC 8725 3.10).
2. A header with `crit` or `b64` is refused: relayd implements no extension (RFC 7515 4.1.11, RFC 7797).
3. Base64url has one form per value, without padding, and names of members are unique, so that no other parser can read
   the same token differently.
4. No fault contains a byte of the token.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex

MAX_BYTES = 16 * 1024
MAX_KID_CHARS = 512
_SEGMENT = lazy_regex(rb"[A-Za-z0-9_\-]*")


class TokenFault(Exception):
    """A token cannot be accepted; the text is the reason, for the log. `is_guess` is false for a token that may be
    genuine: such failures are not counted against the address of the client."""

    is_guess = True


class OtherIssuer(TokenFault):
    """A token belongs to another entry, or to none."""


class Untimely(TokenFault):
    """A token has expired, or is not valid yet."""

    is_guess = False


@dataclass(frozen=True, slots=True)
class Token:
    """A parsed token whose signature is not verified. `kid` is empty if it names no key. `signed` are the bytes that
    `signature` signs."""

    alg: str
    kid: str
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


def is_compact(text: bytes) -> bool:
    """True if this has the outer form of a token. Other keys rarely contain two dots."""
    return text.count(b".") == 2


def parse_token(text: bytes) -> Token:
    """Parse a token. Raises TokenFault."""
    if len(text) > MAX_BYTES:
        raise TokenFault(f"the token is larger than {MAX_BYTES >> 10} KiB")
    parts = text.split(b".")
    if len(parts) != 3:
        raise TokenFault("the token does not have the three parts of a signed token")
    header, claims = _object(parts[0], "header"), _object(parts[1], "payload")
    alg, kid = header.get("alg"), header.get("kid", "")
    if not isinstance(alg, str):
        raise TokenFault("the token names no algorithm")
    if "crit" in header or "b64" in header:
        raise TokenFault("the token requires an extension")
    if not isinstance(kid, str) or len(kid) > MAX_KID_CHARS:
        raise TokenFault("the kid of the token is no text, or too long")
    return Token(alg, kid, claims, text[: len(parts[0]) + 1 + len(parts[1])], _decoded(parts[2], "signature"))


def _decoded(segment: bytes, part: str) -> bytes:
    """The bytes of one segment; only the canonical form without padding is accepted (RFC 7515 2)."""
    if _SEGMENT.fullmatch(segment) is None:
        raise TokenFault(f"the {part} of the token is not base64url")
    try:
        data = base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    except binascii.Error:
        raise TokenFault(f"the {part} of the token is not base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=") != segment:
        raise TokenFault(f"the {part} of the token is not base64url")
    return data


def _object(segment: bytes, part: str) -> dict[str, Any]:
    try:
        found = json.loads(
            _decoded(segment, part).decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        raise TokenFault(f"the {part} of the token is not a JSON object with unique names") from None
    if not isinstance(found, dict):
        raise TokenFault(f"the {part} of the token is not a JSON object with unique names")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _no_constant(name: str) -> None:
    raise ValueError  # NaN and Infinity are not JSON
