"""A dataclass of relayd is one of the standard library: the same declarations are compared, one of them generated late."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import field
from typing import Any, ClassVar

import pytest

import relayd.dataclass

DECLARE: Any = relayd.dataclass.dataclass  # not the one that type checkers see
STANDARD: Any = dataclasses.dataclass


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same class, declared twice."""

    lazy: Any
    standard: Any

    def both(self) -> tuple[Any, Any]:
        return self.lazy, self.standard


def declared(declare: Any, **options: Any) -> Any:
    @declare(**options)
    class Thing:
        """A thing."""

        kind: ClassVar[str] = "thing"
        name: str
        count: int = 3
        items: list[int] = field(default_factory=list)
        note: str = field(default="n", repr=False, compare=False)
        made: int = field(init=False, default=7)
        late: str = field(init=False)
        last: int = field(default=9, kw_only=True)

        def __post_init__(self) -> None:
            object.__setattr__(self, "late", self.name * 2)

        def size(self) -> int:
            return self.count

    return Thing


@pytest.fixture(
    params=[
        {"frozen": True, "slots": True}, {"slots": True}, {}, {"frozen": True}, {"frozen": True, "slots": True, "order": True},
        {"frozen": True, "slots": True, "eq": False}, {"frozen": True, "slots": True, "kw_only": True}, {"slots": True, "eq": False},
    ],
    ids=str,
)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(declared(DECLARE, **request.param), declared(STANDARD, **request.param))


ARGUMENTS: tuple[dict[str, Any], ...] = (
    {"name": "a"}, {"name": "a", "count": 4}, {"name": "b", "items": [1]}, {"name": "a", "note": "other"}, {"name": "a", "last": 1},
)


def values(one: Any) -> dict[str, Any]:
    return {each.name: getattr(one, each.name) for each in dataclasses.fields(one)}


def outcome(call: Any) -> Any:
    """What a call returns, or the kind of error."""
    try:
        return call()
    except (TypeError, AttributeError) as error:
        return type(error)


def test_an_object_has_the_same_values_and_the_same_text(pair: Pair) -> None:
    for arguments in ARGUMENTS:
        lazy, standard = (cls(**arguments) for cls in pair.both())
        assert values(lazy) == values(standard) and dataclasses.asdict(lazy) == dataclasses.asdict(standard)
        assert repr(lazy) == repr(standard) and lazy.size() == standard.size() and lazy.kind == "thing"
    first, second = (pair.lazy(name="a") for _ in range(2))
    assert first.items is not second.items, "each object has its own"


def test_the_same_arguments_are_refused(pair: Pair) -> None:
    for positional, named in (((), {}), (("a", 1), {}), (("a", 1, [], "n", 1), {}), ((), {"name": "a", "made": 1}), ((), {"other": 1})):
        lazy, standard = (outcome(lambda cls=cls, p=positional, n=named: values(cls(*p, **n))) for cls in pair.both())
        assert lazy == standard


def test_objects_compare_hash_and_sort_alike(pair: Pair) -> None:
    lazy, standard = ([cls(**arguments) for arguments in ARGUMENTS] for cls in pair.both())
    for left in range(len(ARGUMENTS)):
        for right in range(len(ARGUMENTS)):
            assert (lazy[left] == lazy[right]) == (standard[left] == standard[right])
            assert outcome(lambda a=lazy[left], b=lazy[right]: a < b) == outcome(lambda a=standard[left], b=standard[right]: a < b)
            assert outcome(lambda a=lazy[left], b=lazy[right]: a >= b) == outcome(lambda a=standard[left], b=standard[right]: a >= b)
    assert lazy[0] != standard[0] and lazy[0] != 1
    for cls in pair.both():
        assert (cls.__hash__ is None) == (pair.standard.__hash__ is None)
        assert (cls.__eq__ is object.__eq__) == (pair.standard.__eq__ is object.__eq__)


def test_a_frozen_object_does_not_change(pair: Pair) -> None:
    lazy, standard = (cls(name="a") for cls in pair.both())
    assert outcome(lambda: setattr(lazy, "count", 1)) == outcome(lambda: setattr(standard, "count", 1))
    assert outcome(lambda: delattr(lazy, "count")) == outcome(lambda: delattr(standard, "count"))
    assert values(lazy) == {**values(standard), "items": lazy.items} if hasattr(lazy, "count") else not hasattr(standard, "count")
    if pair.lazy.__dataclass_params__.frozen:
        with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'unknown'"):
            lazy.unknown = 1


