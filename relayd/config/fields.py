"""Rules about header fields, methods and files that several sections share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from relayd.lazy_regex import lazy_regex
from relayd.schema.files import FileFault, read_file
from relayd.wire.field_syntax import FRAMING, TOKEN, field_name_fault, field_value_fault

PEM_BYTES = 8 << 20
KEY_FIELDS = frozenset({"authorization", "proxy-authorization", "api-key", "x-api-key", "x-goog-api-key"})

_TOKEN = lazy_regex(TOKEN)


def written_fields(path: str, fields: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Faults of configured header fields."""
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
        return f"methods are case-sensitive; did you mean {method.upper()}?"
    return None


def file_fault(path: str) -> str | None:
    """Why relayd cannot read a file that the configuration names, or None."""
    if not path.startswith("/"):
        return "needs an absolute path"
    try:
        read_file(path, PEM_BYTES)
    except FileFault as fault:
        return f"cannot be read: {fault}"
    return None


__all__ = [
    "FRAMING", "KEY_FIELDS", "TOKEN", "field_name_fault", "field_value_fault", "file_fault", "method_fault",
    "written_fields",
]
