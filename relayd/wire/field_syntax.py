"""What the name and the value of a header field may be, where an operator writes them (RFC 9110 5.1, 5.5)."""

from __future__ import annotations

import re

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# These belong to the framing of the message and to the connection; relayd writes them itself.
FRAMING = frozenset({
    "connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
})

_TOKEN = re.compile(TOKEN)


def field_name_fault(name: str) -> str | None:
    """Why this cannot be the name of a field, or None."""
    return None if _TOKEN.fullmatch(name) and len(name) <= 200 else "is not a field name"


def field_value_fault(value: str) -> str | None:
    """Why this cannot be the value of a field, or None."""
    if len(value) > 8192:
        return "is too long for a field value"
    if any((ord(sign) < 0x20 and sign != "\t") or ord(sign) == 0x7F or ord(sign) > 0xFF for sign in value):
        return "holds a character that a field value cannot hold"
    return None


def bearer_key_fault(key: str) -> str | None:
    """Why this cannot be a bearer key (RFC 6750 2.1, more generously), or None."""
    fits = all(0x21 <= ord(sign) <= 0x7E for sign in key)
    return None if fits else "a bearer key is one word of visible ASCII characters"
