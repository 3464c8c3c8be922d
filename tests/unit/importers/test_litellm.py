"""LiteLLM: models, providers, keys, fallbacks, and models that are not converted."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.importers import Conversion, converted


def litellm(text: str, env: str = "") -> Conversion:
    files = [("config.yaml", text), *([(".env", env)] if env else [])]
    return converted("litellm", files, named=lambda pattern, beside: [], read=lambda path: "")


def entry(params: str, name: str = "m") -> str:
    return f"  - {{model_name: \"{name}\", litellm_params: {{{params}}}}}\n"


def section(result: Conversion, name: str) -> dict[str, Any]:
    return {key: one.value for key, one in result.draft.document("/k").get(name, {}).items()}


def reasons(result: Conversion, line: int) -> str:
    return "; ".join(next(one for one in result.entries if one.line == line).reasons)


@pytest.mark.parametrize(("params", "values", "model"), [
    ("model: openai/gpt-4o, api_key: k1", {"protocol": "openai_chat", "endpoints": ["https://api.openai.com/v1"], "auth": {"bearer": {"file": "/k/openai"}}}, "gpt-4o"),
    ("model: claude-3-5-haiku, api_key: k1", {"protocol": "anthropic_messages", "endpoints": ["https://api.anthropic.com"],
                                              "auth": {"header": {"name": "x-api-key", "value": {"file": "/k/anthropic"}}}}, "claude-3-5-haiku"),
    ("model: ollama_chat/llama3, api_base: 'http://h:11434/'", {"protocol": "ollama", "endpoints": ["http://h:11434"]}, "llama3"),
    ("model: hosted_vllm/org/name, api_base: 'http://h:8000/v1'", {"protocol": "openai_chat", "endpoints": ["http://h:8000/v1"]}, "org/name"),
    ("model: openai/x, api_base: 'http://h/v1/chat/completions', api_key: os.environ/K", {"protocol": "openai_chat", "endpoints": ["http://h/v1"], "auth": {"bearer": {"env": "K"}}}, "x"),
    ("model: groq/x", {"protocol": "openai_chat", "endpoints": ["https://api.groq.com/openai/v1"], "auth": {"bearer": {"env": "GROQ_API_KEY"}}}, "x"),
    ("model: 'openai/*', api_key: k1", {"protocol": "openai_chat", "endpoints": ["https://api.openai.com/v1"], "auth": {"bearer": {"file": "/k/openai"}}}, "*"),
])
def test_an_entry_is_an_upstream_and_a_model(params: str, values: dict[str, Any], model: str) -> None:
    result = litellm("model_list:\n" + entry(params))
    (name,) = section(result, "upstreams")
    assert section(result, "upstreams")[name] == values and section(result, "models") == {"m": {"upstream": name, "model": model}}


def test_a_variable_in_the_env_becomes_a_key_file() -> None:
    result = litellm("model_list:\n" + entry("model: openai/x, api_key: os.environ/K"), "K=the-key-1\n")
    assert result.keys == {"openai": "the-key-1"} and [str(one.fidelity) for one in result.entries if one.file == ".env"] == ["exact"]


def test_entries_with_the_same_provider_and_key_share_an_upstream() -> None:
    result = litellm("model_list:\n" + entry("model: openai/a, api_key: k1", "a") + entry("model: openai/b, api_key: k1", "b") + entry("model: openai/c, api_key: k2", "c"))
    assert section(result, "models") == {"a": {"upstream": "openai"}, "b": {"upstream": "openai"}, "c": {"upstream": "openai-2"}}


def test_rates_are_reported_and_not_applied() -> None:
    result = litellm("model_list:\n  - model_name: a\n    litellm_params:\n      model: openai/a\n      rpm: 5\n      tpm: 6\n")
    assert [str(one.fidelity) for one in result.entries if one.line in (5, 6)] == ["by hand"] * 2
    assert "limits" not in section(result, "upstreams")["openai"]


def test_a_model_that_is_not_converted_is_refused_even_beside_a_wildcard() -> None:
    result = litellm("model_list:\n" + entry("model: bedrock/x", "secret-model") + entry("model: 'openai/*'", "*"))
    first = result.draft.routes[0].value
    assert first["match"] == {"model": ["secret-model"]} and first["respond"]["status"] == 501


def test_fallbacks_and_aliases() -> None:
    result = litellm("model_list:\n" + entry("model: openai/a", "a") + entry("model: groq/b", "b") + entry("model: openrouter/a", "a")
                     + "litellm_settings: {fallbacks: [{a: [b, gone]}], context_window_fallbacks: [{a: [b]}], content_policy_fallbacks: [{b: [a]}]}\n"
                     + "router_settings: {model_group_alias: {gpt: a, none: gone}}\n")
    found = section(result, "models")
    expected = [{"upstream": "openrouter"}, {"upstream": "groq", "model": "b", "on": ["unavailable", "overloaded", "context_length"]}]
    assert found["a"] == {"upstream": "openai", "fallbacks": expected}
    assert found["b"]["fallbacks"] == [{"upstream": "openai", "model": "a", "on": ["refused_content"]}]
    assert found["gpt"] == {"upstream": "openai", "model": "a", "fallbacks": expected}
    assert "was not converted" in reasons(result, 5) and "was not converted" in reasons(result, 6)


def test_settings_of_the_router() -> None:
    result = litellm("model_list:\n" + entry("model: openai/a, max_retries: 4, timeout: 9, stream_timeout: 3") + entry("model: groq/b", "b")
                     + "router_settings: {num_retries: 1, timeout: 30, routing_strategy: least-busy, allowed_fails: 2, cooldown_time: 60}\n")
    assert section(result, "upstreams")["groq"] == {
        "protocol": "openai_chat", "endpoints": ["https://api.groq.com/openai/v1"], "auth": {"bearer": {"env": "GROQ_API_KEY"}}, "retries": {"attempts": 2},
        "timeouts": {"first_byte": "30s", "total": "30s"}, "balance": "least_request", "breaker": {"failures": 3, "open_for": "60s"}}
    one = section(result, "upstreams")["openai"]
    assert one["retries"] == {"attempts": 5} and one["timeouts"] == {"first_byte": "9s", "total": "9s", "idle": "3s"}


def test_the_master_key_is_a_consumer() -> None:
    result = litellm("model_list:\n" + entry("model: groq/b") + "general_settings: {master_key: sk-1}\n")
    assert section(result, "consumers") == {"master": {"key": {"file": "/k/master"}}}
    assert {tuple(one.value.get("allow", ())) for one in result.draft.routes if one.value["upstream"] != "admin"} == {("master",)}
    open_one = litellm("model_list:\n" + entry("model: groq/b"))
    assert not any("allow" in one.value for one in open_one.draft.routes) and "no master key" in open_one.remarks[1]


@pytest.mark.parametrize(("params", "reason"), [
    ("model: hosted_vllm/x", "needs the address"), ("model: openai/x, api_base: os.environ/GONE", "GONE is not in the files"),
    ("model: openai/x, api_base: 'ftp://h'", "must begin with http"), ("model: strange", "does not know this provider"), ("api_key: k", "501"),
])
def test_entries_that_cannot_be_converted(params: str, reason: str) -> None:
    result = litellm("model_list:\n" + entry(params))
    assert not section(result, "upstreams") and reason in reasons(result, 2)


@pytest.mark.parametrize(("converted_names", "closed"), [
    (["gpt-4o", "openai/*"], []),  # LiteLLM takes these before the pattern *
    ([], ["*"]),
])
def test_a_pattern_that_is_not_converted_does_not_close_the_other_models(converted_names: list[str], closed: list[str]) -> None:
    entries = "".join(f"  - {{model_name: '{name}', litellm_params: {{model: '{name if '/' in name else f'openai/{name}'}', api_key: sk-x}}}}\n" for name in converted_names)
    result = litellm(f"model_list:\n{entries}  - {{model_name: '*', litellm_params: {{model: '*'}}}}\n")
    refused = [one.value["match"]["model"] for one in result.draft.routes if one.value.get("respond", {}).get("status") == 501]
    assert refused == ([closed] if closed else [])
    assert any("404" in reason for one in result.entries for reason in one.reasons) is not bool(closed)


def test_an_entry_that_relayd_cannot_name_is_reported_and_does_not_spoil_the_others() -> None:
    result = litellm("model_list:\n" + entry("model: openai/a, api_key: k1", "good") + entry("model: openai/b, api_key: k1", "a\\nb")
                     + entry("model: openai/c, api_key: os.environ/NOT A NAME", "no-key"))
    assert list(section(result, "models")) == ["good"] and "no model of this name" in reasons(result, 3)
    assert "no name of a variable" in reasons(result, 4)
    assert {"model": ["no-key"]} in [one.value.get("match") for one in result.draft.routes]
