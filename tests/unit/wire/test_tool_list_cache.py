"""Long lists that come again: found by their whole text, shared, bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.wire.body import model_of, pop_parsed_object
from relayd.wire.tool_list_cache import LONGEST, MOST_SIGNS, SHORTEST, CachedList, ToolListCache, memoised


def long_list(name: str, signs: int = SHORTEST) -> list[Any]:
    return [{"name": name, "description": "x" * signs}]


def kept_in(keeper: ToolListCache, values: list[Any]) -> list[Any]:
    text = json.dumps(values)
    return keeper.store(f"..{text}!!", 2, 2 + len(text), values)


def found_in(keeper: ToolListCache, values: list[Any]) -> list[Any] | None:
    text = json.dumps(values)
    found = keeper.find(f'{{"tools":{text},"more":1}}', 9)
    assert found is None or found[1] == 9 + len(text)
    return None if found is None else found[0]


def test_a_list_is_found_again_by_its_text() -> None:
    keeper = ToolListCache()
    one = kept_in(keeper, long_list("a"))
    assert isinstance(one, CachedList) and one == long_list("a")
    assert found_in(keeper, long_list("a")) is one and found_in(keeper, long_list("b")) is None


def test_a_list_that_differs_in_its_last_sign_is_another_one() -> None:
    keeper = ToolListCache()
    values = long_list("a")
    kept_in(keeper, values)
    assert found_in(keeper, [{**values[0], "z": 1}]) is None
    assert found_in(keeper, [{"name": "a", "description": "x" * (SHORTEST - 1) + "y"}]) is None


def test_lists_with_the_same_beginning_take_turns() -> None:
    keeper = ToolListCache()
    first, second = long_list("a", 4000), long_list("a", 5000)
    for values in (first, second, first):
        one = kept_in(keeper, values)
        assert found_in(keeper, values) is one
    assert found_in(keeper, second) is None


@pytest.mark.parametrize("signs", [10, LONGEST])
def test_what_is_too_short_or_too_long_is_not_kept(signs: int) -> None:
    keeper = ToolListCache()
    values = long_list("a", signs)
    assert kept_in(keeper, values) is values and found_in(keeper, values) is None


def test_the_one_not_met_for_longest_goes_first() -> None:
    keeper = ToolListCache()
    size = MOST_SIGNS // 8
    for number in range(7):
        kept_in(keeper, long_list(str(number), size))
    assert found_in(keeper, long_list("0", size)) is not None
    kept_in(keeper, long_list("7", size))
    assert found_in(keeper, long_list("1", size)) is None and found_in(keeper, long_list("0", size)) is not None


def test_small_ones_are_bounded_in_number() -> None:
    keeper = ToolListCache()
    for number in range(100):
        kept_in(keeper, long_list(str(number)))
    left = [number for number in range(100) if found_in(keeper, long_list(str(number))) is not None]
    assert left == list(range(36, 100))


def tools_of(body: bytes) -> Any:
    assert model_of(body) == "m"
    taken = pop_parsed_object(body)
    assert taken is not None
    return taken["tools"]


def test_the_tools_of_bodies_are_shared_and_nothing_else_is() -> None:
    tools = json.dumps(long_list("shared"))
    first = tools_of(b'{"model":"m","tools":%b,"a":1}' % tools.encode())
    again = tools_of(b'{"tools": %b , "model":"m","messages":[{"tools":%b}]}' % (tools.encode(), tools.encode()))
    assert again is first and isinstance(first, CachedList) and first == long_list("shared")
    other = tools_of(b'{"model":"m","messages":[{"tools":%b}],"tools":[]}' % tools.encode())
    assert other == [] and not isinstance(other, CachedList)


@pytest.mark.parametrize("behind", [b"", b"]", b"x", b'"a":1', b"{}"])
def test_what_stands_behind_a_known_list_is_read_as_ever(behind: bytes) -> None:
    tools = json.dumps(long_list("behind")).encode()
    tools_of(b'{"model":"m","tools":%b}' % tools)
    assert model_of(b'{"model":"m","tools":%b%b' % (tools, behind)) is None


def test_a_list_that_nests_too_deeply_is_not_kept() -> None:
    deep = b"[" * 70 + b'"' + b"x" * SHORTEST + b'"' + b"]" * 70
    for _ in range(2):
        assert not isinstance(tools_of(b'{"model":"m","tools":%b}' % deep), CachedList)


def test_what_is_made_of_a_kept_list_is_made_once_and_of_another_every_time() -> None:
    made: list[str] = []

    def names(values: list[Any]) -> list[str]:
        made.append("made")
        return [one["name"] for one in values]

    cached, other = CachedList(long_list("a")), long_list("a")
    assert memoised(cached, "names", names) == ["a"] and memoised(cached, "names", names) is memoised(cached, "names", names)
    assert len(made) == 1 and memoised(cached, "number", len) == 1
    assert memoised(other, "names", names) == memoised(other, "names", names) == ["a"] and len(made) == 3
