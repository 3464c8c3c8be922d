"""Validation of names and values of header fields in the configuration (RFC 9110 5.1, 5.5)."""

from __future__ import annotations

from relayd.lazy_regex import lazy_regex

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# Fields of message framing and connection management; relayd writes them itself.
FRAMING = frozenset({
    "connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
})

_TOKEN = lazy_regex(TOKEN)


def field_name_fault(name: str) -> str | None:
    """Why this is not a valid field name, or None."""
    return None if _TOKEN.fullmatch(name) and len(name) <= 200 else "is not a valid field name"


def field_value_fault(value: str) -> str | None:
    """Why this is not a valid field value, or None."""
    if len(value) > 8192:
        return "is too long for a field value"
    if any((ord(sign) < 0x20 and sign != "\t") or ord(sign) == 0x7F or ord(sign) > 0xFF for sign in value):
        return "contains a character that is not allowed in a field value"
    return None


def bearer_key_fault(key: str) -> str | None:
    """Why this is not a valid bearer key (RFC 6750 2.1, but any visible ASCII is accepted), or None."""
    fits = all(0x21 <= ord(sign) <= 0x7E for sign in key)
    return None if fits else "a bearer key consists of visible ASCII characters without spaces"
