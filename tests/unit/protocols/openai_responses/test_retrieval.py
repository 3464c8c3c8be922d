"""Requests that are answered without an endpoint: stored responses and token counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.protocols.openai_responses.retrieval import local, local_steps
from tests.aids.memories import Kept
from tests.unit.protocols.openai_responses.harness import HELLO, make_context, plain


def asked(memory: Any, path: str, method: str = "GET", query: str = "") -> tuple[int, Any]:
    answer = local(make_context("/v1/responses" + path, method, memory, query=query), b"")
    assert answer is not None
    return answer.status, json.loads(answer.body)


@pytest.fixture
def memory() -> Kept:
    return Kept()


def test_a_stored_response_is_returned_unchanged(memory: Kept) -> None:
    response = plain(HELLO, make_context(memory=memory))
    assert asked(memory, f"/{response['id']}") == (200, response)


def test_a_deleted_response_is_gone(memory: Kept) -> None:
    response = plain(HELLO, make_context(memory=memory))
    deleted = {"id": response["id"], "object": "response", "deleted": True}
    assert asked(memory, f"/{response['id']}", "DELETE") == (200, deleted)
    assert asked(memory, f"/{response['id']}")[0] == 404
    assert asked(memory, f"/{response['id']}", "DELETE")[0] == 404


def test_a_foreign_response_is_not_found(memory: Kept) -> None:
    response = plain(HELLO, make_context(memory=memory))
    for path, method in (("", "GET"), ("", "DELETE"), ("/input_items", "GET"), ("/cancel", "POST")):
        status, body = asked(Kept(), f"/{response['id']}{path}", method)
        assert status == 404 and body["error"]["message"]
    assert asked(memory, f"/{response['id']}")[0] == 200


def test_input_items_have_ids_and_parts_and_come_in_pages(memory: Kept) -> None:
    context = make_context(memory=memory)
    first = plain(HELLO, context, input="one")
    second = plain(HELLO, context, input=[{"role": "user", "content": "two"}, {"role": "user", "content": "three"}],
                   previous_response_id=first["id"])  # fmt: skip
    path = f"/{second['id']}/input_items"
    status, listed = asked(memory, path, query="order=asc")
    assert status == 200 and listed["object"] == "list" and listed["has_more"] is False
    assert [item["content"][0]["text"] for item in listed["data"]] == ["one", "Hello", "two", "three"]
    assert listed["data"][0]["content"] == [{"type": "input_text", "text": "one"}]
    ids = [item["id"] for item in listed["data"]]
    assert len(set(ids)) == 4 and all(ids)
    assert [item["id"] for item in asked(memory, path)[1]["data"]] == ids[::-1]
    _, page = asked(memory, path, query="order=asc&limit=2")
    assert ([item["id"] for item in page["data"]], page["has_more"]) == (ids[:2], True)
    assert (page["first_id"], page["last_id"]) == (ids[0], ids[1])
    _, page = asked(memory, path, query=f"order=asc&limit=2&after={ids[1]}")
    assert ([item["id"] for item in page["data"]], page["has_more"]) == (ids[2:], False)
    _, page = asked(memory, path, query=f"order=asc&after={ids[3]}")
    assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(("query", "status", "param"), [("limit=0", 400, "limit"), ("limit=x", 400, "limit"),
                                                        ("limit=101", 400, "limit"), ("order=up", 400, "order"),
                                                        ("after=none", 404, "after")])  # fmt: skip
def test_invalid_page_parameters_are_refused(memory: Kept, query: str, status: int, param: str) -> None:
    response = plain(HELLO, make_context(memory=memory))
    found, body = asked(memory, f"/{response['id']}/input_items", query=query)
    assert (found, body["error"]["param"]) == (status, param)


def test_a_foreground_response_cannot_be_cancelled(memory: Kept) -> None:
    response = plain(HELLO, make_context(memory=memory))
    assert asked(memory, f"/{response['id']}/cancel", "POST")[0] == 400


def test_a_stored_response_cannot_be_streamed(memory: Kept) -> None:
    response = plain(HELLO, make_context(memory=memory))
    assert asked(memory, f"/{response['id']}", query="stream=true")[0] == 400
    assert asked(memory, f"/{response['id']}", query="stream=false&include=x")[0] == 200


@pytest.mark.parametrize(("path", "method"), [("/resp_1", "PUT"), ("/resp_1/cancel", "GET"), ("/resp_1/input_items", "POST")])
def test_an_unsupported_method_is_answered_with_allow(memory: Kept, path: str, method: str) -> None:
    answer = local(make_context("/v1/responses" + path, method, memory), b"")
    assert answer is not None and answer.status == 405 and answer.headers[0][0] == "Allow"


@pytest.mark.parametrize(
    ("path", "method"),
    [("/v1/responses", "POST"), ("/v1/responses/compact", "POST"), ("/v1/responses", "GET"), ("/v1/models/x", "GET"),
     ("/v1/responses/a/b/c", "GET")],
)  # fmt: skip
def test_other_requests_are_not_answered_locally(path: str, method: str) -> None:
    assert local(make_context(path, method), b"{}") is None


def test_a_large_body_is_counted_in_steps_with_the_same_result() -> None:
    items = [{"role": "user", "content": f"message {number}"} for number in range(900)]
    context = make_context("/v1/responses/input_tokens")
    steps = local_steps({"input": items}, context)
    turns = 0
    while True:
        try:
            next(steps)
            turns += 1
        except StopIteration as end:
            body = end.value
            break
    assert turns > 900, "the loop serves others in between"
    assert body == local(context, json.dumps({"input": items}).encode())


@pytest.mark.parametrize("path", ["/input_tokens", "/input_tokens/", "/compact", "/compact/"])
@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_reserved_paths_are_not_response_ids(memory: Kept, path: str, method: str) -> None:
    answer = local(make_context("/v1/responses" + path, method, memory), b"")
    assert answer is not None and answer.status == 405 and dict(answer.headers)["Allow"] == "POST"


def counted(memory: Any, **members: Any) -> tuple[int, Any]:
    answer = local(make_context("/v1/responses/input_tokens", memory=memory), json.dumps(members).encode())
    assert answer is not None
    return answer.status, json.loads(answer.body)


def test_tokens_are_estimated_for_the_whole_context(memory: Kept) -> None:
    status, body = counted(memory, model="m", input="Hello, world")
    assert (status, body) == (200, {"object": "response.input_tokens", "input_tokens": 4 + 3})
    tool = {"type": "function", "name": "read", "parameters": {"type": "object", "properties": {"path": {}}}}
    first = plain(HELLO, make_context(memory=memory), input="x" * 4000)
    for more in (
        {"instructions": "You are brief."}, {"tools": [tool]}, {"previous_response_id": first["id"]},
        {"input": [{"type": "additional_tools", "tools": [tool]}, {"role": "user", "content": "Hello, world"}]},
    ):  # fmt: skip
        status, body = counted(memory, **{"input": "Hello, world", **more})
        assert status == 200 and body["input_tokens"] > 7, more


def test_invalid_count_requests_are_refused_with_the_path(memory: Kept) -> None:
    status, body = counted(memory, input=[{"type": "function_call"}])
    assert (status, body["error"]["param"]) == (400, "input[0].call_id")
    assert counted(memory)[1]["error"]["param"] == "input"
