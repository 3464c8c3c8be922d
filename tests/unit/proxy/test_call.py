"""The AI side of an exchange: models, forms, messages of a socket."""

from __future__ import annotations

import json

import pytest

from relayd.plan.plan import Plan, Target
from relayd.protocols.dialect import Dialect, Refused
from relayd.protocols.openai_chat import DIALECT as CHAT
from relayd.protocols.openai_responses import DIALECT as RESPONSES
from relayd.proxy.call import (
    Call,
    Fields,
    ask_of,
    listing_asked,
)
from relayd.stores.memory import Store
from relayd.wire.body import PARSED_BYTES
from relayd.wire.json_steps import Steps
from tests.unit.proxy.scene import head_for, plan_of

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


@pytest.mark.parametrize(("path", "asked"), [
    ("/v1/models", ""), ("/models", ""), ("/v1/models/a/b", "a/b"), ("/v1/chat/completions", None), ("/v1/modelsx", None),
    ("/v1beta/models", ""), ("/api/tags", ""), ("/api/tags/x", None), ("/tags", None),
])
def test_paths_of_the_model_list_are_known(path: str, asked: str | None) -> None:
    assert listing_asked(path) == asked


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


def test_a_socket_always_streams_and_passes_as_a_request(plan: Plan) -> None:
    call = made(plan, b'{"type": "response.create", "model": "m"}', "/v1/responses", socket=True, dialect=RESPONSES)
    assert call.stream
    passed = call.passing(target(plan, "chat", "there"))
    assert passed is not None and json.loads(passed) == {"model": "there", "stream": True}


def test_fields_are_found_by_their_lower_case_name_and_the_first_counts() -> None:
    fields = Fields(head_for("X-A: 1", "x-a: 2", "Anthropic-Version:  v "))
    assert fields["x-a"] == "1" and fields.get("anthropic-version") == "v" and fields.get("X-A") is None
    assert "host" in fields and len(fields) == 3 and list(fields) == ["host", "x-a", "anthropic-version"]


# ---- in steps


LARGE = json.dumps({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "h\u00e4" * 40}] * 3000}).encode()


def steps_of(steps: Steps[None] | None) -> int:
    """How many pauses there were."""
    assert steps is not None
    return sum(1 for _ in steps)


def test_a_short_body_and_one_that_passes_need_no_steps(plan: Plan) -> None:
    short = made(plan, b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}')
    assert short.steps_to(target(plan, "messages")) is None and short.early_steps(is_counted_here=False) is None
    assert made(plan, LARGE).steps_to(target(plan, "chat")) is None and made(plan, None).steps_to(target(plan, "messages")) is None


def test_what_is_made_in_steps_is_what_is_made_at_once(plan: Plan) -> None:
    assert len(LARGE) > PARSED_BYTES
    there = target(plan, "messages", "there")
    call, other = made(plan, LARGE), made(plan, LARGE)
    assert steps_of(call.steps_to(there)) > 3000 and call.steps_to(there) is None
    request, sending = call.sending(there)
    theirs = other.sending(there)
    assert json.loads(sending.body) == json.loads(theirs[1].body) and request.messages == theirs[0].messages
    assert request.large and request.model == "there"
    assert steps_of(call.steps_to(target(plan, "messages"))) > 3000  # another endpoint: it is written again


def test_a_request_that_is_only_read_is_read_in_steps_too(plan: Plan) -> None:
    call = made(plan, LARGE)
    assert steps_of(call.steps_to(target(plan, "chat"), reads=True)) > 3000
    assert len(call.request.messages) == 3000 and call.steps_to(target(plan, "chat"), reads=True) is None


@pytest.mark.parametrize(("body", "words"), [
    (LARGE[:-1] + b',"n":7000}', "between 1 and 128"), (LARGE + b"x", "after its end"), (LARGE.replace(b'"hi"', b"NaN")[:-1], "truncated"),
    (b'{"model":"m","a":[' + b"[]," * 140_000 + b"1]}", "values"), (b'{"model":"m","messages":[' + b"1," * 150_000 + b"1]}", "items"),
    (LARGE[:-1] + b',"Stream":true}', "ambiguous"), (b'{"model":"m","a":"' + b"a" * 5_000_000 + b'\xc3\xa4"}', "not all ASCII"),
])  # fmt: skip
def test_what_cannot_be_read_in_steps_is_refused_when_it_is_asked_for(body: bytes, words: str, plan: Plan) -> None:
    call = made(plan, body)
    there = target(plan, "messages")
    steps_of(call.steps_to(there))
    assert call.steps_to(there) is None
    for _ in range(2):
        with pytest.raises(Refused, match=words):
            call.sending(there)


def test_what_cannot_be_carried_is_refused_for_that_endpoint_alone(plan: Plan) -> None:
    call = made(plan, LARGE[:-1] + b',"n":2}')
    steps_of(call.steps_to(target(plan, "messages")))
    there = target(plan, "messages")
    steps_of(call.steps_to(there))
    with pytest.raises(Refused, match="one answer"):
        call.sending(there)


def test_a_refusal_that_is_kept_holds_no_body(plan: Plan) -> None:
    call = made(plan, LARGE[:-1] + b',"n":7000}')
    steps_of(call.steps_to(target(plan, "messages")))
    assert call._unread is not None and call._unread.__traceback__ is None
