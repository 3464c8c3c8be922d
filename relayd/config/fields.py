"""Rules about header fields, methods and files that several sections share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from relayd.schema.files import FileFault, read_file

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# These belong to the framing of the message and to the connection; relayd writes them itself.
FRAMING = frozenset({
    "connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
})
PEM_BYTES = 8 << 20
KEY_FIELDS = frozenset({"authorization", "proxy-authorization", "api-key", "x-api-key", "x-goog-api-key"})

_TOKEN = re.compile(TOKEN)


def field_name_fault(name: str) -> str | None:
    return None if _TOKEN.fullmatch(name) and len(name) <= 200 else "is not a field name"


def field_value_fault(value: str) -> str | None:
    if len(value) > 8192:
        return "is too long for a field value"
    if any((ord(sign) < 0x20 and sign != "\t") or ord(sign) == 0x7F or ord(sign) > 0xFF for sign in value):
        return "holds a character that a field value cannot hold"
    return None


def written_fields(path: str, fields: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Faults of fields that relayd is told to write."""
    for name, value in fields.items():
        fault = field_name_fault(name) or field_value_fault(value)
        if fault is None and name.lower() in FRAMING:
            fault = "belongs to the framing of the message; relayd writes it"
        if fault is not None:
            yield f"{path}.{name}", fault


def method_fault(method: str) -> str | None:
    if _TOKEN.fullmatch(method) is None or len(method) > 32:
        return "is not a method"
    if method != method.upper():
        return f"methods are told apart by case; did you mean {method.upper()}?"
    return None


def file_fault(path: str) -> str | None:
    """What keeps relayd from reading a file that the configuration names."""
    if not path.startswith("/"):
        return "needs an absolute path"
    try:
        read_file(path, PEM_BYTES)
    except FileFault as fault:
        return f"cannot be read: {fault}"
    return None
