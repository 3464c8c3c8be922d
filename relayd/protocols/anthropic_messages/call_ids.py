"""Ids of tool calls: this API takes letters, digits, `_` and `-` alone, and other APIs mint others.

Laws:
1. What a client of this API is given can go to an endpoint of this API as it stands, whoever minted it.
2. It comes back as what it was, so that the endpoint which minted it and what is remembered of the call find it again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_OUTSIDE_ID = re.compile(r"[^A-Za-z0-9_-]")
_MARK = "toolu_relayd_"
_LONGEST = (128 - len(_MARK)) // 4 * 3


def for_endpoint(identity: str) -> str:
    """The id itself where the API takes it, else one that always comes out the same and stays unlike others."""
    if _ID.fullmatch(identity):
        return identity
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{_OUTSIDE_ID.sub('_', identity)[:64]}_{digest}"


def for_client(identity: str) -> str:
    """The id that a client is given; `from_client` knows it again unless it is very long."""
    if _ID.fullmatch(identity):
        return identity
    octets = identity.encode("utf-8", "surrogatepass")
    if len(octets) > _LONGEST:
        return for_endpoint(identity)
    return _MARK + base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


def from_client(identity: str) -> str:
    """The id that was given to a client, as its endpoint minted it."""
    if not identity.startswith(_MARK):
        return identity
    text = identity[len(_MARK) :]
    try:
        made = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("utf-8", "surrogatepass")
    except (ValueError, binascii.Error):
        return identity
    return made if made and for_client(made) == identity else identity
