"""Which bodies bring thinking blocks that no Anthropic endpoint has signed, and what is left alone around them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.protocols.anthropic_messages.generated_thinking import MARKS, has_generated_parts, strip_generated
from relayd.protocols.dialect import run_steps
from relayd.wire.body import edited, inspect_json

OWN = {"type": "thinking", "thinking": "hm", "signature": ""}
SIGNED = {**OWN, "signature": "EqQB"}
TEXT = {"type": "text", "text": "x"}


@pytest.mark.parametrize(("content", "brings"), [
    ([OWN], True), ([TEXT, {**OWN, "signature": "responses:rs_1:abc"}], True), ([SIGNED], False), ([TEXT], False), ("text", False),
    ([{**OWN, "signature": None}], True), ([{**OWN, "type": "text"}], False), ([{"type": "thinking", "thinking": "hm"}], False), ([None, 7, [OWN]], False), (None, False),
])  # fmt: skip
def test_a_parsed_body_has_generated_parts_if_a_block_is_unsigned(content: Any, brings: bool) -> None:
    messages = [{"role": "user", "content": "Hello"}, "no message", {"role": "assistant", "content": content}]
    assert has_generated_parts({"messages": messages}) is brings
    assert has_generated_parts({"messages": {"content": [OWN]}}) is has_generated_parts({}) is False


@pytest.mark.parametrize("thinking", ['{"type": enabled}', '"enabled"', "[", '{"type":"enabled","budget_tokens":' + "1" * 5000 + "}"])
def test_a_thinking_member_that_cannot_be_read_stays_as_it_came(thinking: str) -> None:
    messages = json.dumps([{"role": "assistant", "content": [OWN, TEXT]}])
    body = f'{{"messages":{messages},"thinking":{thinking}}}'.encode()
    found = edited(body, run_steps(strip_generated(inspect_json(body))))
    assert found.endswith(f'"thinking":{thinking}}}'.encode())


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" , ", " : "), (",\n", "\t:\n")])
@pytest.mark.parametrize("signature", ["", None, "responses:rs_1:abc"])
def test_blocks_are_removed_however_the_body_is_written(separators: tuple[str, str], signature: str | None) -> None:
    content = [{**OWN, "signature": signature}, SIGNED, TEXT]
    body = json.dumps({"messages": [{"role": "assistant", "content": content}]}, separators=separators).encode()
    found = json.loads(edited(body, run_steps(strip_generated(inspect_json(body)))))
    assert found["messages"][0]["content"] == [SIGNED, TEXT]
    assert "\n" in separators[0] or any(mark in body for mark in MARKS)


def test_a_body_without_messages_has_no_generated_parts() -> None:
    assert run_steps(strip_generated(inspect_json(b'{"model":"m","thinking":{"type":"enabled"}}'))) == []
