"""Models that refuse to think: how that is known, kept and obeyed."""

from __future__ import annotations

import json

import pytest

from relayd.protocols import registry
from relayd.protocols._thinking import learn, requested_thinking
from relayd.protocols.canon import Failure, Message, Request, Text, Thinking
from relayd.protocols.dialect import Options
from tests.aids.memories import Kept

ASKED = Request("small:7b", (Message("user", (Text("Hello"),)),), thinking=Thinking("high", visible=True))


@pytest.mark.parametrize("message", [
    '"small:7b" does not support thinking',
    "registry.ollama.ai/library/small:7b does not support thinking",
    "Unrecognized request argument supplied: reasoning_effort",
    "Unsupported parameter: 'reasoning_effort' is not supported with this model.",
    "body -> reasoning_effort: Extra inputs are not permitted",
])  # fmt: skip
def test_a_refusal_to_think_is_remembered_for_the_model(message: str) -> None:
    memory = Kept()
    assert learn(ASKED, Failure(400, message), memory)
    assert requested_thinking(ASKED, Options(), memory) is None
    other = Request("other", ASKED.messages, thinking=ASKED.thinking)
    assert requested_thinking(other, Options(), memory) == ASKED.thinking


@pytest.mark.parametrize("failure", [
    Failure(400, "I think that the model is not found"), Failure(500, "does not support thinking"),
    Failure(400, "Unsupported value: 'reasoning_effort' does not support 'max'", "unsupported_value"),
    Failure(400, "x" * 5000 + "does not support thinking"),
])  # fmt: skip
def test_other_refusals_teach_nothing(failure: Failure) -> None:
    memory = Kept()
    assert not learn(ASKED, failure, memory) and not memory.values


def test_who_did_not_ask_for_thoughts_has_nothing_to_leave_out() -> None:
    assert not learn(Request("m", ASKED.messages), Failure(400, "does not support thinking"), Kept())


@pytest.mark.parametrize("name", [one.name for one in registry.dialects() if one.has_endpoints])
def test_drop_asks_no_endpoint_to_think(name: str) -> None:
    write = registry.load(name).write_request
    assert write is not None
    request = Request("gemini-3-flash" if name == "gemini" else "m", ASKED.messages, thinking=ASKED.thinking)
    bodies = [json.loads(write(request, Options(thinking=text), Kept()).body) for text in ("adaptive", "drop")]
    names = ("think", "reasoning", "effort")
    assert any(text in json.dumps(bodies[0]).lower() for text in names)
    assert not any(text in json.dumps(bodies[1]).lower() for text in names)


@pytest.mark.parametrize("name", ["openai_chat", "openai_responses"])
def test_the_highest_effort_of_messages_is_unknown_to_others(name: str) -> None:
    write = registry.load(name).write_request
    assert write is not None
    body = write(Request("m", ASKED.messages, thinking=Thinking("max")), Options(), Kept()).body
    assert b'"max"' not in body and b'high"' in body
