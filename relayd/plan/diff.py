"""The differences between two configurations, as lines for the operator after a reload.

1. A secret, or a value that may be one, is never shown: only its source, and the fact that it changed.
2. An unchanged key produces no line. A new or removed key is named without its contents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from relayd.config.model import Config
from relayd.dataclass import dataclass
from relayd.money import amount_text
from relayd.schema import Duration, Money, Secret, Size
from relayd.schema.units import format_duration, format_size
from relayd.wire.redact import SECRET_FIELDS

_SECRET_NAME_PARTS = ("key", "token", "secret", "password", "auth")
_MAX_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Change:
    """One line: `sign` is + (new), - (removed) or ~ (changed); `path` the key; `text` the change, usually empty for +
    and -."""

    sign: str
    path: str
    text: str = ""

    def __str__(self) -> str:
        return f"{self.sign} {self.path}" + (f": {self.text}" if self.text else "")


def diff(old: Config, new: Config) -> list[Change]:
    """All changes, in the order of the configuration's keys."""
    return list(_compare("", old, new))


def files_diff(old: Sequence[str], new: Sequence[str]) -> list[Change]:
    """Included files that were removed or added; `old` and `new` begin with the main file."""
    before, after = old[1:], new[1:]
    changes = [Change("-", "include", file) for file in before if file not in after]
    changes += [Change("+", "include", file) for file in after if file not in before]
    if len(after) < len(before):
        changes.append(Change("~", "include", f"{_files(before)} -> {_files(after)}"))
    return changes


def contents_diff(old: Mapping[str, tuple[str, ...]], new: Mapping[str, tuple[str, ...]]) -> list[Change]:
    """Files whose name stayed the same while their contents changed. The values of both are by configuration key: the
    file, and what changes with its contents."""
    return [
        Change("~", path, f"{after[0]} changed") for path, after in new.items()
        if (before := old.get(path)) is not None and before[0] == after[0] and before != after
    ]


def _files(names: Sequence[str]) -> str:
    return f"{len(names)} file{'' if len(names) == 1 else 's'}"


def _compare(path: str, old: Any, new: Any) -> Iterator[Change]:
    if isinstance(old, Secret) and isinstance(new, Secret):
        if old != new:
            yield Change("~", path, f"{new} changed" if old.source == new.source else f"{old} -> {new}")
    elif _are_secrets(old) and _are_secrets(new) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _compare(path if len(new) == 1 else f"{path}[{index}]", before, after)
    elif type(old) is type(new) and dataclasses.is_dataclass(old):
        for field in dataclasses.fields(old):
            key = field.metadata.get("key") or field.name
            yield from _compare(_join(path, key), getattr(old, field.name), getattr(new, field.name))
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _compare_named(path, old, new)
    elif _are_named(old) and _are_named(new):
        before, after = ({item.name: item for item in side} for side in (old, new))
        yield from _compare_named(path, before, after)
        old_order = [name for name in before if name in after]
        new_order = [name for name in after if name in before]
        if old_order != new_order:
            yield Change("~", path, f"order: {', '.join(old_order)} -> {', '.join(new_order)}")
    elif old != new:
        yield _changed(path, old, new)


def _compare_named(path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name in old:
        if name not in new:
            yield Change("-", _join(path, name))
    for name, value in new.items():
        if name not in old:
            yield Change("+", _join(path, name))
        else:
            yield from _compare(_join(path, name), old[name], value)


def _changed(path: str, old: Any, new: Any) -> Change:
    if old is None:
        return Change("+", path, "" if dataclasses.is_dataclass(new) else _hide(path, show(new)))
    if new is None:
        return Change("-", path)
    if _may_be_secret(path):
        return Change("~", path, "changed (not shown)")
    before, after = show(old), show(new)
    return Change("~", path, "changed" if before == after else f"{before} -> {after}")


def _hide(path: str, text: str) -> str:
    return "(not shown)" if _may_be_secret(path) else text


def _may_be_secret(path: str) -> bool:
    """True if the path is the value of a header field that may hold a key."""
    parts = path.split(".")
    if len(parts) < 2 or parts[-2] not in ("set", "add", "header", "headers"):
        return False
    return looks_secret(parts[-1])


def looks_secret(field: str) -> bool:
    """True if a header field of this name usually carries a key."""
    name = field.lower()
    return name in SECRET_FIELDS or any(part in name for part in _SECRET_NAME_PARTS)


def _are_secrets(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(item, Secret) for item in value)


def _are_named(value: Any) -> bool:
    return isinstance(value, tuple) and all(dataclasses.is_dataclass(item) and hasattr(item, "name") for item in value)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def show(value: Any) -> str:
    """A value in the notation of relayd.yaml, truncated if it is long."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, Duration):
        text = format_duration(value)
    elif isinstance(value, Size):
        text = format_size(value)
    elif isinstance(value, Money):
        text = amount_text(value)
    elif isinstance(value, (tuple, list)):
        text = "[" + ", ".join(show(item) for item in value) + "]"
    elif dataclasses.is_dataclass(value):
        shorthand = getattr(value, "__section__", {}).get("shorthand")
        text = show(getattr(value, shorthand)) if shorthand else type(value).__name__.lower()
    elif isinstance(value, str):
        text = value if value.isprintable() and value else repr(value)
    else:
        text = str(value)
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}..."
