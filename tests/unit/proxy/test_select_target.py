"""Target selection, and local responses."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest

from relayd.plan.plan import Plan
from relayd.protocols.dialect import Refused
from relayd.proxy.select_target import pick_target, targets_for_model
from relayd.upstream.model_list import ModelList
from tests.unit.proxy.fakes import Client, head_for, plan_of, run_through_phases

MODELS = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams:
  a: {protocol: openai_chat, endpoints: ["http://a.example/v1"]}
  b: {protocol: anthropic_messages, endpoints: ["http://b.example/v1"]}
models:
  fast: {upstream: a, model: small}
  "org/big": {upstream: b, fallbacks: [{upstream: a, model: spare}]}
  "m-*": {upstream: a, model: "vendor-*"}
routes:
  - {name: messages, match: {header: {x-front: messages}}, protocol: anthropic_messages, upstream: by_model}
  - {name: responses, match: {header: {x-front: responses}}, protocol: openai_responses, upstream: by_model}
  - {name: chat, protocol: openai_chat, upstream: by_model, fallbacks: [b]}
"""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(MODELS)


def asked(plan: Plan, start: str, *lines: str, body: bytes | None = None) -> tuple[Client, Any]:
    more = [] if body is None else [f"Content-Length: {len(body)}"]
    client, _, _ = run_through_phases(plan, head_for(*lines, *more, start=f"{start} HTTP/1.1"), body=body)
    return client, json.loads(client.body)


def test_a_model_leads_to_its_upstream_under_its_name_there(plan: Plan) -> None:
    (target,) = targets_for_model(plan, "fast")
    assert (target.upstream.name, target.model) == ("a", "small") and target.dialect is plan.dialects["openai_chat"]
    (target,) = targets_for_model(plan, "m-7b")
    assert (target.upstream.name, target.model) == ("a", "vendor-7b")
    first, second = targets_for_model(plan, "org/big")
    assert (first.upstream.name, first.model, second.upstream.name, second.model) == ("b", None, "a", "spare")
    assert second.on == {"unavailable", "overloaded"}


@pytest.mark.parametrize(("model", "status"), [("nobody", 404), ("", 400)])
def test_what_no_model_is_is_refused(plan: Plan, model: str, status: int) -> None:
    with pytest.raises(Refused) as refused:
        targets_for_model(plan, model)
    assert refused.value.status == status and refused.value.param == "model"


def test_an_unknown_model_is_answered_in_the_clients_dialect_with_what_exists(plan: Plan) -> None:
    body = b'{"model": "fats", "messages": []}'
    client, document = asked(plan, "POST /v1/chat/completions", body=body)
    assert client.status == 404 and document["error"]["code"] == "model_not_found" and "fast" in document["error"]["message"]
    client, document = asked(plan, "POST /v1/messages", "X-Front: messages", body=body)
    assert client.status == 404 and document["error"]["type"] == "not_found_error" and document["type"] == "error"


def test_a_body_that_is_not_json_is_refused_as_such(plan: Plan) -> None:
    client, document = asked(plan, "POST /v1/chat/completions", body=b'{"model": "fast"')
    assert client.status == 400 and "JSON" in document["error"]["message"]


def test_the_models_are_listed_as_each_client_reads_them(plan: Plan) -> None:
    client, document = asked(plan, "GET /v1/models")
    assert client.status == 200 and [one["id"] for one in document["data"]] == ["fast", "org/big"]
    assert {one["created"] for one in document["data"]} == {plan.created_s}
    client, document = asked(plan, "GET /v1/models?limit=1", "anthropic-version: 2023-06-01")
    assert [one["id"] for one in document["data"]] == ["fast"] and document["has_more"]
    client, document = asked(plan, "GET /v1/models?limit=1&after_id=fast", "X-Front: messages")
    assert [one["id"] for one in document["data"]] == ["org/big"] and not document["has_more"]


def test_what_upstreams_list_themselves_is_merged(plan: Plan) -> None:
    upstream = plan.upstreams["a"]
    upstream.model_list = ModelList()
    upstream.model_list.names = ("vendor-7b", "elsewhere")
    try:
        _, document = asked(plan, "GET /v1/models")
        assert [one["id"] for one in document["data"]] == ["fast", "org/big", "m-7b"]
        client, document = asked(plan, "GET /v1/models/m-7b")
        assert client.status == 200 and document["owned_by"] == "a"
    finally:
        upstream.model_list = None


@pytest.mark.parametrize("name", ["org/big", "org%2Fbig"])
def test_one_model_is_shown_whatever_stands_in_its_name(plan: Plan, name: str) -> None:
    client, document = asked(plan, f"GET /v1/models/{name}")
    assert client.status == 200 and document["id"] == "org/big" and document["owned_by"] == "b"
    client, document = asked(plan, "GET /v1/models/none")
    assert client.status == 404


def test_what_a_dialect_keeps_by_itself_is_answered_here(plan: Plan) -> None:
    client, document = asked(plan, "GET /v1/responses/resp_unknown", "X-Front: responses")
    assert client.status == 404 and "error" in document
    body = b'{"model": "fast", "messages": [{"role": "user", "content": "hi"}]}'
    client, document = asked(plan, "POST /v1/messages/count_tokens", "X-Front: messages", body=body)
    assert client.status == 200 and document["input_tokens"] > 0


def test_other_paths_without_a_model_are_not_served(plan: Plan) -> None:
    client, document = asked(plan, "GET /v1/files")
    assert client.status == 404 and "error" in document


def test_a_canary_gets_its_share_of_the_requests() -> None:
    plan = plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams: {old: {endpoints: ["http://old.example"]}, new: {endpoints: ["http://new.example"]}}
routes: [{name: all, upstream: old, canary: {upstream: new, weight: 20}}]
""")
    (route,) = plan.routes
    assert route.resilience is not None
    random.seed(7)
    drawn = Counter(pick_target(route.resilience, random.random()).upstream.name for _ in range(5000))
    assert 850 < drawn["new"] < 1150 and drawn["new"] + drawn["old"] == 5000
