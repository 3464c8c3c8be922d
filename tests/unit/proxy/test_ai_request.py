"""AI requests: models, forms, WebSocket messages."""

from __future__ import annotations

import dataclasses
import json

import pytest

from relayd.plan.plan import Plan, Target
from relayd.protocols.dialect import Dialect, Refused
from relayd.protocols.model_list import requested_listing
from relayd.protocols.openai_chat import DIALECT as CHAT
from relayd.protocols.openai_responses import DIALECT as RESPONSES
from relayd.protocols.openai_responses.state import new_id
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.request_context import context_of
from relayd.stores.memory import Store
from relayd.wire.body import PARSED_BYTES
from relayd.wire.json_steps import Steps
from tests.unit.proxy.fakes import head_for, plan_of

STORE = Store(10, 100_000, 60.0)


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
) -> AiRequest:
    head = head_for(*lines, start=f"POST {path} HTTP/1.1")
    head.model = "m"
    memory = STORE.space("s") if socket else None
    return AiRequest(
        dialect, head, body, lambda: context_of(head, b"id-1", STORE.space("a"), b"", memory),
        is_socket=socket,
    )


def target(plan: Plan, name: str, model: str | None = None) -> Target:
    upstream = plan.upstreams[name]
    return Target(upstream, model, dialect=plan.dialects.get(upstream.spec.protocol))


@pytest.mark.parametrize(("path", "asked"), [
    ("/v1/models", ""), ("/models", ""), ("/v1/models/a/b", "a/b"), ("/v1/chat/completions", None), ("/v1/modelsx", None),
    ("/v1beta/models", ""), ("/api/tags", ""), ("/api/tags/x", None), ("/tags", None),
])
def test_paths_of_the_model_list_are_known(path: str, asked: str | None) -> None:
    assert requested_listing(path) == asked


def test_only_the_models_name_changes_in_a_body_that_passes(plan: Plan) -> None:
    body = b'{ "n": 123456789012345678901234567890, "model" : "m", "x": [1.50, "\xc3\xa4"] }'
    ai_request = made(plan, body)
    assert ai_request.passthrough_body(target(plan, "chat")) is body
    assert ai_request.passthrough_body(target(plan, "chat", "m")) is body
    assert ai_request.passthrough_body(target(plan, "chat", "there")) == body.replace(b'"m"', b'"there"')
    assert made(plan, None).passthrough_body(target(plan, "chat", "there")) is None


def test_a_request_is_translated_only_where_dialects_differ_and_it_can_be(plan: Plan) -> None:
    ai_request = made(plan, b"{}")
    assert ai_request.needs_translation(target(plan, "messages"))
    assert not ai_request.needs_translation(target(plan, "chat")) and not ai_request.needs_translation(target(plan, "plain"))
    for slashes in ("/", "//", "///"):
        assert made(plan, b"{}", "/v1/chat/completions" + slashes).needs_translation(target(plan, "messages"))
    other = made(plan, b"{}", "/v1/embeddings")
    assert other.differs_in_dialect(target(plan, "messages")) and not other.needs_translation(target(plan, "messages"))


@pytest.mark.parametrize(("body", "stream"), [
    (b'{"stream": true}', True), (b'{"stream":false}', False), (b'{"stream": "true"}', False), (b"{}", False), (None, False),
])
def test_a_stream_is_one_that_was_asked_for(plan: Plan, body: bytes | None, stream: bool) -> None:
    assert made(plan, body).stream is stream


def test_a_translated_request_has_the_name_that_the_model_has_there(plan: Plan) -> None:
    ai_request = made(plan, b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}')
    request, encoded = ai_request.encode_for(target(plan, "messages", "there"))
    assert request.model == "there" and json.loads(encoded.body)["model"] == "there"


def test_a_socket_always_streams_and_passes_as_a_request(plan: Plan) -> None:
    ai_request = made(plan, b'{"type": "response.create", "model": "m"}', "/v1/responses", socket=True, dialect=RESPONSES)
    assert ai_request.stream
    passed = ai_request.passthrough_body(target(plan, "chat", "there"))
    assert passed is not None and json.loads(passed) == {"model": "there", "stream": True}


def test_a_request_that_continues_what_relayd_has_stored_is_translated_for_its_own_dialect_too(plan: Plan) -> None:
    identity = new_id("resp")
    STORE.space("a").put("response_item:" + identity, identity)
    native = dataclasses.replace(target(plan, "chat"), dialect=RESPONSES)
    for previous, continues in ((identity, True), (new_id("resp"), False), ("resp_1", False)):
        body = json.dumps({"model": "m", "previous_response_id": previous, "input": "hi"}).encode()
        ai_request = made(plan, body, "/v1/responses", dialect=RESPONSES)
        assert ai_request.needs_translation(native) is continues
        ai_request.release_request()
        assert ai_request.needs_translation(native) is continues
        assert not made(plan, body, "/v1/other", dialect=RESPONSES).needs_translation(native)
        assert made(plan, None, f"/v1/responses/{previous}", dialect=RESPONSES).names_stored is continues
    assert not made(plan, b"{}").names_stored


