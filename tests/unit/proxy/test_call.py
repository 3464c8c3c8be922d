"""The AI side of an exchange: models, forms, messages of a socket."""

from __future__ import annotations

import json

import pytest

from relayd.errors import ExchangeError
from relayd.plan.plan import Plan, Target
from relayd.protocols.dialect import Dialect
from relayd.protocols.openai_chat import DIALECT as CHAT
from relayd.protocols.openai_responses import DIALECT as RESPONSES
from relayd.proxy.call import (
    Call,
    Fields,
    FormFilter,
    ask_of,
    form_finder,
    listing_asked,
    model_in_body,
    model_in_path,
)
from relayd.stores.memory import Store
from relayd.wire.http1 import RequestHead
from tests.unit.proxy.scene import head_for, plan_of

STORE = Store(10, 100_000, 60.0)
FORM = (b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nfast\r\n--b\r\n'
        b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\x00\x01\r\n--b--\r\n')


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams:
  chat: {protocol: openai_chat, endpoints: ["http://a.example/v1"]}
  plain: {endpoints: ["http://b.example/v1"]}
  messages: {protocol: anthropic_messages, endpoints: ["http://c.example/v1"]}
routes: [{name: all, upstream: chat}]
""")


def made(
    plan: Plan, body: bytes | None, path: str = "/v1/chat/completions", *lines: str, socket: bool = False,
    dialect: Dialect = CHAT,
) -> Call:
    head = head_for(*lines, start=f"POST {path} HTTP/1.1")
    head.model = "m"
    memory = STORE.space("s") if socket else None
    return Call(
        dialect, head, body, lambda: ask_of(head, b"id-1", STORE.space("a"), b"", memory),
        is_socket=socket,
    )


def target(plan: Plan, name: str, model: str | None = None) -> Target:
    upstream = plan.upstreams[name]
    return Target(upstream, model, dialect=plan.dialects.get(upstream.spec.protocol))


@pytest.mark.parametrize(("path", "model"), [
    (b"/v1beta/models/gemini-2.5:generateContent", "gemini-2.5"), (b"/models/a:streamGenerateContent", "a"),
    (b"/v1/models/a", None), (b"/v1/chat/completions", None), (b"/models/a/b:x", None),
])
def test_a_gemini_path_names_the_model(path: bytes, model: str | None) -> None:
    assert model_in_path(path) == model


@pytest.mark.parametrize(("path", "asked"), [
    ("/v1/models", ""), ("/models", ""), ("/v1/models/a/b", "a/b"), ("/v1/chat/completions", None), ("/v1/modelsx", None),
    ("/v1beta/models", ""), ("/api/tags", ""), ("/api/tags/x", None), ("/tags", None),
])
def test_paths_of_the_model_list_are_known(path: str, asked: str | None) -> None:
    assert listing_asked(path) == asked


def form_head(kind: str = "multipart/form-data; boundary=b") -> RequestHead:
    return head_for(f"Content-Type: {kind}", start="POST /v1/audio/transcriptions HTTP/1.1")


def test_a_model_is_found_in_json_and_in_forms() -> None:
    assert model_in_body(head_for(), b'{"a": {"model": "x"}, "model": "y"}') == "y"
    assert model_in_body(head_for(), b'{"model": "x", "model": "y"}') is None
    assert model_in_body(form_head(), FORM) == "fast"


def test_a_form_tells_its_model_as_soon_as_it_has_come() -> None:
    finder = form_finder(form_head())
    assert finder is not None and form_finder(form_head("text/plain")) is None
    at = FORM.index(b"\r\n--b\r\n")
    assert not finder.feed(FORM[:at]) and finder.model is None
    assert finder.feed(FORM[at : at + 8]) and finder.model == "fast" and finder.value_bytes == 4
    broken = form_finder(form_head())
    assert broken is not None
    with pytest.raises(ExchangeError):
        broken.feed(b'--b\r\nContent-Disposition: form-data; name="model"\r\nX: \x00\n\n' * 3000)


def test_a_form_that_passes_gets_the_models_other_name_and_nothing_else() -> None:
    passing = FormFilter(form_head(), "whisper-large")
    sent = b"".join(passing.feed(FORM[at : at + 5], at + 5 >= len(FORM)) for at in range(0, len(FORM), 5))
    assert sent == FORM.replace(b"fast", b"whisper-large")


def test_only_the_models_name_changes_in_a_body_that_passes(plan: Plan) -> None:
    body = b'{ "n": 123456789012345678901234567890, "model" : "m", "x": [1.50, "\xc3\xa4"] }'
    call = made(plan, body)
    assert call.passing(target(plan, "chat")) is body
    assert call.passing(target(plan, "chat", "m")) is body
    assert call.passing(target(plan, "chat", "there")) == body.replace(b'"m"', b'"there"')
    assert made(plan, None).passing(target(plan, "chat", "there")) is None


def test_a_request_crosses_only_where_dialects_differ_and_it_can_be_translated(plan: Plan) -> None:
    call = made(plan, b"{}")
    assert call.crosses(target(plan, "messages"))
    assert not call.crosses(target(plan, "chat")) and not call.crosses(target(plan, "plain"))
    other = made(plan, b"{}", "/v1/embeddings")
    assert other.crosses_dialects(target(plan, "messages")) and not other.crosses(target(plan, "messages"))


@pytest.mark.parametrize(("body", "stream"), [
    (b'{"stream": true}', True), (b'{"stream":false}', False), (b'{"stream": "true"}', False), (b"{}", False), (None, False),
])
def test_a_stream_is_one_that_was_asked_for(plan: Plan, body: bytes | None, stream: bool) -> None:
    assert made(plan, body).stream is stream


def test_a_translated_request_has_the_name_that_the_model_has_there(plan: Plan) -> None:
    call = made(plan, b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}')
    request, sending = call.sending(target(plan, "messages", "there"))
    assert request.model == "there" and json.loads(sending.body)["model"] == "there"
    assert call.renderer is call.rendering


def test_a_socket_always_streams_and_passes_as_a_request(plan: Plan) -> None:
    call = made(plan, b'{"type": "response.create", "model": "m"}', "/v1/responses", socket=True, dialect=RESPONSES)
    assert call.stream
    passed = call.passing(target(plan, "chat", "there"))
    assert passed is not None and json.loads(passed) == {"model": "there", "stream": True}


def test_fields_are_found_by_their_lower_case_name_and_the_first_counts() -> None:
    fields = Fields(head_for("X-A: 1", "x-a: 2", "Anthropic-Version:  v "))
    assert fields["x-a"] == "1" and fields.get("anthropic-version") == "v" and fields.get("X-A") is None
    assert "host" in fields and len(fields) == 3 and list(fields) == ["host", "x-a", "anthropic-version"]
