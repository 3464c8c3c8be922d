"""Dataclasses whose methods are generated when they are first called.

1. A declaration means the same as with `dataclasses`: the same fields, `__init__`, `__eq__`, `__hash__`, order and
   `__repr__`; and `replace`, `asdict`, `fields`, `copy` and `match` work. Dataclasses as base classes and `InitVar` are
   not supported.
2. A declaration compiles no code. `dataclasses.dataclass` compiles up to eight functions per class when its module is
   imported. That took a third of the time of a command, and most of these functions are never called.
3. The `__init__` of a frozen class with slots assigns through the descriptors of the slots, which takes half the time
   of `object.__setattr__`.

All dataclasses of relayd are declared with it.
"""

from __future__ import annotations

import dataclasses
import reprlib
import types
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")
_COMPARISONS = {"__lt__": "<", "__le__": "<=", "__gt__": ">", "__ge__": ">="}


def _declare(cls: type[T], frozen: bool, slots: bool, eq: bool, order: bool, kw_only: bool) -> type[T]:
    if hasattr(cls, "__dataclass_fields__"):
        raise TypeError(f"{cls.__name__} has a dataclass as its base")
    own = dict(cls.__dict__)
    plain = dataclasses.dataclass(  # noqa: TID251 - the fields are those of the standard library
        init=False, repr=False, eq=False, slots=slots, kw_only=kw_only
    )
    made: Any = plain(cls)
    methods: dict[str, Any] = {"__init__": _deferred(made, "__init__", _init), "__repr__": _repr}
    if eq:
        methods["__eq__"] = _deferred(made, "__eq__", _comparison)
        methods["__hash__"] = _deferred(made, "__hash__", _hash) if frozen else None
    if "__eq__" in own and own.get("__hash__", 0) is None:
        del own["__hash__"]  # Python has put it there
    if order:
        methods |= {name: _deferred(made, name, _comparison) for name in _COMPARISONS}
    if frozen:
        methods |= {"__setattr__": _setattr, "__delattr__": _delattr}
        if slots:
            methods |= {"__getstate__": _getstate, "__setstate__": _setstate}
    for name, method in methods.items():
        if name not in own:
            setattr(made, name, method)
    parameters = made.__dataclass_params__
    parameters.init, parameters.repr, parameters.eq, parameters.order, parameters.frozen = True, True, eq, order, frozen
    return made  # type: ignore[no-any-return]


def _deferred(cls: Any, name: str, generate: Callable[[Any, str], Callable[..., Any]]) -> Callable[..., Any]:
    """A method that replaces itself with the generated one on its first call."""

    def method(self: Any, *positional: Any, **named: Any) -> Any:
        made = generate(cls, name)
        setattr(cls, name, made)
        return made(self, *positional, **named)

    method.__name__, method.__qualname__ = name, f"{cls.__qualname__}.{name}"
    return method


def _generated(cls: Any, name: str, parameters: str, body: Iterable[str], names: dict[str, Any]) -> Callable[..., Any]:
    text = f"def {name}({parameters}):\n" + "".join(f" {line}\n" for line in body)
    names["__name__"] = cls.__module__
    exec(compile(text, f"<{name} of {cls.__module__}.{cls.__qualname__}>", "exec"), names)
    method: Callable[..., Any] = names.pop(name)
    method.__qualname__ = f"{cls.__qualname__}.{name}"
    return method


def _init(cls: Any, name: str) -> Callable[..., Any]:
    names: dict[str, Any] = {"__absent": dataclasses.MISSING, "__set": object.__setattr__}
    positional, named, body = ["self"], list[str](), list[str]()
    for field in dataclasses.fields(cls):
        is_made = field.default_factory is not dataclasses.MISSING
        has_default = is_made or field.default is not dataclasses.MISSING
        if not field.init and not has_default:
            continue  # __post_init__ assigns it
        default = f"__default_{field.name}"
        names[default] = field.default_factory if is_made else field.default
        value = field.name if field.init else default
        if is_made:
            value = f"{default}() if {field.name} is __absent else {field.name}" if field.init else f"{default}()"
        if field.init:
            written = field.name + ("=__absent" if is_made else f"={default}" if has_default else "")
            (named if field.kw_only else positional).append(written)
        body.append(_assignment(cls, field.name, value, names))
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    return _generated(cls, name, ", ".join(positional + (["*", *named] if named else [])), body or ["pass"], names)


def _assignment(cls: Any, name: str, value: str, names: dict[str, Any]) -> str:
    if not cls.__dataclass_params__.frozen:
        return f"self.{name} = {value}"
    slot = getattr(cls, name, None)
    if not isinstance(slot, types.MemberDescriptorType):
        return f"__set(self, {name!r}, {value})"
    names[f"__set_{name}"] = slot.__set__
    return f"__set_{name}(self, {value})"


def _compared(cls: Any, of: str) -> str:
    return "(" + "".join(f"{of}.{field.name}, " for field in dataclasses.fields(cls) if field.compare) + ")"


def _comparison(cls: Any, name: str) -> Callable[..., Any]:
    operator = _COMPARISONS.get(name, "==")
    body = (
        "if other.__class__ is self.__class__:",
        f" return {_compared(cls, 'self')} {operator} {_compared(cls, 'other')}",
        "return NotImplemented",
    )
    return _generated(cls, name, "self, other", body, {})


def _hash(cls: Any, name: str) -> Callable[..., Any]:
    hashed = [field.name for field in dataclasses.fields(cls) if (field.compare if field.hash is None else field.hash)]
    return _generated(cls, name, "self", [f"return hash(({''.join(f'self.{one}, ' for one in hashed)}))"], {})


@reprlib.recursive_repr()
def _repr(self: Any) -> str:
    shown = [f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self) if field.repr]
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _setattr(self: Any, name: str, value: Any) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # noqa: TID251 - the one that type checkers know
else:

    def dataclass(*, frozen=False, slots=False, eq=True, order=False, kw_only=False):
        """Declare a dataclass; the arguments are those of `dataclasses.dataclass`."""
        return lambda cls: _declare(cls, frozen, slots, eq, order, kw_only)
