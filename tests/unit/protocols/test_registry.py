"""The dialects found by their folders; a sixth one, planted beside them, is known everywhere."""

from __future__ import annotations

import pytest

from relayd.protocols import registry


def test_names_are_those_of_the_folders_and_nothing_else() -> None:
    assert registry.names() == (
        "anthropic_messages", "dialogflow", "gemini", "ollama", "openai_chat", "openai_responses", "simple_chat",
    )  # fmt: skip


def test_a_dialect_is_loaded_once_and_plain_is_none() -> None:
    assert registry.load("openai_chat") is registry.load("openai_chat") and registry.dialect("plain") is None
    for name in ("openai", "canon", "tap", "_json", "../x"):
        with pytest.raises(KeyError):
            registry.dialect(name)
    with pytest.raises(KeyError):
        registry.load("plain")


def test_an_upstream_speaks_only_what_endpoints_speak() -> None:
    assert "simple_chat" in registry.Protocols() and "simple_chat" not in registry.Protocols(endpoints=True)
    assert list(registry.Protocols(endpoints=True)) == [
        "plain", "anthropic_messages", "gemini", "ollama", "openai_chat", "openai_responses",
    ]  # fmt: skip
    assert 7 not in registry.Protocols() and len(registry.Protocols()) == 8
