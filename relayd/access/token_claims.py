"""The claims of a token: who issued it, for whom, for how long (RFC 7519 4.1), and which consumer it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.access.token import OtherIssuer, TokenFault, Untimely
from relayd.dataclass import dataclass

MAX_NAME_CHARS = 128
MAX_MODELS = 100
LATEST_S = 253_402_300_800.0  # the year 10000, in Unix seconds


@dataclass(frozen=True, slots=True)
class Party:
    """The identity that an authenticator has recognised under its entry of `consumers`. `member` is empty if
    that is the entry itself. `group` and `models` are None if the entry's own apply."""

    member: str = ""
    group: str | None = None
    models: tuple[str, ...] | None = None


ENTRY = Party()


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """The requirements for claims. Without `audience`, a token that names an audience is meant for another service.

    `consumer`, `group` and `models` are names of claims; empty if no claim is used.
    """

    issuer: str
    audience: str | None
    leeway_s: float
    consumer: str = ""
    group: str = ""
    models: str = ""

    def expiry(self, claims: Mapping[str, Any], wall_s: float) -> float:
        """Check issuer, audience and times at `wall_s`, in Unix seconds. Returns the time from which on the token is
        refused, with the leeway. Raises TokenFault."""
        if claims.get("iss") != self.issuer:
            raise OtherIssuer("the token has another issuer")
        _check_audience(claims.get("aud"), self.audience)
        expires_s = _time(claims, "exp")
        if expires_s is None:
            raise TokenFault("the token has no exp")
        if wall_s >= expires_s + self.leeway_s:
            raise Untimely("the token has expired")
        for name in ("nbf", "iat"):
            begins_s = _time(claims, name)
            if begins_s is not None and wall_s < begins_s - self.leeway_s:
                raise Untimely(f"the token is not valid yet ({name})")
        return expires_s + self.leeway_s

    def party(self, claims: Mapping[str, Any]) -> Party:
        """The consumer that the claims name. Raises TokenFault if a claim that chooses is missing or unusable."""
        member = _name(claims, self.consumer) if self.consumer else ""
        group = _name(claims, self.group) if self.group else None
        return Party(member, group, _names(claims, self.models) if self.models else None)


def _check_audience(aud: Any, expected: str | None) -> None:
    named = [aud] if isinstance(aud, str) else aud
    if named is None:
        named = []
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise TokenFault("the aud of the token is neither a text nor a list of texts")
    if expected is None and named:
        raise TokenFault("the token names an audience, and `audience` is not configured")
    if expected is not None and expected not in named:
        raise TokenFault("the token has another audience")


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 2), in Unix seconds; None if it is absent."""
    if name not in claims:
        return None
    value = claims[name]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < LATEST_S:  # NaN fails too
        raise TokenFault(f"the {name} of the token is no time")
    return float(value)


def _name(claims: Mapping[str, Any], claim: str) -> str:
    """The text in a claim; a number as its decimal digits."""
    value = found(claims, claim)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63:
        value = str(value)
    if not isinstance(value, str) or not _is_name(value):
        raise TokenFault(f"the claim {claim} is missing, or is no name")
    return value


def _is_name(text: str) -> bool:
    return 0 < len(text) <= MAX_NAME_CHARS and text.isprintable() and text == text.strip()


def _names(claims: Mapping[str, Any], claim: str) -> tuple[str, ...]:
    """The list in a claim, or a text with items between blanks, as in `scope` (RFC 8693 4.2)."""
    value = found(claims, claim)
    items = value.split(" ") if isinstance(value, str) else value
    if not isinstance(items, list) or len(items) > MAX_MODELS:
        raise TokenFault(f"the claim {claim} is missing, or is no list of names")
    if not all(isinstance(one, str) and _is_name(one) for one in items):
        raise TokenFault(f"the claim {claim} is missing, or is no list of names")
    return tuple(dict.fromkeys(items))


def found(claims: Mapping[str, Any], claim: str) -> Any:
    """The value of a claim; a name with dots that is no claim itself is a path into objects, as `realm_access.role`."""
    value: Any = claims.get(claim)
    if value is None and "." in claim:
        value = claims
        for part in claim.split("."):
            value = value.get(part) if isinstance(value, dict) else None
    return value