def test_a_message_of_a_socket_loses_what_relayd_invented(plan: Plan) -> None:
    item = {"type": "message", "role": "user", "content": "x", "id": new_id("msg")}
    body = json.dumps({"type": "response.create", "model": "m", "session": {"model": "m"}, "input": [item]}).encode()
    native = dataclasses.replace(target(plan, "chat", "n"), dialect=RESPONSES)
    sent = made(plan, body, "/v1/responses", socket=True, dialect=RESPONSES).passthrough_body(native)
    del item["id"]
    assert sent is not None and json.loads(sent) == {"model": "n", "session": {"model": "n"}, "input": [item], "stream": True}


# ---- in steps


LARGE = json.dumps({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "h\u00e4" * 40}] * 3000}).encode()


def steps_of(steps: Steps[None] | None) -> int:
    """How many pauses there were."""
    assert steps is not None
    return sum(1 for _ in steps)


def test_a_short_body_and_one_that_passes_need_no_steps(plan: Plan) -> None:
    short = made(plan, b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}')
    assert short.preparation_steps(target(plan, "messages")) is None and short.selection_steps(is_counted_here=False) is None
    assert made(plan, LARGE).preparation_steps(target(plan, "chat")) is None and made(plan, None).preparation_steps(target(plan, "messages")) is None


def test_what_is_made_in_steps_is_what_is_made_at_once(plan: Plan) -> None:
    assert len(LARGE) > PARSED_BYTES
    there = target(plan, "messages", "there")
    ai_request, other = made(plan, LARGE), made(plan, LARGE)
    assert steps_of(ai_request.preparation_steps(there)) > 3000 and ai_request.preparation_steps(there) is None
    request, encoded = ai_request.encode_for(there)
    theirs = other.encode_for(there)
    assert json.loads(encoded.body) == json.loads(theirs[1].body) and request.messages == theirs[0].messages
    assert request.large and request.model == "there"
    assert steps_of(ai_request.preparation_steps(target(plan, "messages"))) > 3000  # another endpoint: it is encoded again


def test_a_request_that_is_only_read_is_read_in_steps_too(plan: Plan) -> None:
    ai_request = made(plan, LARGE)
    assert steps_of(ai_request.preparation_steps(target(plan, "chat"), reads=True)) > 3000
    assert len(ai_request.request.messages) == 3000 and ai_request.preparation_steps(target(plan, "chat"), reads=True) is None


@pytest.mark.parametrize(("body", "message"), [
    (LARGE[:-1] + b',"n":7000}', "between 1 and 128"), (LARGE + b"x", "after its end"), (LARGE.replace(b'"hi"', b"NaN")[:-1], "truncated"),
    (b'{"model":"m","a":[' + b"[]," * 140_000 + b"1]}", "values"), (b'{"model":"m","messages":[' + b"1," * 150_000 + b"1]}", "items"),
    (LARGE[:-1] + b',"Stream":true}', "ambiguous"), (b'{"model":"m","a":"' + b"a" * 5_000_000 + b'\xc3\xa4"}', "not all ASCII"),
])  # fmt: skip
def test_what_cannot_be_read_in_steps_is_refused_when_it_is_asked_for(body: bytes, message: str, plan: Plan) -> None:
    ai_request = made(plan, body)
    there = target(plan, "messages")
    steps_of(ai_request.preparation_steps(there))
    assert ai_request.preparation_steps(there) is None
    for _ in range(2):
        with pytest.raises(Refused, match=message):
            ai_request.encode_for(there)


def test_what_cannot_be_carried_is_refused_for_that_endpoint_alone(plan: Plan) -> None:
    ai_request = made(plan, LARGE[:-1] + b',"n":2}')
    steps_of(ai_request.preparation_steps(target(plan, "messages")))
    there = target(plan, "messages")
    steps_of(ai_request.preparation_steps(there))
    with pytest.raises(Refused, match="one choice"):
        ai_request.encode_for(there)


def test_a_stored_refusal_holds_no_body(plan: Plan) -> None:
    ai_request = made(plan, LARGE[:-1] + b',"n":7000}')
    steps_of(ai_request.preparation_steps(target(plan, "messages")))
    assert ai_request._read_error is not None and ai_request._read_error.__traceback__ is None
