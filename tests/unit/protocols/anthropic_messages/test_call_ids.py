"""Ids of calls: always what the API takes, and what they were on their way back."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols import registry
from relayd.protocols.anthropic_messages.call_ids import for_client, for_endpoint, from_client
from relayd.protocols.dialect import Options
from tests.aids.memories import Forgetful
from tests.docs.pairs import ask_in

TAKEN = re.compile(r"[a-zA-Z0-9_-]{1,128}")


@given(st.text(min_size=1, max_size=200))
def test_an_id_is_always_one_that_the_api_takes(identity: str) -> None:
    assert TAKEN.fullmatch(for_client(identity)) and TAKEN.fullmatch(for_endpoint(identity))
    assert from_client(for_client(identity)) == identity or len(identity.encode()) > 84


@pytest.mark.parametrize("identity", ["toolu_01A", "toolu_relayd_", "toolu_relayd_%", "toolu_relayd_YWJj", "toolu_relayd_A"])
def test_an_id_that_another_minted_stays(identity: str) -> None:
    assert from_client(identity) == identity


@pytest.mark.parametrize("stream", [True, False])
def test_a_call_of_an_endpoint_with_other_ids_can_go_on_at_any_endpoint(stream: bool) -> None:
    """Kimi's ids: what its client brings back passes to an Anthropic endpoint, and comes back to Kimi as it was."""
    front, back = registry.load("anthropic_messages"), registry.load("openai_chat")
    assert front.read_request and front.renderer and back.reader and back.write_request
    plain: dict[str, Any] = {"model": "m", "max_tokens": 9, "stream": stream, "messages": [{"role": "user", "content": "x"}]}
    asked = front.read_request(json.dumps(plain).encode(), ask_in(front))
    call = {"index": 0, "id": "functions.look:0", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    choice = {"index": 0, "finish_reason": "tool_calls", "delta" if stream else "message": {"tool_calls": [call]}}
    told = json.dumps({"id": "1", "choices": [choice]}).encode()
    reader, renderer = back.reader(asked, Options(), Forgetful()), front.renderer(asked, ask_in(front))
    shown = renderer.render(reader.decode(b"data: " + told + b"\n\ndata: [DONE]\n\n" if stream else told) + reader.finish())
    answer = shown if stream else renderer.response().body
    found = re.search(rb'"type": ?"tool_use", ?"id": ?"([^"]*)"', answer)
    assert found is not None and TAKEN.fullmatch(found[1].decode()), answer
    identity = found[1].decode()
    plain["messages"] += [
        {"role": "assistant", "content": [{"type": "tool_use", "id": identity, "name": "look", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": identity, "content": "seen"}]},
    ]
    again = front.read_request(json.dumps(plain).encode(), ask_in(front))
    sent = json.loads(back.write_request(again, Options(), Forgetful()).body)["messages"]
    assert [one["tool_calls"][0]["id"] for one in sent if "tool_calls" in one] == ["functions.look:0"]
    assert [one["tool_call_id"] for one in sent if one["role"] == "tool"] == ["functions.look:0"]
