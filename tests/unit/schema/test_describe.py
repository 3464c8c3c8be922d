"""The one reader of what sections declare."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from relayd.schema import Duration, Secret, Size, section, setting
from relayd.schema.describe import (
    blank,
    choices,
    is_one_of,
    is_section,
    keys,
    list_item,
    mapping_value,
    sections_below,
    shorthand_of,
    without_none,
)


@section(one_of=True)
class Leaf:
    """A leaf."""

    global_: bool = setting(default=False, key="global", doc="Spelt unlike its name.")


@section(shorthand="word")
class Middle:
    """The middle."""

    word: str = setting(doc="A word.", example="x")
    leaves: tuple[Leaf, ...] = setting(default=(), doc="Leaves.")


@section()
class Root:
    """The root."""

    middle: Mapping[str, Middle] = setting(factory=dict, doc="Middles.")
    leaf: Leaf | None = setting(default=None, doc="A leaf.", pending="spring")
    wait: Duration = setting(default=Duration(5), doc="A wait.", minimum=1, zero_is_off=True)


def test_keys_come_in_order_with_their_resolved_types() -> None:
    middle, leaf, wait = keys(Root)
    assert (middle.name, mapping_value(middle.kind), middle.default, middle.required) == ("middle", Middle, {}, False)
    assert (leaf.bare, leaf.optional, leaf.pending) == (Leaf, True, "spring")
    assert (wait.kind, wait.default, wait.minimum, wait.zero_is_off) == (Duration, 5, 1, True)
    assert keys(Middle)[0].required
    assert keys(Middle)[0].example == "x"


def test_a_key_may_be_spelt_unlike_its_attribute() -> None:
    (key,) = keys(Leaf)
    assert (key.name, key.attribute) == ("global", "global_")


def test_the_forms_of_sections_are_told() -> None:
    assert is_section(Leaf)
    assert not is_section(str)
    assert (shorthand_of(Middle), shorthand_of(Root)) == ("word", None)
    assert is_one_of(Leaf)
    assert not is_one_of(Root)
    assert (list_item(tuple[Leaf, ...]), list_item(str), choices(str)) == (Leaf, None, ())


def test_every_section_is_met_once_with_its_path() -> None:
    assert sections_below(Root) == (("", Root), ("middle.NAME", Middle), ("leaf", Leaf))


def test_a_key_takes_one_type_or_none() -> None:
    assert without_none(str | None) is str
    with pytest.raises(TypeError):
        without_none(str | int)


@pytest.mark.parametrize(("kind", "value"), [
    (str, ""), (int, 0), (bool, False), (Duration, 0), (Size, 0), (tuple[str, ...], ()), (Mapping[str, str], {}),
    (str | None, None),
])
def test_a_blank_stands_for_any_type(kind: object, value: object) -> None:
    assert blank(kind) == value


def test_a_blank_section_has_blank_required_keys() -> None:
    assert blank(Middle) == Middle(word="")
    assert blank(Secret).reveal() == ""
    with pytest.raises(TypeError):
        blank(bytes)
