"""What becomes of a request's settings, tools and model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from relayd.protocols.canon import Format, Message, Request, Text, Thinking, Tool, ToolChoice
from relayd.protocols.dialect import Options, Refused
from relayd.protocols.gemini import DIALECT
from relayd.protocols.gemini.request import model_path

SCHEMA = {"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "additionalProperties": False}


def test_the_verb_depends_on_streaming(context: Callable[..., Request], memory: Any) -> None:
    assert DIALECT.write_request is not None
    plain = DIALECT.write_request(context(model="gemini-2.5-flash"), Options(), memory)
    assert plain.path == "/models/gemini-2.5-flash:generateContent"
    streamed = DIALECT.write_request(context(stream=True), Options(), memory)
    assert streamed.path == "/models/gemini-3-flash:streamGenerateContent?alt=sse"
    assert json.loads(plain.body) == {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-1.5-flash", "models/gemini-1.5-flash"),
        ("models/gemini-1.5-flash", "models/gemini-1.5-flash"),
        ("tunedModels/mine", "tunedModels/mine"),
        ("google/gemini-3-pro", "models/google%2Fgemini-3-pro"),
        ("../../secret?key=1#x", "models/..%2F..%2Fsecret%3Fkey%3D1%23x"),
        ("a:b c\r\nX: y", "models/a%3Ab%20c%0D%0AX%3A%20y"),
        ("größe", "models/gr%C3%B6%C3%9Fe"),
    ],
)
def test_a_models_name_cannot_escape_its_path_segment(model: str, path: str) -> None:
    assert model_path(model) == path


@pytest.mark.parametrize("model", ["", "models/", "x" * 300, "\ud800"])
def test_a_name_that_can_be_none_is_not_found(model: str) -> None:
    with pytest.raises(Refused) as refused:
        model_path(model) if model != "models/" else model_path("models/" + "y" * 300)
    assert refused.value.status == 404 and refused.value.param == "model"


def test_settings_have_their_names_and_zero_is_a_value(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    body = write(context(
        temperature=0, top_p=0.5, top_k=0, max_tokens=7, n=2, stop=("a", "b"), seed=-5, presence_penalty=0.0,
        frequency_penalty=-1, logprobs=True, top_logprobs=3, service_tier="flex",
    ))  # fmt: skip
    assert body["generationConfig"] == {
        "temperature": 0, "topP": 0.5, "topK": 0, "maxOutputTokens": 7, "candidateCount": 2, "presencePenalty": 0.0,
        "frequencyPenalty": -1, "stopSequences": ["a", "b"], "seed": -5, "responseLogprobs": True, "logprobs": 3,
    }  # fmt: skip
    assert body["serviceTier"] == "flex"


def test_missing_fields_are_not_sent(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    body = write(context(stop=(), service_tier="auto", user="u", metadata={"a": "b"}, logit_bias={"1": 2}, verbosity="low"))
    assert set(body) == {"contents"}


def test_a_long_seed_becomes_one_of_32_bits_always_the_same(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    first = write(context(seed=1 << 40 | 77))["generationConfig"]["seed"]
    assert first == write(context(seed=1 << 40 | 77))["generationConfig"]["seed"] == 77


def test_a_schema_of_the_answer_goes_whole_to_models_that_take_it(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    wanted = Format("json_schema", "x", SCHEMA, True)
    settings = write(context(model="gemini-2.5-pro", format=wanted))["generationConfig"]
    assert settings == {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}
    settings = write(context(model="gemini-1.5-pro", format=wanted))["generationConfig"]
    assert settings["responseSchema"] == {
        "type": "object",
        "properties": {"a": {"type": "string", "nullable": True}},
    }
    assert write(context(format=Format("json_object")))["generationConfig"] == {"responseMimeType": "application/json"}
    assert "generationConfig" not in write(context(format=Format("text")))


@pytest.mark.parametrize(
    ("model", "thinking", "config"),
    [
        ("gemini-3-flash", Thinking("low"), {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("gemini-3-flash", Thinking("none"), {"thinkingLevel": "MINIMAL"}),
        ("gemini-3-flash", Thinking("medium", visible=False), {"thinkingLevel": "MEDIUM"}),
        ("gemini-3-pro-preview", Thinking("medium"), {"thinkingLevel": "HIGH", "includeThoughts": True}),
        ("gemini-3.1-pro", Thinking("minimal"), {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("gemini-3-flash", Thinking("xhigh"), {"thinkingLevel": "HIGH", "includeThoughts": True}),
        ("gemini-2.5-flash", Thinking("high"), {"thinkingBudget": 24576, "includeThoughts": True}),
        ("gemini-2.5-flash", Thinking(enabled=False), {"thinkingBudget": 0}),
        ("gemini-2.5-pro", Thinking("none"), {"thinkingBudget": 128}),
        ("gemini-2.5-pro", Thinking("low", 2000), {"thinkingBudget": 2000, "includeThoughts": True}),
        ("gemini-3-pro", Thinking(visible=True), {"includeThoughts": True}),
        ("gemini-3-pro", Thinking(enabled=True), {"includeThoughts": True}),
        ("gemini-3-pro", Thinking(), None),
        ("gemini-2.0-flash", Thinking("high"), None),
        ("models/gemini-1.5-pro", Thinking("high"), None),
    ],
)
def test_the_effort_is_what_the_generation_of_the_model_takes(context: Callable[..., Request], write: Callable[..., dict[str, Any]], model: str, thinking: Any, config: Any) -> None:
    assert write(context(model=model, thinking=thinking)).get("generationConfig", {}).get("thinkingConfig") == config


def test_an_unknown_effort_is_refused_by_name(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(Refused) as refused:
        write(context(thinking=Thinking("enormous")))
    assert refused.value.param == "reasoning_effort" and "enormous" in refused.value.message


def test_functions_are_declared_with_their_own_schema(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    tools = (Tool("look", "Looks.", SCHEMA, strict=True), Tool("bare"), Tool("patch", kind="custom", grammar={"a": 1}))
    body = write(context(tools=tools))
    first, second, third = body["tools"][0]["functionDeclarations"]
    assert first == {"name": "look", "description": "Looks.", "parametersJsonSchema": SCHEMA}
    assert second == {"name": "bare"}
    assert third["parametersJsonSchema"]["required"] == ["input"] and '{"a":1}' in third["description"]
    assert "toolConfig" not in body


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        (ToolChoice("auto"), {"mode": "AUTO"}),
        (ToolChoice("required"), {"mode": "ANY"}),
        (ToolChoice("none"), {"mode": "NONE"}),
        (ToolChoice("named", "look"), {"mode": "ANY", "allowedFunctionNames": ["look"]}),
    ],
)
def test_each_choice_of_tools_has_its_mode(context: Callable[..., Request], write: Callable[..., dict[str, Any]], choice: Any, config: Any) -> None:
    body = write(context(tools=(Tool("look"),), tool_choice=choice))
    assert body["toolConfig"] == {"functionCallingConfig": config}
    if choice.mode != "named":
        assert "toolConfig" not in write(context(tool_choice=choice))


def test_a_choice_of_a_tool_that_is_not_there_is_refused(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(Refused) as refused:
        write(context(tools=(Tool("look"),), tool_choice=ToolChoice("named", "other")))
    assert refused.value.param == "tool_choice"


def test_long_numbers_and_other_letters_arrive_as_they_were(context: Callable[..., Request], memory: Any) -> None:
    schema = {"minimum": 123456789012345678901234567890}
    request = context(Message("user", (Text("Grüße \ud83c"),)), tools=(Tool("a", parameters=schema),))
    assert DIALECT.write_request is not None
    body = DIALECT.write_request(request, Options(), memory).body
    assert b"123456789012345678901234567890" in body and json.loads(body)["contents"][0]["parts"][0]["text"][:5] == "Grüße"
