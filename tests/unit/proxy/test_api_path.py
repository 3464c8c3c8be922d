"""Base paths as in an SDK's base_url, with and without a version."""

from __future__ import annotations

import pytest

from relayd.proxy.api_path import models_in_path, passthrough_path, translated_path, with_model

CHAT, MESSAGES = b"/v1/chat/completions", b"/v1/messages"


@pytest.mark.parametrize(("protocol", "base", "path", "expected"), [
    ("openai_chat", b"/v1", CHAT, CHAT),
    ("openai_chat", b"", CHAT, CHAT),
    ("openai_chat", b"/api/paas/v4", CHAT, b"/api/paas/v4/chat/completions"),
    ("openai_chat", b"/v1beta/openai", CHAT, b"/v1beta/openai/chat/completions"),
    ("openai_responses", b"/openai/v1", b"/v1/responses", b"/openai/v1/responses"),
    ("openai_chat", b"/v1", b"/chat/completions", CHAT),
    ("openai_chat", b"/v1", b"/v1x/chat", b"/v1/v1x/chat"),
    ("anthropic_messages", b"", MESSAGES, MESSAGES),
    ("anthropic_messages", b"/v1", MESSAGES, MESSAGES),
    ("anthropic_messages", b"/anthropic", MESSAGES, b"/anthropic/v1/messages"),
    ("gemini", b"/v1beta", b"/v1beta/models/m:generateContent", b"/v1beta/models/m:generateContent"),
    ("gemini", b"/v1beta", b"/v1/models/m:generateContent", b"/v1beta/models/m:generateContent"),
    ("gemini", b"/v1beta", b"/models/m:generateContent", b"/v1beta/models/m:generateContent"),
    ("ollama", b"", b"/api/chat", b"/api/chat"),
    ("plain", b"/v1", b"/v1/x", b"/v1/v1/x"),
])  # fmt: skip
def test_what_passes_has_the_version_once(protocol: str, base: bytes, path: bytes, expected: bytes) -> None:
    assert passthrough_path(protocol, base, path) == expected


@pytest.mark.parametrize(("protocol", "base", "path", "expected"), [
    ("openai_chat", b"/v1", b"/chat/completions", CHAT),
    ("openai_chat", b"", b"/chat/completions", CHAT),
    ("openai_chat", b"/v1beta/openai", b"/chat/completions", b"/v1beta/openai/chat/completions"),
    ("anthropic_messages", b"", b"/messages", MESSAGES),
    ("anthropic_messages", b"/anthropic", b"/messages", b"/anthropic/v1/messages"),
    ("anthropic_messages", b"/v1", b"/messages", MESSAGES),
    ("gemini", b"", b"/models/m:generateContent", b"/v1beta/models/m:generateContent"),
    ("gemini", b"/v1beta", b"/models/m:generateContent", b"/v1beta/models/m:generateContent"),
    ("ollama", b"", b"/api/chat", b"/api/chat"),
    ("ollama", b"/behind", b"/api/chat", b"/behind/api/chat"),
])  # fmt: skip
def test_what_is_translated_has_the_version_that_is_missing(
    protocol: str, base: bytes, path: bytes, expected: bytes
) -> None:
    assert translated_path(protocol, base, path) == expected


def test_a_model_in_the_path_gets_another_name() -> None:
    assert with_model(b"/v1beta/models/fast:streamGenerateContent", "g/ü 3") == (
        b"/v1beta/models/g%2F%C3%BC%203:streamGenerateContent")
    assert with_model(b"/v1/chat/completions", "m") == b"/v1/chat/completions"


@pytest.mark.parametrize("path", [
    "/v1beta/models/M:generateContent", "/v1beta/tunedModels/M:generateContent", "/v1/projects/p/locations/l/endpoints/M:predict",
    "/v1/projects/p/locations/l/publishers/google/models/M:streamGenerateContent", "/openai/deployments/M/chat/completions",
    "/openai/deployments/M/rerank", "/deployments/M/embeddings", "/OpenAI/Deployments/M/responses", "/v1/engines/M/completions", "/model/M/invoke", "/model/M/converse-stream",
    "/model/M/invoke-with-response-stream", "/v1/models/M/versions/2:predict", "/v2/models/M/infer", "/v2/models/M/versions/1/generate",
])  # fmt: skip
def test_the_path_of_each_api_names_the_model_and_takes_another(path: str) -> None:
    named = path.replace("/M", "/a-1.5").encode()
    assert [named[place.start : place.end] for place in models_in_path(named)] == [b"a-1.5"]
    assert with_model(named, "b/2") == path.replace("/M", "/b%2F2").encode()


@pytest.mark.parametrize("path", [
    b"/v1/models/a", b"/v1/models", b"/deployments/a/logs", b"/models/a/b:x", b"/model/a", b"/v1/engines", b"/endpoints/a/invocations",
    b"/openai/deployments/a",
])  # fmt: skip
def test_other_paths_name_none(path: bytes) -> None:
    assert models_in_path(path) == [] and with_model(path, "m") == path
