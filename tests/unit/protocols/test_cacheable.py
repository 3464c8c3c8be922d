"""Which requests may be answered from a cache, by dialect."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.protocols import registry
from relayd.protocols.cacheable import CacheRules, is_deterministic


def rules_of(name: str) -> CacheRules:
    rules = registry.load(name).cache_rules
    assert rules is not None
    return rules


@pytest.mark.parametrize(("name", "members", "obstacle"), [
    ("openai_chat", {}, ""), ("openai_chat", {"n": 1, "store": False, "user": "x", "modalities": ["text"]}, ""),
    ("openai_chat", {"n": 2}, "samples"), ("openai_chat", {"n": "1"}, "samples"), ("openai_chat", {"store": True}, "stores"),
    ("openai_chat", {"web_search_options": {}}, "stored_state"), ("openai_chat", {"web_search_options": {"x": 1}}, "stored_state"),
    ("openai_chat", {"web_search_options": None, "plugins": []}, ""), ("openai_chat", {"plugins": [{"id": "web"}]}, "stored_state"),
    ("openai_chat", {"tools": [{"type": "function", "function": {"name": "f"}}]}, ""), ("openai_chat", {"tools": [{"type": "web_search"}]}, "server_tools"),
    ("openai_chat", {"tools": ["x"]}, "server_tools"), ("openai_chat", {"modalities": ["text", "audio"]}, "audio"),
    ("openai_responses", {"input": "x"}, ""), ("openai_responses", {"store": True}, "stores"), ("openai_responses", {"store": None}, ""),
    ("openai_responses", {"previous_response_id": "resp_1"}, "stored_state"), ("openai_responses", {"previous_response_id": None}, ""),
    ("openai_responses", {"conversation": "c"}, "stored_state"), ("openai_responses", {"background": True}, "stored_state"),
    ("openai_responses", {"background": False}, ""), ("openai_responses", {"prompt": {"id": "p"}}, "stored_state"),
    ("openai_responses", {"input": [{"id": "i"}]}, "stored_state"), ("openai_responses", {"input": [{"id": "i", "type": None}]}, "stored_state"),
    ("openai_responses", {"input": [{"id": "i", "role": "user", "content": "x"}, {"id": "j", "type": "reasoning"}]}, ""),
    ("openai_responses", {"input": [{"type": "item_reference", "id": "i"}]}, "stored_state"), ("openai_responses", {"tools": [{"type": "mcp"}]}, "server_tools"),
    ("anthropic_messages", {"tools": [{"name": "f", "input_schema": {}}, {"type": "custom", "name": "g"}]}, ""),
    ("anthropic_messages", {"tools": [{"type": "code_execution_20250825"}]}, "server_tools"), ("anthropic_messages", {"container": "c"}, "stored_state"),
], ids=str)  # fmt: skip
def test_obstacles(name: str, members: dict[str, Any], obstacle: str) -> None:
    assert rules_of(name).obstacle(members, shared=False) == obstacle


def test_a_shared_answer_is_not_one_that_the_provider_stores_for_its_consumer() -> None:
    rules = rules_of("openai_responses")
    assert rules.obstacle({}, shared=True) == "stores" and rules.obstacle({"store": False}, shared=True) == ""
    assert rules_of("openai_chat").obstacle({}, shared=True) == ""


@pytest.mark.parametrize(("members", "deterministic"), [
    ({"temperature": 0}, True), ({"temperature": 0.0}, True), ({"temperature": -0.0}, True), ({}, False), ({"temperature": None}, False),
    ({"temperature": 0.0001}, False), ({"temperature": "0"}, False), ({"temperature": False}, False),
])  # fmt: skip
def test_only_a_stated_temperature_of_0_is_deterministic(members: dict[str, Any], deterministic: bool) -> None:
    assert is_deterministic(members) is deterministic


@pytest.mark.parametrize(("name", "path", "generates"), [
    ("openai_chat", b"/v1/chat/completions", True), ("openai_chat", b"/v1/embeddings", False), ("openai_responses", b"/v1/responses/", True),
    ("openai_responses", b"/v1/responses/compact", False), ("anthropic_messages", b"/v1/messages/count_tokens", False), ("anthropic_messages", b"/v1/messages", True),
])  # fmt: skip
def test_paths(name: str, path: bytes, generates: bool) -> None:
    assert rules_of(name).generates(path) is generates


def test_dialects_whose_requests_are_not_compared_have_no_rules() -> None:
    assert {one.name for one in registry.dialects() if one.cache_rules is None} >= {"gemini", "ollama", "simple_chat", "dialogflow"}
