"""The declaration of a section: its keys with their resolved types, read once per class.

The builder, the JSON Schema, the sample file and the manual all read the sections through this module, so that all of
them have the same keys.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import types
import typing
from collections.abc import Collection
from typing import Any

from relayd import registry
from relayd.dataclass import dataclass
from relayd.schema.types import Duration, Money, Secret, Size


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section: its YAML name, its attribute, its type and bounds, its meaning."""

    name: str
    attribute: str
    kind: Any
    required: bool
    default: Any
    doc: str
    example: Any
    minimum: float | None
    maximum: float | None
    zero_is_off: bool
    pattern: str | None
    form: str
    pending: str | None
    multiline: bool
    choices: Collection[str] | None

    @property
    def bare(self) -> Any:
        """The type without `| None`."""
        return without_none(self.kind)

    @property
    def optional(self) -> bool:
        return self.bare is not self.kind


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "__section__")


def shorthand_of(section: type) -> str | None:
    found: str | None = section.__section__["shorthand"]  # type: ignore[attr-defined]
    return found


def is_one_of(section: type) -> bool:
    return bool(section.__section__["one_of"])  # type: ignore[attr-defined]


def why_unavailable(section: type) -> str:
    """The reason why this section cannot be configured; empty if it can."""
    return str(section.__section__.get("unavailable", ""))  # type: ignore[attr-defined]


def name_of(section: type) -> str:
    """The unique name of a section; for the Options of a plug-in it is derived from the name of the module."""
    if section.__name__ != "Options":
        return section.__name__
    return "".join(part.title() for part in section.__module__.rpartition(".")[2].split("_")) + "Options"


def without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        rest = [part for part in typing.get_args(kind) if part is not types.NoneType]
        if len(rest) != 1:
            raise TypeError(f"a key takes one type, or one type and None: {kind}")
        return rest[0]
    return kind


def list_item(kind: Any) -> Any:
    """X of tuple[X, ...], else None."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None


def mapping_value(kind: Any) -> Any:
    """X of Mapping[str, X], else None."""
    return typing.get_args(kind)[1] if typing.get_origin(kind) is collections.abc.Mapping else None


def choices(kind: Any) -> tuple[Any, ...]:
    """The values of a Literal; empty for other types."""
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()


@functools.cache
def keys(section: type) -> tuple[Key, ...]:
    """The keys of a section in the order of declaration."""
    hints = typing.get_type_hints(section)
    made = []
    for field in dataclasses.fields(section):
        meta = field.metadata
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        default = None if required else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        doc = meta["doc"]
        if isinstance(meta["choices"], registry.Kinds):
            doc = f"{doc} {meta['choices'].explained()}"
        made.append(Key(
            name=meta["key"] or field.name, attribute=field.name, kind=hints[field.name], required=required,
            default=default, doc=doc, example=meta["example"], minimum=meta["minimum"],
            maximum=meta["maximum"], zero_is_off=meta["zero_is_off"], pattern=meta["pattern"],
            form=meta["form"], pending=meta["pending"], multiline=meta["multiline"],
            choices=meta["choices"],
        ))
    return tuple(made)


def sections_below(root: type) -> tuple[tuple[str, type], ...]:
    """Every section with the first path that leads to it, outermost first: ("upstreams.NAME.tls", UpstreamTls)."""
    found: list[tuple[str, type]] = [("", root)]
    seen = {root}
    for path, section in found:
        for key in keys(section):
            inner, at = inner_section(key.kind, f"{path}.{key.name}" if path else key.name)
            if inner is not None and inner not in seen:
                seen.add(inner)
                found.append((at, inner))
    return tuple(found)


def inner_section(kind: Any, path: str) -> tuple[type | None, str]:
    """The section inside a type, and the path with [] for a list's item and NAME for a mapping's key."""
    bare = without_none(kind)
    if is_section(bare):
        return bare, path
    item = list_item(bare)
    if item is not None:
        return inner_section(item, f"{path}[]")
    value = mapping_value(bare)
    if value is not None:
        return inner_section(value, f"{path}.NAME")
    return None, path


def blank(kind: Any) -> Any:
    """A value of the type that replaces an invalid one, so that the other values are still checked."""
    if kind is not without_none(kind):
        return None
    if is_section(kind):
        return kind(**{key.attribute: blank(key.kind) for key in keys(kind) if key.required})
    if list_item(kind) is not None:
        return ()
    if mapping_value(kind) is not None:
        return {}
    if choices(kind):
        return choices(kind)[0]
    if kind is Secret:
        return Secret("", "missing")
    if kind in (bool, int, float, str, Duration, Money, Size):
        return kind()
    raise TypeError(f"no section can have a key of type {kind}")
