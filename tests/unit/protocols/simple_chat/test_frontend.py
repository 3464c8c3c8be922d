"""The plain chat front of the chat gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    Request,
    Text,
    TextDelta,
    Usage,
)
from relayd.protocols.dialect import EncodedResponse, Refused, RequestContext
from relayd.protocols.simple_chat import DIALECT

ASK = RequestContext("POST", "/chat", "", {}, "r-1", None)  # type: ignore[arg-type]  # remembers nothing


def read(**members: Any) -> Request:
    body = {"model": "mistral-7b-instruct", "messages": [{"role": "user", "content": "Hello!"}]} | members
    assert DIALECT.read_request is not None
    return DIALECT.read_request(json.dumps(body).encode(), ASK)


def answer(request: Request, *events: Event, upstreams: tuple[str, ...] = ("local",)) -> EncodedResponse:
    assert DIALECT.renderer is not None
    renderer = DIALECT.renderer(request, ASK)
    for name in upstreams:
        renderer.set_upstream_name(name)
    assert [renderer.render([event]) for event in events] == [b""] * len(events)
    assert renderer.keepalive() == b""
    return renderer.response()


def test_the_answer_is_a_completion_that_names_its_backend() -> None:
    rendered = answer(
        read(), Begin("x", "served", 1234567890), ReasoningDelta("hm"), TextDelta("Hello! "), TextDelta("How are you?"),
        Usage(3, 4), Finish("stop"), End(),
    )  # fmt: skip
    body = json.loads(rendered.body)
    assert rendered.status == 200 and rendered.content_type == "application/json"
    assert body.pop("id").startswith("chat-")
    assert list(body.items()) == [
        ("object", "chat.completion"),
        ("created", 1234567890),
        ("model", "mistral-7b-instruct"),
        ("backend", "local"),
        ("choices", [{"index": 0, "message": {"role": "assistant", "content": "Hello! How are you?"}, "finish_reason": "stop"}]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "most"),
    [
        ("gemini-1.5-flash", 2048), ("models/gemini-1.5-pro", 2048), ("Gemini-2.5-pro", 2048),
        ("mistral-7b-instruct", 150), ("my-gemini", 150),
    ],
)  # fmt: skip
def test_the_prefix_of_the_models_name_decides_the_limit(model: str, most: int) -> None:
    request = read(model=model)
    assert request.max_tokens == most and request.stream is False
    assert read(model=model, max_tokens=50).max_tokens == 50 and read(model=model, max_tokens=0).max_tokens == 0


@pytest.mark.parametrize("model", ["gemini-1.5-flash", "mistral-7b-instruct"])
def test_the_backend_is_the_upstream_that_answered_and_not_one_that_failed_before_it(model: str) -> None:
    body = json.loads(answer(read(model=model), TextDelta("x"), Finish("stop"), End(), upstreams=("first", "second")).body)
    assert body["backend"] == "second"


def test_settings_and_messages_are_those_of_chat() -> None:
    request = read(
        temperature=0, top_p=0.5, stream=True, stream_options={"include_usage": True}, logprobs=True, unknown={"a": 1},
        messages=[{"role": "system", "content": "Be kind"}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    )  # fmt: skip
    assert (request.temperature, request.top_p, request.stream, request.include_usage) == (0, 0.5, False, False)
    assert request.logprobs is None and request.extra == {}
    assert [(one.role, one.parts) for one in request.messages] == [("system", (Text("Be kind"),)), ("user", (Text("Hi"),))]


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"model": None}, "model"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "a"}}]}, "tools"),
    ],
)
def test_faults_name_the_field(members: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as refused:
        read(**members)
    assert refused.value.param == param and refused.value.status == 400


def test_a_failure_has_the_upstreams_status_and_a_json_error() -> None:
    rendered = answer(read(), TextDelta("Hel"), Failure(429, "Busy.", "rate_limit_exceeded", retry_after_s=2), End())
    assert rendered.status == 429 and json.loads(rendered.body)["error"]["message"] == "Busy."
    assert dict(rendered.headers)["Retry-After"] == "2"
    assert answer(read(), TextDelta("Hel")).status == 502


def test_other_choices_are_left_out_and_a_refusal_is_text() -> None:
    rendered = answer(read(), TextDelta("b", 1), RefusalDelta("No."), Finish("length", 0), Finish("stop", 1), End())
    (choice,) = json.loads(rendered.body)["choices"]
    assert choice["message"]["content"] == "No." and choice["finish_reason"] == "length"


def test_ids_are_never_the_same() -> None:
    assert len({json.loads(answer(read(), End()).body)["id"] for _ in range(50)}) == 50
