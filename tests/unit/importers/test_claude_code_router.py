"""Claude Code Router: providers, the names that Claude Code requests, and access."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.importers import Conversion, converted


def router(**config: Any) -> Conversion:
    return converted("claude_code_router", [("config.json", json.dumps(config, indent=1))], named=lambda pattern, beside: [], read=lambda path: "")


def provider(name: str = "p", url: str = "http://h/v1/chat/completions", **more: Any) -> dict[str, Any]:
    return {"name": name, "api_base_url": url, "models": ["m"], **more}


def section(result: Conversion, name: str) -> dict[str, Any]:
    return {key: one.value for key, one in result.draft.document("/k").get(name, {}).items()}


@pytest.mark.parametrize(("url", "transformer", "protocol", "base"), [
    ("https://openrouter.ai/api/v1/chat/completions", None, "openai_chat", "https://openrouter.ai/api/v1"),
    ("https://generativelanguage.googleapis.com/v1beta/models/", ["gemini"], "gemini", "https://generativelanguage.googleapis.com/v1beta"),
    ("https://api.anthropic.com/v1/messages", ["Anthropic"], "anthropic_messages", "https://api.anthropic.com"),
    ("http://127.0.0.1:8000/v1", None, "openai_chat", "http://127.0.0.1:8000/v1"),
])
def test_a_provider_is_an_upstream(url: str, transformer: Any, protocol: str, base: str) -> None:
    result = router(Providers=[provider(url=url, api_key="secret-1", transformer={"use": transformer or []})], Router={"default": "p,m"})
    found = section(result, "upstreams")["p"]
    assert (found["protocol"], found["endpoints"]) == (protocol, [base]) and "/k/p" in json.dumps(found["auth"]) and result.keys == {"p": "secret-1"}


def test_models_by_the_names_that_claude_code_requests() -> None:
    result = router(Providers=[provider("a"), provider("b")], Router={"default": "a,m", "background": "b,m", "think": "b,m"})
    assert section(result, "models") == {"a,m": {"upstream": "a", "model": "m"}, "b,m": {"upstream": "a", "model": "m"}, "claude-*haiku*": {"upstream": "a", "model": "m"},
                                         "*": {"upstream": "a", "model": "m"}}
    assert {one.text.split(":")[0]: str(one.fidelity) for one in result.entries if '"think"' in one.text} == {'"think"': "not supported"}


def test_access_is_as_open_as_it_was() -> None:
    result = router(Providers=[provider()], Router={"default": "p,m"}, HOST="0.0.0.0")
    assert section(result, "listeners") == {"local": {"address": "127.0.0.1:3456"}} and not section(result, "consumers")
    result = router(Providers=[provider()], Router={"default": "p,m"}, HOST="0.0.0.0", PORT=9, APIKEY="secret-2")
    assert section(result, "listeners") == {"local": {"address": "0.0.0.0:9"}} and section(result, "consumers") == {"team": {"key": {"file": "/k/apikey"}}}
    assert [one.value.get("allow") for one in result.draft.routes] == [None, ["team"]]


def test_variables_stay_variables() -> None:
    result = router(Providers=[provider(api_key="${KEY_A}")], Router={"default": "p,m"}, APIKEY="$KEY_B")
    assert section(result, "upstreams")["p"]["auth"] == {"bearer": {"env": "KEY_A"}} and section(result, "consumers") == {"team": {"key": {"env": "KEY_B"}}}


def test_what_is_missing_is_by_hand() -> None:
    result = router(Providers=[{"name": "x"}, provider(url="h")], Router={"default": "p,m", "background": "x,y"})
    assert not section(result, "upstreams") and not section(result, "models") and sum(one.fidelity == 2 for one in result.entries) >= 4


def test_comments_and_trailing_commas_are_read_as_the_router_reads_them() -> None:
    text = """{
  // where "requests" go
  "Providers": [
    {"name": "p", "api_base_url": "https://h/v1/chat/completions", "models": ["m"], "api_key": "a//b"}, /* one
      more: { */
  ],
  "Router": {"default": "p,m"}, // the end
}
"""
    result = converted("claude_code_router", [("config.json", text)], named=lambda pattern, beside: [], read=lambda path: "")
    assert section(result, "upstreams")["p"]["endpoints"] == ["https://h/v1"] and result.keys == {"p": "a//b"}
    assert "*" in section(result, "models") and [one.line for one in result.entries] == [3, 4, 7]
