"""Dataclasses whose methods and fields are made when they are first used.

1. A declaration means the same as with `dataclasses`: the same fields, `__init__`, `__eq__`, `__hash__`, order and
   `__repr__`; and `replace`, `asdict`, `fields`, `copy` and `match` work. Dataclasses as base classes, `InitVar` and
   `KW_ONLY` are not supported.
2. A declaration compiles no code and makes no `Field`. `dataclasses.dataclass` compiles up to eight functions per class
   when its module is imported. That took a third of the time of a command, and most of them are never called.
3. The `__init__` of a frozen class with slots assigns through the descriptors of the slots, which takes half the time
   of `object.__setattr__`.

All dataclasses of relayd are declared with it.
"""

from __future__ import annotations

import dataclasses
import reprlib
import types
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

T = TypeVar("T")
_COMPARISONS = {"__lt__": "<", "__le__": "<=", "__gt__": ">", "__ge__": ">="}
_FIELDS, _PARAMETERS = "__dataclass_fields__", "__dataclass_params__"
_STANDARD = (_FIELDS, _PARAMETERS, "__match_args__")


def _declare(cls: type[T], frozen: bool, slots: bool, eq: bool, order: bool, kw_only: bool) -> type[T]:
    if hasattr(cls, _FIELDS):
        raise TypeError(f"{cls.__name__} has a dataclass as its base")
    own = dict(cls.__dict__)
    names = [name for name, kind in cls.__annotations__.items() if not str(kind).startswith("ClassVar")]
    defaults = {name: getattr(cls, name) for name in names if hasattr(cls, name)}
    if "__eq__" in own and own.get("__hash__", 0) is None:
        del own["__hash__"]  # Python has put it there
    options = {"eq": eq, "order": order, "frozen": frozen, "kw_only": kw_only}
    made = _methods(frozen, slots, eq, order) | {name: _Standard(name, defaults, options) for name in _STANDARD}
    members = {name: member for name, member in made.items() if name not in own}
    if slots:
        for name in ("__dict__", "__weakref__", *names):
            own.pop(name, None)
        body = own | members | {"__slots__": tuple(names), "__qualname__": cls.__qualname__}
        return cast("type[T]", type(cls)(cls.__name__, cls.__bases__, body))  # type: ignore[misc]  # a metaclass
    for name, default in defaults.items():
        if isinstance(default, dataclasses.Field):
            members[name] = default.default
            delattr(cls, name)
    for name, member in members.items():
        if member is not dataclasses.MISSING:
            setattr(cls, name, member)
    return cls


def _methods(frozen: bool, slots: bool, eq: bool, order: bool) -> dict[str, Any]:
    methods: dict[str, Any] = {"__init__": _DEFERRED["__init__"], "__repr__": _repr, "__replace__": _replace}
    if eq:
        methods |= {"__eq__": _DEFERRED["__eq__"], "__hash__": _DEFERRED["__hash__"] if frozen else None}
    if order:
        methods |= {name: _DEFERRED[name] for name in _COMPARISONS}
    if frozen:
        methods |= {"__setattr__": _setattr, "__delattr__": _delattr}
        if slots:
            methods |= {"__getstate__": _getstate, "__setstate__": _setstate}
    return methods


def _declared(cls: type) -> type:
    """The class with the declaration, which is this class or one of its bases."""
    return next(base for base in cls.__mro__ if _FIELDS in base.__dict__)


class _Standard:
    """An attribute that the decorator of the standard library makes, until its first use. Owned by one class."""

    __slots__ = ("_defaults", "_name", "_options")

    def __init__(self, name: str, defaults: dict[str, Any], options: dict[str, bool]) -> None:
        self._name, self._defaults, self._options = name, defaults, options

    def __get__(self, instance: object, owner: type) -> Any:
        cls = _declared(owner)
        made = _plain(cls, self._defaults, self._options["kw_only"])
        parameters = getattr(made, _PARAMETERS)
        parameters.init = parameters.repr = True
        parameters.eq, parameters.order, parameters.frozen = (self._options[key] for key in ("eq", "order", "frozen"))
        for name in _STANDARD:
            if isinstance(cls.__dict__[name], _Standard):
                setattr(cls, name, getattr(made, name))
        return cls.__dict__[self._name]


def _plain(cls: type, defaults: dict[str, Any], kw_only: bool) -> type:
    """A dataclass of the standard library with the fields of `cls`, and without methods."""
    body = {"__annotations__": cls.__annotations__, "__module__": cls.__module__, "__doc__": cls.__name__, **defaults}
    declare = dataclasses.dataclass(  # noqa: TID251 - the fields are those of the standard library
        init=False, repr=False, eq=False, kw_only=kw_only
    )
    return declare(type(cls.__name__, (), body))


def _deferred(name: str, generate: Callable[[Any, str], Callable[..., Any]]) -> Callable[..., Any]:
    """A method that replaces itself with the generated one of its class on the first call."""

    def method(self: Any, *positional: Any, **named: Any) -> Any:
        cls = _declared(type(self))
        made = generate(cls, name)
        setattr(cls, name, made)
        return made(self, *positional, **named)

    method.__name__ = name
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


def _replace(self: Any, /, **changes: Any) -> Any:
    return dataclasses.replace(self, **changes)


def _setattr(self: Any, name: str, value: Any) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)


_GENERATORS = {"__init__": _init, "__hash__": _hash, "__eq__": _comparison, **dict.fromkeys(_COMPARISONS, _comparison)}
_DEFERRED = {name: _deferred(name, generate) for name, generate in _GENERATORS.items()}


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # noqa: TID251 - the one that type checkers know
else:

    def dataclass(*, frozen=False, slots=False, eq=True, order=False, kw_only=False):
        """Declare a dataclass; the arguments are those of `dataclasses.dataclass`."""
        return lambda cls: _declare(cls, frozen, slots, eq, order, kw_only)
