"""Google's own SDK as a judge: its models, which refuse unknown fields, read every request that is written."""

from __future__ import annotations

import json
import re
import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relayd.protocols.canon import (
    Audio,
    File,
    Format,
    Image,
    Message,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from relayd.protocols.dialect import Options, Refused
from relayd.protocols.gemini import DIALECT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    genai = pytest.importorskip("google.genai")
    httpx = pytest.importorskip("httpx")
types = genai.types

pytestmark = pytest.mark.client
NAMES = {"systemInstruction", "contents", "generationConfig", "tools", "toolConfig", "serviceTier"}


def judged(body: dict[str, Any]) -> None:
    assert set(body) <= NAMES
    for content in body["contents"]:
        read = types.Content.model_validate(content)
        assert read.parts and read.role in ("user", "model")
        for part, again in zip(content["parts"], read.parts, strict=True):
            inner = again.model_dump(exclude_none=True, by_alias=True, mode="json")
            signature = part.pop("thoughtSignature", None)  # bytes there: base64 again
            assert (inner.pop("thoughtSignature", None) is None) == (signature is None)
            assert inner == part, "the SDK lost something"
    if "systemInstruction" in body:
        assert types.Content.model_validate(body["systemInstruction"]).parts
    if "generationConfig" in body:
        types.GenerationConfig.model_validate(body["generationConfig"])
        config = {key: value for key, value in body["generationConfig"].items() if key != "thinkingConfig"}
        types.GenerateContentConfig.model_validate(config)
    for tool in body.get("tools", ()):
        read_tool = types.Tool.model_validate(tool)
        assert len(read_tool.function_declarations) == len(tool["functionDeclarations"])
    if "toolConfig" in body:
        read_config = types.ToolConfig.model_validate(body["toolConfig"])
        assert read_config.function_calling_config.mode in set(types.FunctionCallingConfigMode)


TEXTS = st.text(max_size=12)
PARTS = (
    TEXTS.map(Text)
    | st.just(Image("data:image/png;base64,QUJD"))
    | st.just(Image("https://example.org/a.png"))
    | st.just(File("a.pdf", "data:application/pdf;base64,QUJD"))
    | st.just(Audio("QUJD", "wav"))
)
SCHEMAS = st.sampled_from([
    None, {"type": "object", "properties": {}}, {"type": "object", "$defs": {"a": {"const": 1}}, "additionalProperties": False,
    "properties": {"a": {"$ref": "#/$defs/a"}, "b": {"type": ["string", "null"]}}, "required": ["a"]},
])  # fmt: skip


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    messages: list[Message] = []
    for number in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["user", "system", "assistant", "calls"]))
        if kind == "user":
            messages.append(Message("user", tuple(draw(st.lists(PARTS, max_size=3)))))
        elif kind in ("system", "assistant"):
            messages.append(Message(kind, tuple(Text(text) for text in draw(st.lists(TEXTS, max_size=2)))))
        else:
            ids = [f"call_{number}_{one}" for one in range(draw(st.integers(1, 3)))]
            signature = draw(st.none() | st.just("c2ln"))
            calls = [ToolCall(one, draw(st.sampled_from(["look", "9x", "a b"])), '{"a":1}') for one in ids]
            calls[0] = ToolCall(calls[0].id, calls[0].name, "", signature=signature)
            messages.append(Message("assistant", (Text(draw(TEXTS)), *calls)))
            for one in draw(st.permutations(ids))[: draw(st.integers(0, 3))]:
                messages.append(Message("tool", (ToolResult(one, (Text(draw(TEXTS)),), draw(st.booleans())),)))
    return tuple(messages)


REQUESTS = st.builds(
    Request,
    model=st.sampled_from(["gemini-1.5-flash", "gemini-2.5-pro", "gemini-3-pro-preview", "models/gemini-3-flash"]),
    messages=conversations(),
    stream=st.booleans(),
    tools=st.lists(st.builds(Tool, st.sampled_from(["look", "9x", "a b"]), st.none() | TEXTS, SCHEMAS), max_size=2).map(tuple),
    tool_choice=st.none() | st.sampled_from([ToolChoice("auto"), ToolChoice("required"), ToolChoice("none")]),
    max_tokens=st.none() | st.integers(1, 100),
    temperature=st.none() | st.floats(0, 2),
    top_k=st.none() | st.integers(0, 40),
    stop=st.none() | st.lists(TEXTS, max_size=2).map(tuple),
    n=st.none() | st.integers(1, 4),
    seed=st.none() | st.integers(),
    logprobs=st.none() | st.booleans(),
    format=st.none()
    | st.just(Format("json_object"))
    | st.just(Format("json_schema", "x", {"type": "object", "properties": {"a": {"type": "string"}}})),
    thinking=st.none() | st.builds(Thinking, st.none() | st.sampled_from(["none", "low", "high"]), visible=st.none() | st.booleans()),
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REQUESTS)
def test_every_request_is_read_by_the_sdks_models_without_a_loss(memory: Any, request_: Any) -> None:
    assert DIALECT.write_request is not None
    try:
        sending = DIALECT.write_request(request_, Options(), memory)
    except Refused as refused:
        assert "no message" in refused.message
        return
    judged(json.loads(sending.body))


