"""Ids of tool calls: this API accepts letters, digits, `_` and `-` only, and other APIs use other characters too.

Laws:
1. An id that a client of this API receives can be sent to an endpoint of this API unchanged, whatever its origin.
2. An id from a client is decoded to the original id, under which the endpoint and the stored state know the call.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from relayd.lazy_regex import lazy_regex

_ID = lazy_regex(r"[A-Za-z0-9_-]{1,128}")
_OUTSIDE_ID = lazy_regex(r"[^A-Za-z0-9_-]")
_MARK = "toolu_relayd_"
_LONGEST = (128 - len(_MARK)) // 4 * 3


def for_endpoint(identity: str) -> str:
    """The id itself if the API accepts it, else a unique id derived from it."""
    if _ID.fullmatch(identity):
        return identity
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{_OUTSIDE_ID.sub('_', identity)[:64]}_{digest}"


def for_client(identity: str) -> str:
    """The id for a client; `from_client` decodes it unless it is very long."""
    if _ID.fullmatch(identity):
        return identity
    octets = identity.encode("utf-8", "surrogatepass")
    if len(octets) > _LONGEST:
        return for_endpoint(identity)
    return _MARK + base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


def from_client(identity: str) -> str:
    """The endpoint's id of an id from a client."""
    if not identity.startswith(_MARK):
        return identity
    text = identity[len(_MARK) :]
    try:
        made = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("utf-8", "surrogatepass")
    except (ValueError, binascii.Error):
        return identity
    return made if made and for_client(made) == identity else identity
