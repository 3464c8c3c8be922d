"""Fragments of calls against a slow reading of the same rules, and their bounds."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols._bounds import Allowance, ResponseTooLarge
from relayd.protocols.canon import Event, ToolDelta, ToolStart
from relayd.protocols.dialect import run_steps
from relayd.protocols.openai_chat.tool_call_assembler import MOST_ARGUMENTS_CHARS, ToolCallAssembler
from tests.aids.memories import Kept


def fold(fragments: list[dict[str, Any]]) -> dict[int, tuple[str, str, str]]:
    """Number to id, name and arguments."""
    numbers = itertools.count()
    calls = ToolCallAssembler(0, lambda: f"call_{next(numbers)}", Kept(), Allowance(MOST_ARGUMENTS_CHARS))
    events: list[Event] = []
    for fragment in fragments:
        run_steps(calls.add(fragment, 0, events, False))
    run_steps(calls.close(events))
    found: dict[int, tuple[str, str, str]] = {}
    for event in events:
        if isinstance(event, ToolStart):
            found[event.index] = event.id, event.name, ""
        elif isinstance(event, ToolDelta):
            identity, name, arguments = found[event.index]
            found[event.index] = identity, name, arguments + event.arguments
    assert calls.begun == len(found)
    return found


ARGUMENTS = st.sampled_from(["{}", '{"a":1}', '{"a":{"b":"}"}}', ""])


@given(st.lists(ARGUMENTS, min_size=1, max_size=4), st.booleans(), st.booleans(), st.randoms())
def test_calls_with_ids_survive_every_cutting_and_interleaving(
    wanted: list[str], one_index: bool, name_late: bool, random: Any
) -> None:
    runs: list[list[dict[str, Any]]] = []
    for position, arguments in enumerate(wanted):
        index = 0 if one_index else position
        pieces = [arguments[:2], arguments[2:3], arguments[3:]]
        run: list[dict[str, Any]] = [{"index": index, "function": {"arguments": piece}} for piece in pieces]
        run[0]["id"] = f"c{position}"
        run[1 if name_late else 0]["function"]["name"] = f"f{position}"
        runs.append(run)
    if one_index:
        fragments = [fragment for run in runs for fragment in run]
    else:
        fragments = []
        left = [run for run in runs if run]
        while left:
            run = random.choice(left)
            fragments.append(run.pop(0))
            left = [run for run in left if run]
    found = fold(fragments)
    assert sorted(found.values()) == [(f"c{position}", f"f{position}", text) for position, text in enumerate(wanted)]


def test_ids_are_never_empty_nor_used_twice() -> None:
    found = fold([
        {"index": 0, "id": "a", "function": {"name": "f"}}, {"index": 1, "id": "a", "function": {"name": "g"}},
        {"index": 2, "function": {"name": "h"}},
    ])  # fmt: skip
    identities = {identity for identity, _, _ in found.values()}
    assert len(identities) == 3 and "" not in identities


def test_arguments_and_calls_are_bounded() -> None:
    half = "x" * (MOST_ARGUMENTS_CHARS // 2 + 1)
    with pytest.raises(ResponseTooLarge):
        fold([{"index": 0, "id": "a", "function": {"arguments": half}}] * 2)
    with pytest.raises(ResponseTooLarge):
        fold([{"index": 0, "id": f"a{position}", "function": {"name": "f"}} for position in range(2000)])


def test_arguments_for_nobody_are_a_fault() -> None:
    with pytest.raises(ResponseTooLarge, match="without a name"):
        fold([{"index": 0, "function": {"arguments": "{}"}}])
    with pytest.raises(ResponseTooLarge, match="without a name"):
        fold([{"index": 0, "id": "a", "function": {"arguments": "{}"}}, {"index": 0, "id": "b", "function": {"name": "f"}}])


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_a_call_that_comes_again_by_its_id_goes_on(indexed: bool, named: bool) -> None:
    place = {"index": 0} if indexed else {}
    again = {"name": "f"} if named else {}
    assert fold([
        {**place, "id": "a", "function": {"name": "f", "arguments": '{"x":'}},
        {**place, "id": "b", "function": {"name": "g", "arguments": '{"y":'}},
        {**place, "id": "a", "function": {**again, "arguments": "1}"}},
        {**place, "id": "b", "function": {"arguments": "2}"}},
        {**place, "id": "a", "function": {"name": "f", "arguments": '{"x":3}'}},
    ]) == {0: ("a", "f", '{"x":1}'), 1: ("b", "g", '{"y":2}'), 2: ("call_0", "f", '{"x":3}')}  # fmt: skip


@pytest.mark.parametrize("named", [{"id": "c", "name": "f"}, {"name": "f"}])
def test_the_same_arguments_in_another_serialisation_are_the_same_call(named: dict[str, str]) -> None:
    texts = ['{"a": "é", "b": 1}', '{"b":1,"a":"\\u00e9"}', '{"a":"é","b":1}']
    fragments = [
        {"index": 0, "id": named.get("id"), "function": {"name": named["name"], "arguments": text}} for text in texts
    ]
    ((_, name, arguments),) = fold(fragments).values()
    assert (name, arguments) == ("f", '{"a": "é", "b": 1}')
