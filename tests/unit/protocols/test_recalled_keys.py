"""What the writer of a dialect looks at in the memory, it has named before: a store that must be asked fetches just that."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.protocols.canon import Message, Reasoning, Request, Text, Thinking, ToolCall, ToolResult
from relayd.protocols.dialect import Options, RequestContext
from relayd.protocols.openai_responses import generated_items
from relayd.protocols.openai_responses.state import item_key, new_id
from relayd.protocols.registry import dialects
from relayd.wire.body import inspect_json
from tests.aids.memories import Kept

DIALECTS = {dialect.name: dialect for dialect in dialects()}
WRITERS = sorted(name for name, dialect in DIALECTS.items() if dialect.write_request is not None)


class Asked(Kept):
    """Notes the keys that were looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[str] = set()

    def get(self, key: str) -> Any:
        self.keys.add(key)
        return super().get(key)


def history(*names: str) -> tuple[Message, ...]:
    found: list[Message] = [Message("user", (Text("go"),))]
    for name in names:
        found.append(Message("assistant", (Reasoning("hm"), ToolCall(f"call_{name}", name, "{}"), ToolCall(f"more_{name}", name, "{}"))))
        found += (Message("tool", (ToolResult(f"{kind}_{name}", (Text("ok"),)),)) for kind in ("call", "more"))
    return tuple(found)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("thinking", [None, Thinking(effort="low")])
def test_a_writer_looks_only_at_the_keys_that_it_has_named(name: str, thinking: Thinking | None) -> None:
    dialect, memory = DIALECTS[name], Asked()
    request = Request(model="model-1", messages=history("a", "b"), thinking=thinking)
    assert dialect.write_request is not None and dialect.recalled_keys is not None
    dialect.write_request(request, Options(), memory)
    assert memory.keys <= set(dialect.recalled_keys(request))
    assert memory.keys or name in ("ollama", "openai_responses")


def test_a_decision_looks_only_at_the_keys_that_were_named() -> None:
    memory, previous, item, path = Asked(), new_id("resp"), new_id("msg"), new_id("resp")
    context = RequestContext("POST", f"/v1/responses/{path}", "", {}, "r", memory)
    body = {"previous_response_id": previous, "input": [{"type": "item_reference", "id": item}, {"type": "item_reference", "id": "msg_1"}]}
    for look in (inspect_json(json.dumps(body).encode()), inspect_json(json.dumps({**body, "x": "y" * 400_000}).encode())):
        memory.keys.clear()
        assert not generated_items.continues_stored(look, lambda: context) and not generated_items.names_stored(context)
        named = generated_items.stored_keys(look, context)
        assert memory.keys == set(named) == {item_key(previous), item_key(item), item_key(path)}
    assert generated_items.stored_keys(None, context) == [item_key(path)]
