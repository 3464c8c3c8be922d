"""What relayd has invented in earlier answers is taken out of requests that pass, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols import registry
from relayd.protocols._generated_parts import find_part_lists, removal_edits
from relayd.protocols.dialect import run_steps
from relayd.protocols.openai_responses.reasoning_items import pack_encrypted_content
from relayd.protocols.openai_responses.state import new_id
from relayd.wire.body import edited, inspect_json

OWN = {"type": "thinking", "thinking": "hm", "signature": ""}
FOREIGN = {"type": "thinking", "thinking": "hm", "signature": "responses:rs_1:abc"}
SIGNED = {"type": "thinking", "thinking": "hm", "signature": "EqQB"}
TEXT = {"type": "text", "text": 'a "signature":"" in [{ a text'}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"type": "thinking", "signature": ""}}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}]}
HELLO = {"role": "user", "content": "Hello"}


def passed(dialect: str, members: dict[str, Any], **how: Any) -> dict[str, Any]:
    body = json.dumps(members, **how).encode()
    take_back = registry.load(dialect).strip_generated
    assert take_back is not None
    found: dict[str, Any] = json.loads(edited(body, run_steps(take_back(inspect_json(body)))))
    return found


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


@pytest.mark.parametrize("how", [{}, {"separators": (",", ":")}, {"indent": 1}, {"sort_keys": True}])
@pytest.mark.parametrize(("blocks", "left"), [
    ([OWN, TEXT], [TEXT]), ([TEXT, OWN], [TEXT]), ([SIGNED, OWN, TEXT, OWN, OWN, CALL], [SIGNED, TEXT, CALL]),
    ([OWN, OWN, CALL], [CALL]), ([FOREIGN, TEXT], [TEXT]), ([SIGNED, TEXT, CALL], [SIGNED, TEXT, CALL]),
    ([OWN], [{"type": "text", "text": "hm"}]), ([OWN, {**OWN, "thinking": ""}], [{"type": "text", "text": "(no answer)"}]),
])  # fmt: skip
def test_thoughts_that_nobody_has_signed_are_taken_out(blocks: list[Any], left: list[Any], how: dict[str, Any]) -> None:
    members = {"model": "m", "messages": [HELLO, assistant(*blocks), HELLO], "tools": [{"name": "look", "signature": ""}]}
    assert passed("anthropic_messages", members, **how) == {**members, "messages": [HELLO, assistant(*left), HELLO]}


@pytest.mark.parametrize(("behind", "kind"), [((RESULT,), "disabled"), ((RESULT, HELLO), "enabled"), ((HELLO,), "enabled")])
def test_a_budget_is_switched_off_where_the_tool_loop_has_lost_its_thought(behind: tuple[Any, ...], kind: str) -> None:
    members = {
        "thinking": {"type": "enabled", "budget_tokens": 2000}, "messages": [HELLO, assistant(OWN, CALL), *behind],
    }
    assert passed("anthropic_messages", members)["thinking"]["type"] == kind
    assert passed("anthropic_messages", {**members, "thinking": {"type": "adaptive"}})["thinking"] == {"type": "adaptive"}


def test_reasoning_items_of_relayd_do_not_reach_a_responses_endpoint() -> None:
    theirs = {"type": "reasoning", "id": "rs_68af4030baa48193", "summary": [], "encrypted_content": "gAAAA"}
    stored = {"type": "reasoning", "id": "rs_68af4030baa48193", "summary": []}
    own = {"type": "reasoning", "id": new_id("rs"), "summary": [{"type": "summary_text", "text": "hm"}]}
    sealed = {**own, "id": "rs_7", "encrypted_content": pack_encrypted_content("EqQB", None)}
    text_message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": own["id"]}]}
    members = {"model": "m", "input": [text_message, own, theirs, sealed, stored, text_message, own]}
    assert passed("openai_responses", members) == {"model": "m", "input": [text_message, theirs, stored, text_message]}
    assert passed("openai_responses", {"input": [own]}) == {"input": []}


JSON: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([OWN, SIGNED, TEXT, CALL, None, 7, "x", '"signature":""', []]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["content", "role", "a"]), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.sampled_from(["content", "role"]), JSON, max_size=2), max_size=4))
def test_whatever_stands_around_it_stays(messages: list[Any]) -> None:
    def left(content: Any) -> Any:
        if not isinstance(content, list) or OWN not in content or any(not isinstance(one, dict | str | list) for one in content):
            return content
        retained = [one for one in content if one != OWN]
        return retained or [{"type": "text", "text": "hm"}]

    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and any(not isinstance(one, dict) for one in content):
            return  # no messages of the API
    found = passed("anthropic_messages", {"messages": messages})["messages"]
    assert [one.get("content") for one in found] == [left(one.get("content")) for one in messages] or any(
        isinstance(one.get("role"), list) for one in messages
    )


def test_a_large_conversation_is_looked_through_in_steps_that_cost_linear_time() -> None:
    for body in (b"[" * 100_000, b'["' + b"a\\\"" * 100_000, b"[" + b"{}," * 100_000):
        steps = find_part_lists(body, (0, len(body)), b"[{[", (b"x",))
        assert sum(1 for _ in steps) <= len(body) // 2048 + 1
    assert removal_edits([], lambda part: True, lambda part: b"") == []


def test_a_string_of_escapes_is_looked_at_in_steps_and_stays_as_it_is() -> None:
    long = {"type": "text", "text": '"[{\\' * 300_000}
    members = {"model": "m", "messages": [HELLO, assistant(OWN, long), HELLO]}
    assert passed("anthropic_messages", members) == {**members, "messages": [HELLO, assistant(long), HELLO]}
    body = json.dumps([[long]]).encode()
    assert len(list(find_part_lists(body, (0, len(body)), b"[[", ()))) >= 4