def test_the_answers_of_the_other_tests_are_answers_to_the_sdk() -> None:
    """What is scripted here has the shape that Google's client reads."""
    frame = {
        "candidates": [{
            "content": {"role": "model", "parts": [
                {"text": "hm", "thought": True},
                {"functionCall": {"name": "a", "args": {"x": 1}, "id": "1"}, "thoughtSignature": "c2ln"},
            ]},
            "finishReason": "STOP", "index": 0,
        }],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2, "thoughtsTokenCount": 3, "cachedContentTokenCount": 1},
        "modelVersion": "m", "responseId": "r", "promptFeedback": {"blockReason": "SAFETY"},
    }  # fmt: skip
    read = types.GenerateContentResponse.model_validate(frame)
    assert read.function_calls[0].args == {"x": 1} and read.candidates[0].finish_reason == "STOP"
    assert read.candidates[0].content.parts[0].thought and read.usage_metadata.thoughts_token_count == 3


def camel(value: Any) -> Any:
    """The SDK mixes the two ways of writing a field's name, which mean the same (ProtoJSON)."""
    if isinstance(value, dict):
        return {re.sub("_([a-z])", lambda found: found[1].upper(), key): camel(inner) for key, inner in value.items()}
    return [camel(inner) for inner in value] if isinstance(value, list) else value


def test_the_sdk_writes_the_same_for_the_same_question(memory: Any) -> None:
    """Its own words for a turn with a tool, sent through its own writer, against ours."""
    sent: list[Any] = []  # requests and responses of httpx, which is not there for everybody

    def answer(request: Any) -> Any:
        sent.append(request)
        return httpx.Response(200, json={"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]})

    options = {"base_url": "http://127.0.0.1:9", "client_args": {"transport": httpx.MockTransport(answer)}}
    client = genai.Client(api_key="k", http_options=options)
    config = types.GenerateContentConfig(
        system_instruction="Be kind", temperature=0.5, max_output_tokens=9, stop_sequences=["x"], seed=3,
        thinking_config=types.ThinkingConfig(thinking_level="low", include_thoughts=True),
        tools=[types.Tool(function_declarations=[types.FunctionDeclaration(name="look", description="Looks", parameters_json_schema={"type": "object"})])],
        tool_config=types.ToolConfig(function_calling_config=types.FunctionCallingConfig(mode="ANY", allowed_function_names=["look"])),
    )  # fmt: skip
    client.models.generate_content(model="gemini-3-flash", contents=[
        types.Content(role="user", parts=[types.Part(text="Hi"), types.Part.from_bytes(data=b"ABC", mime_type="image/png")]),
        types.Content(role="model", parts=[types.Part(function_call=types.FunctionCall(name="look", args={"x": 1}, id="1"), thought_signature=b"sig")]),
        types.Content(role="user", parts=[types.Part(function_response=types.FunctionResponse(name="look", response={"result": "y"}, id="1"))]),
    ], config=config)  # fmt: skip
    assert DIALECT.write_request is not None
    ours = DIALECT.write_request(Request(
        "gemini-3-flash",
        (
            Message("system", (Text("Be kind"),)),
            Message("user", (Text("Hi"), Image("data:image/png;base64,QUJD"))),
            Message("assistant", (ToolCall("1", "look", '{"x":1}', signature="c2ln"),)),
            Message("tool", (ToolResult("1", (Text("y"),)),)),
        ),
        temperature=0.5, max_tokens=9, stop=("x",), seed=3, thinking=Thinking("low", visible=True),
        tools=(Tool("look", "Looks", {"type": "object"}),), tool_choice=ToolChoice("named", "look"),
    ), Options(), memory)  # fmt: skip
    theirs = json.loads(sent[0].content)
    assert sent[0].url.path.endswith(ours.path)
    theirs["systemInstruction"].pop("role", None)
    assert camel(theirs) == json.loads(ours.body)
