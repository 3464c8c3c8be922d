"""The requested model; ambiguous requests are refused if the model decides."""

from __future__ import annotations

import json

import pytest

from relayd.errors import ExchangeError
from relayd.proxy.request_model import (
    FormTransform,
    deciding_model,
    form_finder,
    model_decides,
    model_in_path,
    probable_model,
)
from relayd.wire.body import inspect_json
from relayd.wire.http1 import RequestHead
from tests.unit.proxy.fakes import head_for, plan_of

FORM = (b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nfast\r\n--b\r\n'
        b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\x00\x01\r\n--b--\r\n')  # fmt: skip


def head(*lines: str, path: str = "/v1/chat/completions") -> RequestHead:
    return head_for(*lines, start=f"POST {path} HTTP/1.1")


def form_head(kind: str = "multipart/form-data; boundary=b") -> RequestHead:
    return head(f"Content-Type: {kind}", path="/v1/audio/transcriptions")


@pytest.mark.parametrize(("path", "model"), [
    (b"/v1beta/models/gemini-2.5:generateContent", "gemini-2.5"), (b"/models/a:streamGenerateContent", "a"), (b"/v1/models/a", None),
    (b"/v1/chat/completions", None), (b"/models/a/b:x", None), (b"/v1beta/models/%75ltra:generateContent", "ultra"),
    (b"/v1beta/models/ft%3Aa:generateContent", "ft:a"), (b"/v1beta/models/ft:a:generateContent", "ft:a"),
    (b"/v1beta/Models/ultra:generateContent", "ultra"), (b"/v1beta/models/%C3%A4:x", "\u00e4"), (b"/files/a%20b", None), (b"/a//b", None),
])  # fmt: skip
def test_a_gemini_path_names_the_model(path: bytes, model: str | None) -> None:
    assert model_in_path(path) == model


@pytest.mark.parametrize("path", [
    b"/v1beta/models/ultra%3AgenerateContent", b"/v1beta/models%2fultra:generateContent", b"/v1beta/models/x/../ultra:generateContent",
    b"/v1beta/models/%2575ltra:generateContent", b"/v1beta/models/a%2fultra:generateContent", b"/v1beta/models/%ff:generateContent",
    b"/v1beta/models/ultra:generateContent;a", b"/v1beta/models/ultra;a=b:generateContent", b"/v1beta/models/ultra:generateContent%20",
    b"/openai/deployments/a;b/chat/completions", b"/openai\\deployments\\ultra\\chat\\completions", b"/openai/%64eployments/ultra/embeddings",
    b"/deployments/a/chat/deployments/b/chat/completions", b"/model/ultra%2fx/invoke", b"/v1beta/models/ultra:", b"/v1beta/models/ultra%00:generateContent", b"/v1beta/%6dodels/ultra:generateContent", b"/v1beta/models/%20ultra:generateContent",
])  # fmt: skip
def test_a_path_that_names_another_model_once_it_is_read_loosely_is_refused(path: bytes) -> None:
    with pytest.raises(ExchangeError) as refused:
        model_in_path(path)
    assert refused.value.kind.code == "ambiguous_path"
    assert probable_model(head(path=path.decode()), b"{}", inspect_json(b"{}")) == ""


def test_a_model_is_found_in_the_path_in_json_and_in_forms() -> None:
    assert deciding_model(head(), b'{"a": {"model": "x"}, "model": "y"}') == "y"
    assert deciding_model(form_head(), FORM) == "fast"
    assert deciding_model(head(path="/models/a:x"), b'{"model":"models/a"}') == "a" and deciding_model(head(path="/models/a:x"), None) == "a"
    for body in (None, b"", b"{}", b'{"model":""}'):
        assert deciding_model(head(), body) == ""


@pytest.mark.parametrize(("lines", "body"), [
    ((), b'{"model":"x","model":"y"}'), ((), b"model=x"), (("Content-Encoding: gzip",), b'{"model":"x"}'),
    (("Content-Encoding: identity", "Content-Encoding: br"), b'{"model":"x"}'),
    (("Content-Type: application/json; charset=utf-16",), b'{"model":"x"}'), (("Content-Type: a/b", "Content-Type: a/b"), b'{"model":"x"}'),
    (("Content-Type: multipart/form-data",), FORM), (("Content-Type: multipart/form-data; boundary=c",), FORM),
    (("Content-Type: multipart/form-data; boundary=b",), FORM.replace(b"fast", b"fa\0st")),
    (("Content-Type: multipart/form-data; boundary=b",), FORM[:-3]),
])  # fmt: skip
def test_a_body_that_readers_could_dispute_is_refused_with_its_reason(lines: tuple[str, ...], body: bytes) -> None:
    with pytest.raises(ExchangeError) as refused:
        deciding_model(head(*lines), body)
    assert refused.value.kind.code == "ambiguous_body" and refused.value.detail in refused.value.message


def test_a_path_and_a_body_that_name_two_models_are_refused() -> None:
    with pytest.raises(ExchangeError):
        deciding_model(head(path="/models/a:x"), b'{"model":"b"}')


def test_the_model_is_found_wherever_it_stands_and_any_two_places_must_agree() -> None:
    places = [("path", "/openai/deployments/{}/chat/completions"), ("query", "?model={}"), ("field", "X-Model: {}"), ("body", "model"),
              ("session", "session"), ("extra_body", "extra_body")]  # fmt: skip

    def asked(names: dict[str, str]) -> str:
        path = places[0][1].format(names["path"]) if "path" in names else "/v1/chat/completions"
        path += places[1][1].format(names["query"]) if "query" in names else ""
        members: dict[str, object] = {"model": names["body"]} if "body" in names else {}
        members |= {key: {"a": 1, "model": names[key]} for key in ("session", "extra_body") if key in names}
        fields = [places[2][1].format(names["field"])] if "field" in names else []
        return deciding_model(head(*fields, path=path), json.dumps(members).encode())

    for first, _ in places:
        assert asked({first: "m"}) == "m"
        for second, _ in places:
            if first != second:
                assert asked({first: "m", second: "m"}) == "m" and asked({first: "m", second: "models/m" if second == "body" else "m"}).endswith("m")
                with pytest.raises(ExchangeError, match="names another model"):
                    asked({first: "m", second: "n"})
    assert asked({}) == ""


def test_a_form_must_agree_with_the_other_places() -> None:
    of_form = "Content-Type: multipart/form-data; boundary=b"
    assert deciding_model(head(of_form, path="/v1/audio/transcriptions?model=fast"), FORM) == "fast"
    for path in ("/v1/audio/transcriptions?model=other", "/openai/deployments/other/audio/transcriptions", "/v1/realtime/calls"):
        with pytest.raises(ExchangeError):
            deciding_model(head(of_form, path=path), FORM)


@pytest.mark.parametrize("lines", [
    ("Content-Encoding: identity",), ("content-encoding:",), ("Content-Type: application/json; charset=UTF-8",),
    ("Content-Type: application/json;charset=\"utf-8\"",), ("Content-Language: de",), ("Content-Type: text/plain",),
])  # fmt: skip
def test_usual_header_fields_are_no_obstacle(lines: tuple[str, ...]) -> None:
    assert deciding_model(head(*lines), b'{"model":"x"}') == "x"


def test_where_nothing_is_decided_nothing_is_refused() -> None:
    assert probable_model(form_head(), FORM, None) == "fast"
    assert probable_model(form_head(), FORM[3:], None) == ""
    doubled = b'{"model":"x","model":"y"}'
    assert probable_model(head(), doubled, inspect_json(doubled)) == ""


def test_the_model_of_a_form_is_known_as_soon_as_it_has_arrived() -> None:
    finder = form_finder(form_head())
    assert finder is not None and form_finder(form_head("text/plain")) is None
    at = FORM.index(b"\r\n--b\r\n")
    assert not finder.feed(FORM[:at]) and finder.model is None
    assert finder.feed(FORM[at : at + 8]) and finder.model == "fast"
    whole = form_finder(form_head(), whole=True)
    assert whole is not None and not whole.feed(FORM) and whole.model == "fast"
    broken = b'--b\r\nContent-Disposition: form-data; name="model"\r\nX: \x00\n\n' * 3000
    with pytest.raises(ExchangeError):
        form_finder(form_head()).feed(broken)  # type: ignore[union-attr]
    lenient = form_finder(form_head(), refuses=False)
    assert lenient is not None and lenient.feed(broken) and lenient.model is None and lenient.feed(b"more")


def test_a_form_gets_the_models_other_name_and_nothing_else() -> None:
    finder = form_finder(form_head())
    assert finder is not None and finder.feed(FORM)
    for model in ("whisper-large", "x"):  # one attempt after the other
        transform = FormTransform(finder, model)
        changed = transform.feed(FORM[:100], False) + transform.feed(FORM[100:], True)
        assert changed == FORM.replace(b"fast", model.encode())
        assert transform.grows_bytes == len(changed) - len(FORM)


def test_the_rest_of_a_form_may_not_hold_a_second_model() -> None:
    second = FORM.replace(b'name="file"; filename="a.wav"', b'name="model"')
    at = second.index(b"--b\r\n", 10) + 3
    for body, is_right in ((FORM, True), (second, False), (FORM[:-4], False)):
        finder = form_finder(form_head())
        assert finder is not None and finder.feed(body[:at])
        guard = FormTransform(finder, None)
        assert guard.feed(body[: at - 2], False) == body[: at - 2]  # as it was read before
        if is_right:
            assert guard.feed(body[at - 2 :], True) == body[at - 2 :]
        else:
            with pytest.raises(ExchangeError):
                guard.feed(body[at - 2 :], True)


def test_the_model_decides_on_routes_that_send_by_it_or_replace_it() -> None:
    plan = plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams: {chat: {protocol: openai_chat, endpoints: ["http://a.example/v1"]}, web: {endpoints: ["http://b.example"]}}
models: {"*": chat}
routes:
  - {name: by_model, match: {path: /a}, protocol: openai_chat, upstream: by_model}
  - {name: fallback, match: {path: /b}, upstream: chat, fallbacks: [{upstream: chat, model: other}]}
  - {name: fixed, match: {path: /c}, upstream: chat}
  - {name: plain, upstream: web}
""")
    assert [model_decides(route.resilience) for route in plan.routes] == [True, True, False, False]


@pytest.mark.parametrize(("path", "body", "model"), [
    ("/api/show", b'{"model":"m"}', "m"), ("/api/show", b'{"name":"m"}', "m"), ("/api/sho%77", b'{"name":"m"}', "m"),
    ("/x/../api/delete/", b'{"name":"m"}', "m"), ("/api/show", b'{"model":"","name":"m"}', "m"), ("/api/pull", b"{}", ""),
    ("/api/pull", b'{"model":"m","name":"m"}', "m"), ("/api/copy", b'{"source":"m","destination":"x"}', "m"),
    ("/api/create", b'{"model":"x","from":"m"}', "m"), ("/api/create", b'{"model":"m"}', "m"), ("/api/chat", b'{"model":"m","name":"x"}', "m"),
])  # fmt: skip
def test_a_request_that_manages_models_of_ollama_names_one(path: str, body: bytes, model: str) -> None:
    assert deciding_model(head(path=path), body) == model


@pytest.mark.parametrize(("path", "body", "reason"), [
    ("/api/show", b'{"model":"m","name":"x"}', "model and name differ"), ("/api/show", b'{"Name":"m"}', "for some readers"),
    ("/api/show", b'{"name":"m","name":"x"}', "the key is repeated"), ("/api/create", b'{"model":"m","modelfile":"FROM x"}', "modelfile"),
    ("/api/copy", b'{"source":"m","source":"x"}', "the key is repeated"), ("/api/copy", b'{"source":["m"]}', "source"),
])  # fmt: skip
def test_a_request_to_ollama_with_two_models_is_refused(path: str, body: bytes, reason: str) -> None:
    with pytest.raises(ExchangeError, match=reason) as refused:
        deciding_model(head(path=path), body)
    assert refused.value.kind.code == "ambiguous_body"
