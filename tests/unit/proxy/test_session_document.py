"""The document of a session: methods, preconditions, bounds, merge patches."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.proxy.client_session import key_of
from relayd.proxy.session_document import merged, tag_of
from tests.unit.proxy.fakes import Client, FakeGateway, head_for, plan_of, run_through_phases

PLAN = plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
sessions: {size: 200}
routes: [{name: document, match: {prefix: /api/session}, upstream: sessions}]
""")
ID = b"known"


def gateway_with(document: Any) -> FakeGateway:
    gateway = FakeGateway()
    gateway.space("session:", 60.0).put(key_of(ID), document)
    return gateway


def ask(gateway: FakeGateway, method: str, *lines: str, body: bytes | None = None, path: str = "/api/session", known: bool = True) -> Client:
    fields = ([f"X-Session-ID: {ID.decode()}"] if known else []) + list(lines)
    if body is not None:
        fields.append(f"Content-Length: {len(body)}")
    client, _, _ = run_through_phases(PLAN, head_for(*fields, start=f"{method} {path} HTTP/1.1"), owner=gateway, body=body)
    return client


def document(gateway: FakeGateway) -> Any:
    return gateway.space("session:", 60.0).get(key_of(ID))


def field(client: Client, name: str) -> str:
    lines = client.head.decode("latin-1").split("\r\n")
    return next((line.partition(": ")[2] for line in lines if line.lower().startswith(name.lower() + ":")), "")


def test_reading() -> None:
    gateway = gateway_with({"a": 1})
    found = ask(gateway, "GET")
    assert found.status == 200 and found.body == b'{"a":1}' and field(found, "Cache-Control") == "no-store"
    tag = field(found, "ETag")
    assert tag == tag_of('{"a":1}').decode()
    assert ask(gateway, "HEAD").body == b"" and ask(gateway, "GET", path="/api/session/").status == 200
    assert ask(gateway, "GET", f"If-None-Match: {tag}").status == 304
    assert ask(gateway, "GET", f'If-None-Match: "x", W/{tag}').status == 304
    assert ask(gateway, "GET", 'If-None-Match: "x"').status == 200
    assert ask(gateway, "GET", 'If-Match: "x"').status == 412
    assert ask(gateway, "GET", known=False).status == 404 and ask(gateway, "DELETE", known=False).status == 404


@pytest.mark.parametrize("path", ["/api/sessions", "/api/session/x", "/api/session//x"])
def test_only_the_path_of_the_route_is_a_document(path: str) -> None:
    assert ask(gateway_with({"a": 1}), "GET", path=path).status in (400, 404)


def test_writing_replaces_the_document() -> None:
    gateway = gateway_with({"a": 1})
    assert ask(gateway, "PUT", body=b' [1, "\xc3\xa9"] ').body == b'[1,"\\u00e9"]'
    assert document(gateway) == [1, "é"] and gateway.session_counts.created == 0


def test_writing_without_a_session_creates_one() -> None:
    gateway = gateway_with({})
    for method in ("PUT", "PATCH"):
        made = ask(gateway, method, body=b'{"b":2}', known=False)
        assert made.status == 201 and "HttpOnly" in field(made, "Set-Cookie")
        session_id = field(made, "X-Session-ID").encode()
        assert gateway.space("session:", 60.0).get(key_of(session_id)) == {"b": 2}
        assert gateway.accounts[-1].more == {"session": key_of(session_id)[:16]}
    assert gateway.session_counts.created == 2 and document(gateway) == {}
    assert ask(gateway, "PUT", "If-Match: *", body=b"1", known=False).status == 412
    assert ask(gateway, "PUT", "If-None-Match: *", body=b"1", known=False).status == 201


def test_conditions_of_a_change() -> None:
    gateway = gateway_with({"a": 1})
    tag = tag_of('{"a":1}').decode()
    assert ask(gateway, "PUT", "If-None-Match: *", body=b"1").status == 412
    assert ask(gateway, "PUT", f"If-Match: W/{tag}", body=b"1").status == 412  # a weak tag is no strong one
    assert ask(gateway, "PUT", "If-Match: garbage", body=b"1").status == 412
    assert ask(gateway, "PATCH", f'If-Match: "x", {tag}', body=b'{"b":1}').status == 200
    assert ask(gateway, "DELETE", f"If-Match: {tag}").status == 412
    assert document(gateway) == {"a": 1, "b": 1}
    assert ask(gateway, "DELETE", "If-Match: *").status == 204 and document(gateway) is None


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b"\xff", b"NaN", b"[1e999]", b"[" * 80 + b"]" * 80])
def test_what_is_not_json_is_refused(body: bytes) -> None:
    gateway = gateway_with({"a": 1})
    assert ask(gateway, "PUT", body=body).status == 400 and document(gateway) == {"a": 1}


def test_documents_are_bounded() -> None:
    gateway = gateway_with({"a": "x" * 150})
    assert ask(gateway, "PUT", body=b'"' + b"x" * 199 + b'"').status == 413
    assert ask(gateway, "PATCH", body=b'{"b":"' + b"x" * 60 + b'"}').status == 413
    assert ask(gateway, "PUT", body='"{}"'.format("é" * 40).encode()).status == 413  # 6 bytes each in ASCII
    assert document(gateway) == {"a": "x" * 150}


def test_methods_and_media_types() -> None:
    gateway = gateway_with({"a": 1})
    refused = ask(gateway, "POST", body=b"{}")
    assert refused.status == 405 and field(refused, "Allow") == "GET, HEAD, PUT, PATCH, DELETE"
    assert ask(gateway, "PATCH", "Content-Type: application/json-patch+json", body=b"[]").status == 415
    assert ask(gateway, "PATCH", "Content-Type: application/merge-patch+json; x=y", body=b'{"b":1}').status == 200
    assert document(gateway) == {"a": 1, "b": 1}


@pytest.mark.parametrize(("target", "patch", "result"), [  # RFC 7396, Appendix A
    ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'), ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
    ('{"a":"b"}', '{"a":null}', "{}"), ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
    ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'), ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
    ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'), ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
    ('["a","b"]', '["c","d"]', '["c","d"]'), ('{"a":"b"}', '["c"]', '["c"]'), ('{"a":"foo"}', "null", "null"),
    ('{"a":"foo"}', '"bar"', '"bar"'), ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'), ("[1,2]", '{"a":"b","c":null}', '{"a":"b"}'),
    ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
])
def test_merge_patches(target: str, patch: str, result: str) -> None:
    assert merged(json.loads(target), json.loads(patch)) == json.loads(result)


def test_a_store_that_cannot_keep_it_says_so() -> None:
    gateway = gateway_with({"a": 1})
    gateway.store._max_bytes = 100
    refused = ask(gateway, "PUT", body=b"2")
    assert refused.status == 503 and b"session_not_stored" in refused.body
