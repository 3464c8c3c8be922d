"""The value types of relayd.yaml (durations, sizes, amounts, secrets), and the declaration of sections and keys."""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Callable, Collection
from typing import Any, TypeVar, dataclass_transform

from relayd.dataclass import dataclass

T = TypeVar("T")


class Duration(float):
    """A span of time in seconds; written 250ms, 5s, 2m, 1h, 1d. 0 or `off` disables a limit, if the key allows it."""

    __slots__ = ()


class Size(int):
    """A number of bytes; written 512, 64KiB, 32MiB, 1GiB."""

    __slots__ = ()


class Money(int):
    """An amount of money in nano-units (10^-9 of the currency); written 5, 2.50 or 0.0000015."""

    __slots__ = ()


class Secret:
    """A value that is never shown. Only `reveal()` returns it; repr, str and format are masked.

    `source` names its origin (`file /etc/relayd/keys/x`, `env NAME`, `credential NAME`) and may be shown.
    Two secrets are equal if source and value are equal (compared in constant time).
    `exposed` is true if other users of the machine can read the file.
    """

    __slots__ = ("__value", "exposed", "source")

    def __init__(self, value: str, source: str, exposed: bool = False) -> None:
        self.__value = value
        self.source = source
        self.exposed = exposed

    def reveal(self) -> str:
        return self.__value

    def __repr__(self) -> str:
        return f"Secret({self.source})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        same = hmac.compare_digest(self.reveal().encode(), other.reveal().encode())
        return same and self.source == other.source

    def __hash__(self) -> int:
        return hash(self.source)

    def __reduce__(self) -> Any:
        raise TypeError("a secret cannot be pickled or copied")


REQUIRED: Any = dataclasses.MISSING


def setting(
    *,
    default: Any = REQUIRED,
    factory: Callable[[], Any] | None = None,
    doc: str,
    example: Any = None,
    minimum: float | None = None,
    maximum: float | None = None,
    zero_is_off: bool = False,
    pattern: str | None = None,
    form: str = "",
    pending: str | None = None,
    key: str | None = None,
    multiline: bool = False,
    choices: Collection[str] | None = None,
) -> Any:
    """Declare one key of a section.

    `doc` is the text in the manual (units and meaning, full sentences). `example` is shown in the sample file and
    should differ from the default. `minimum`/`maximum` bound numbers; those of amounts are in nano-units. With
    `zero_is_off`, 0 and `off` disable a limit. `pattern` is a regular expression that must match the whole string,
    `form` says in words what it permits, for messages.
    `pending` names the missing feature of a key that is accepted with the warning "not in force yet". `key` is the YAML
    spelling if it cannot be a Python name.
    `multiline` permits line breaks and tabs in a text; other texts contain no control characters.
    `choices` are the valid texts; a look-up may be cheaper than an iteration over all of them. The choices of a plug-in
    folder (registry.Kinds) have explanations, which are appended to `doc`.
    """
    metadata = {
        "doc": doc, "example": example, "minimum": minimum, "maximum": maximum, "zero_is_off": zero_is_off,
        "pattern": pattern, "form": form, "pending": pending, "key": key, "multiline": multiline, "choices": choices,
    }
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(setting,))
def section(*, shorthand: str | None = None, one_of: bool = False) -> Callable[[type[T]], type[T]]:
    """Make a class a section of relayd.yaml: a frozen, slotted, keyword-only dataclass with its manual as docstring.

    `shorthand` names the key that a bare scalar is the value of (`endpoints: ["http://a"]` means `{url: "http://a"}`).
    `one_of` requires exactly one key.
    A section may define `check(self) -> Iterable[tuple[str, str]]`, which yields pairs of key path and fault for rules
    between keys, and `caution(self)` of the same form, which yields warnings.
    """

    def make(cls: type[T]) -> type[T]:
        made = dataclass(frozen=True, slots=True, kw_only=True)(cls)
        made.__section__ = {"shorthand": shorthand, "one_of": one_of}  # type: ignore[attr-defined]
        return made

    return make
