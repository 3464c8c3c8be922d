"""Sections with keys from plug-in folders: each module of the folder declares its own keys, and no list names it.

1. A module's name is the value in the YAML. Its docstring is its manual entry, its `Options` declare its YAML keys (a
   section), and one more class implements it.
2. The Options are a separate section, under the module's name or the name in their `written_as`. With `flat=True`,
   their keys are keys of the section itself.
3. A module with a missing library has its key, too. Using that key is a fault which names the library.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from relayd import registry
from relayd.dataclass import dataclass
from relayd.schema.describe import why_unavailable
from relayd.schema.types import section, setting

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Member:
    """One module of a plug-in folder in a section. `key` is the key of its options, "" if they are flat."""

    kind: str
    options: type
    key: str


def members(
    folder: str, *, flat: bool = False, always: bool = False, entries: bool = False
) -> Callable[[type[T]], type[T]]:
    """Add the keys of every module in a folder to a section; to be applied below `@section()`. With `entries`, the text
    of a key is the whole manual entry of its module instead of the docstring of its Options.

    Without configuration, a module's section of options is None. With `always`, or `default_on = True` in the Options,
    it then has its defaults, unless one of its keys is required.
    """

    def extend(cls: type[T]) -> type[T]:
        found = []
        for kind in registry.kinds(folder):
            member = _member(folder, kind, flat)
            found.append(member)
            if member.key:
                doc = registry.entry(folder, kind) if entries else member.options.__doc__ or ""
                _nest(cls, member, " ".join(doc.split()), always)
            else:
                _flatten(cls, member.options)
        cls.__members__ = {**getattr(cls, "__members__", {}), folder: tuple(found)}  # type: ignore[attr-defined]
        return cls

    return extend


def _member(folder: str, kind: str, flat: bool) -> Member:
    try:
        options = registry.load(folder, kind).Options
    except ImportError as missing:
        return Member(kind, unavailable(f"needs the Python package {missing.name}, which is not installed"), kind)
    return Member(kind, options, "" if flat else getattr(options, "written_as", kind))


def unavailable(reason: str) -> type:
    """A section that cannot be configured, for this reason."""

    @section()
    class Unavailable:
        """Not available here."""

    Unavailable.__section__["unavailable"] = reason  # type: ignore[attr-defined]
    return Unavailable


def _nest(cls: type, member: Member, doc: str, always: bool) -> None:
    options = member.options
    fields = dataclasses.fields(options)
    if not fields and not why_unavailable(options):
        return  # no options
    required = any(_is_required(field) for field in fields)
    if (always or getattr(options, "default_on", False)) and fields and not required:
        _add(cls, member.key, options, setting(factory=options, doc=doc))
    else:
        _add(cls, member.key, options | None, setting(default=None, doc=doc))


def _flatten(cls: type, options: type) -> None:
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        kind = hints[field.name]
        if not _is_required(field):
            _add(cls, field.name, kind, _copied(field))
        else:
            _add(cls, field.name, kind | None, dataclasses.field(default=None, metadata=field.metadata))


def _copied(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory, metadata=field.metadata)
    return dataclasses.field(default=field.default, metadata=field.metadata)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _add(cls: type, name: str, kind: Any, made: Any) -> None:
    if name in cls.__annotations__:
        raise TypeError(f"{cls.__name__} has two keys {name}")
    cls.__annotations__[name] = kind
    setattr(cls, name, made)


def members_of(made: object, folder: str) -> Iterator[tuple[str, Any]]:
    """Each kind of a folder and its Options in this section; None if they are absent."""
    for member in _members(made, folder):
        yield member.kind, options_of(made, folder, member.kind)


def options_of(made: object, folder: str, kind: str) -> Any:
    """The Options of one kind in this section; None if they, or a required one, are absent."""
    member = _chosen(made, folder, kind)
    if member.key:
        return getattr(made, member.key) if hasattr(made, member.key) else member.options()
    values = {field.name: getattr(made, field.name) for field in dataclasses.fields(member.options)}
    return None if _missing(member, values) else member.options(**values)


def faults_of_choice(made: object, folder: str, kind: str) -> Iterator[tuple[str, str]]:
    """The faults of the kind that this section selects, as pairs of key and fault."""
    member = _chosen(made, folder, kind)
    if why := why_unavailable(member.options):
        yield "", f"{kind} {why}"
    elif member.key:
        if dataclasses.fields(member.options) and getattr(made, member.key) is None:
            yield member.key, f"is missing: {kind} needs it"
    else:
        values = {field.name: getattr(made, field.name) for field in dataclasses.fields(member.options)}
        missing = _missing(member, values)
        yield from ((name, f"is missing: {kind} needs it") for name in missing)
        if not missing:
            yield from getattr(member.options(**values), "check", tuple)()


def strangers(made: object, folder: str, kind: str) -> Iterator[tuple[str, str]]:
    """Configured keys that belong to other kinds than the selected one, as pairs of key and its kinds."""
    mine = set(_keys(_chosen(made, folder, kind)))
    owners: dict[str, list[str]] = {}
    for member in _members(made, folder):
        for name in _keys(member):
            owners.setdefault(name, []).append(member.kind)
    for field in dataclasses.fields(made):  # type: ignore[arg-type]
        if field.name in owners and field.name not in mine and getattr(made, field.name) != _default(field):
            yield field.name, ", ".join(owners[field.name])


def _members(made: object, folder: str) -> tuple[Member, ...]:
    found: tuple[Member, ...] = type(made).__members__[folder]  # type: ignore[attr-defined]
    return found


def _chosen(made: object, folder: str, kind: str) -> Member:
    return next(member for member in _members(made, folder) if member.kind == kind)


def _keys(member: Member) -> list[str]:
    return [member.key] if member.key else [field.name for field in dataclasses.fields(member.options)]


def _missing(member: Member, values: dict[str, Any]) -> list[str]:
    return [one.name for one in dataclasses.fields(member.options) if _is_required(one) and values[one.name] is None]


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