def test_replace_copy_and_match_work(pair: Pair) -> None:
    for cls in pair.both():
        one = cls(name="a", items=[1])
        assert values(dataclasses.replace(one, name="b")) == {**values(one), "name": "b", "late": "bb"}
        assert values(copy.copy(one)) == values(copy.deepcopy(one)) == values(one)
        assert hasattr(one, "__dict__") == hasattr(pair.standard(name="a"), "__dict__")
    assert pair.lazy.__match_args__ == pair.standard.__match_args__
    assert [(one.name, one.kw_only) for one in dataclasses.fields(pair.lazy)] == [(one.name, one.kw_only) for one in dataclasses.fields(pair.standard)]
    mine, theirs = (cls.__dataclass_params__ for cls in pair.both())
    assert (mine.init, mine.repr, mine.eq, mine.order, mine.frozen) == (theirs.init, theirs.repr, theirs.eq, theirs.order, theirs.frozen)


@DECLARE(frozen=True, slots=True)
class Stored:
    """A class of a module, as pickle needs it."""

    numbers: dict[tuple[int, str], float] = field(default_factory=dict)


def test_fields_are_made_on_their_first_use_only(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[type] = []

    def plain(**options: Any) -> Any:
        def declare(cls: type) -> Any:
            made.append(cls)
            return STANDARD(**options)(cls)

        return declare

    monkeypatch.setattr(dataclasses, "dataclass", plain)
    lazy = declared(DECLARE, slots=True)
    assert made == [], "a declaration makes no fields"
    below = type("Below", (lazy,), {})
    assert [one.name for one in dataclasses.fields(below)] == [one.name for one in dataclasses.fields(pair.standard)]
    assert dataclasses.fields(lazy)[0] is dataclasses.fields(below)[0] and lazy.__match_args__ and below(name="a").count == 3
    assert len(made) == 1


def test_a_class_attribute_is_no_field() -> None:
    @DECLARE()
    class Thing:
        """A class variable has an annotation, too."""

        kinds: ClassVar[int] = 1
        name: str = "n"
        items: list[int] = field(default_factory=list)

    thing: Any = Thing
    assert thing.name == "n" and not hasattr(thing, "items") and thing.kinds == 1
    assert [one.name for one in dataclasses.fields(thing)] == ["name", "items"]


def test_an_object_can_be_replaced_by_the_copy_module() -> None:
    one = declared(DECLARE, frozen=True, slots=True)(name="a")
    assert one.__replace__(name="b").name == "b"


def test_an_object_of_a_module_can_be_pickled() -> None:
    stored: Any = Stored
    assert pickle.loads(pickle.dumps(stored({(1, "a"): 2.0}))) == stored({(1, "a"): 2.0})


def test_a_method_of_the_class_is_not_replaced() -> None:
    @DECLARE(frozen=True, slots=True)
    class Own:
        """Its own equality, hash and text."""

        number: int

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 1

        def __repr__(self) -> str:
            return "mine"

    own: Any = Own
    assert own(1) == own(2) and hash(own(1)) == 1 and repr(own(1)) == "mine"


def test_a_dataclass_has_no_dataclass_as_its_base() -> None:
    base = declared(DECLARE, frozen=True, slots=True)
    with pytest.raises(TypeError, match="Below has a dataclass as its base"):
        DECLARE(frozen=True, slots=True)(type("Below", (base,), {}))


def test_an_object_that_contains_itself_has_a_text() -> None:
    @DECLARE(slots=True)
    class Ring:
        """A ring."""

        next: Any = None

    ring = Ring()
    ring.next = ring
    assert repr(ring).endswith("Ring(next=...)")


def test_a_method_is_generated_on_its_first_call_only() -> None:
    cls = declared(DECLARE, frozen=True, slots=True)
    before = cls.__init__
    assert "count" not in inspect.signature(before).parameters, "nothing is compiled for a declaration"
    cls(name="a")
    after = cls.__init__
    cls(name="b")
    assert cls.__init__ is after is not before and list(inspect.signature(after).parameters)[:3] == ["self", "name", "count"]
    assert after.__qualname__.endswith("Thing.__init__") and after.__module__ == __name__
