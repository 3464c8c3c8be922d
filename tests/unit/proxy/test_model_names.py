"""Places besides the path and the body's own `model` that name a model."""

from __future__ import annotations

import json

import pytest

from relayd.errors import ExchangeError
from relayd.proxy.model_names import (
    edits_of,
    in_body,
    in_fields,
    in_form,
    in_other_reading,
    in_query,
    line_with_model,
    query_with_model,
)
from relayd.wire.body import PARSED_BYTES, edited, inspect_json
from relayd.wire.http1 import RequestHead
from tests.unit.proxy.fakes import head_for


def head(*lines: str, path: str = "/v1/chat/completions") -> RequestHead:
    return head_for(*lines, start=f"POST {path} HTTP/1.1")


@pytest.mark.parametrize(("target", "names"), [
    ("/v1/realtime?model=gpt-realtime", ["gpt-realtime"]), ("/v1/x?a=1&model=org%2Fm&b", ["org/m"]), ("/v1/x?mod%65l=a+b", ["a b"]),
    ("/openai/realtime?api-version=1&deployment=d", ["d"]), ("/v1/x?deployment=d", []), ("/v1/x?models=a", []), ("/v1/x?model=", [""]),
    ("/v1/x", []), ("/v1/x?", []), ("/v1/x?alt=sse&key=%20", []), ("/v1/realtime?model=a&deployment=b", ["a", "b"]),
])  # fmt: skip
def test_the_model_in_a_query_is_decoded(target: str, names: list[str]) -> None:
    assert [name for _, name in in_query(head(path=target))] == names


@pytest.mark.parametrize("query", [
    "model=a&model=a", "Model=a", "model[]=a", "MODEL=a&model=b", "a=1;model=b", "model=a;b", "model=%ff", "model=a%00", "model=%20a", "mo%64el=a&model=b",
    "model%00=a", "model=" + "a" * 2000,
])  # fmt: skip
def test_a_query_that_servers_could_read_differently_is_refused(query: str) -> None:
    with pytest.raises(ExchangeError) as refused:
        in_query(head(path="/v1/x?" + query))
    assert refused.value.kind.code == "ambiguous_body" and "with certainty: " in refused.value.message


def test_a_query_takes_another_model_and_keeps_its_other_bytes() -> None:
    assert query_with_model(head(path="/x?a=%7e&mod%65l=m&b=1&&c"), "n/\u00fc") == b"?a=%7e&mod%65l=n%2F%C3%BC&b=1&&c"
    assert query_with_model(head(path="/x?a=model"), "n") == b"?a=model"


def test_known_fields_name_the_model() -> None:
    found = in_fields(head("azureml-model-deployment: blue", "X_Model: m", "X-Remodel: a", "User-Agent: model", "Sec-CH-UA-Model: a"))
    assert [name for _, name in found] == ["blue", "m"]
    for line in ("X-Model: a\tb", "x-model: \xe4", "X-Model: " + "a" * 2000):
        with pytest.raises(ExchangeError):
            in_fields(head(line))
    assert line_with_model(b"X-Model: a", "b") == b"X-Model: b" and line_with_model(b"Modelling: a", "b") == b"Modelling: a"


def names_in(body: object, path: str = "/v1/chat/completions") -> list[str]:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return [name for _, name in in_body(head(path=path), inspect_json(text))]


@pytest.mark.parametrize(("body", "names"), [
    ({"model": "a"}, []), ({"session": {"model": "b", "type": "realtime"}}, ["b"]), ({"extra_body": {"top_k": 1}, "model": "a"}, []),
    ({"generateContentRequest": {"model": "models/b", "contents": []}}, ["models/b"]), ({"session": {"model": "a", "audio": {}}}, ["a"]),
    ({"extra_body": {"model": "b"}}, ["b"]), ({"session": "s"}, []), ({"session": {}}, []), ({"models": ["Ford", "Fiat"]}, []),
    ({"model": "a", "models": []}, []), ({"model": "a", "fallbacks": None}, []), ({"model": "a", "route": "other"}, []), ({"route": "fallback"}, []),
    ({"model": "a", "prompt": {"id": "pmpt_1"}}, []), ({"model": "a", "assistant_id": "x"}, []), ({"prompt": "text"}, []), ({"prompt": {"1": {"class_type": "KSampler"}}}, []),
    ({"model": "a", "response": {"status": "done"}}, []), ({"response": {"model": "b"}}, []), ({"Models": ["a"]}, []), ({"model": "a", "Models": None}, []),
])  # fmt: skip
def test_members_that_name_the_model_are_read(body: object, names: list[str]) -> None:
    assert names_in(body) == names


@pytest.mark.parametrize(("body", "reason"), [
    ({"model": "a", "models": ["b"]}, "models may name other models"), ({"models": ["b"], "messages": []}, "models may name"),
    ({"Models": ["b"], "Messages": []}, "Models may name"), ({"model": "a", "fallbacks": [{"model": "b"}]}, "fallbacks may name"),
    ({"model": "a", "extra_body": {"models": ["b"]}}, "extra_body.models may name"), ({"model": "a", "route": "fallback"}, "route permits"),
    ({"model": "a", "route": {"x": 1}}, "route permits"), ({"model": "a", "preset": "p"}, "preset refers to"), ({"prompt": {"id": "p"}}, "stored prompt"),
    ({"prompt": {"id": "p", "variables": "x" * PARSED_BYTES}}, "stored prompt"),
    ({"assistant_id": "x"}, "stored assistant"), ({"type": "response.create", "response": {"model": "b"}}, "response.model may be read"),
    ({"model": "a", "Session": {"model": "a"}}, "Session.model may be read"), (b'{"model":"a","models":["a"],"models":["b"]}', "models is repeated"),
    (b'{"session":{"model":"a","model":"b"}}', "session cannot be read: the key model is repeated"), ({"session": {"model": ["b"]}}, "session cannot be read"),
    ({"extra_body": {"Model": "b"}}, "extra_body cannot be read"), ({"extra_body": {"extra_body": {"model": "b"}}}, "of another one"),
    ({"session": {"type": "transcription", "audio": {"input": {"transcription": {"model": "b"}}}}}, "session may name a model of transcription"),
    ({"session": {"input_audio_transcription": {"model": "b"}}}, "session may name a model of transcription"),
    ({"generate_content_request": {"model": "models/b"}}, "generate_content_request.model may be read"),
    ({"session": {"a": "x" * PARSED_BYTES}}, "it is too large"), (b'{"session":{"model":"a"},"session":{"model":"b"}}', "session is repeated"),
])  # fmt: skip
def test_members_that_relayd_cannot_compare_are_refused(body: object, reason: str) -> None:
    with pytest.raises(ExchangeError) as refused:
        names_in(body)
    assert refused.value.kind.code == "ambiguous_body" and reason in refused.value.message


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/messages/batches/", "/v1/messages/%62atches", "/v1//x/../batches"])
def test_a_batch_is_refused(path: str) -> None:
    with pytest.raises(ExchangeError, match="a batch names models"):
        names_in({"input_file_id": "file-1", "endpoint": "/v1/responses"}, path)
    assert names_in({}, "/v1/batches/b1/cancel") == []


@pytest.mark.parametrize(("path", "reason"), [
    ("/v1/evals", "an evaluation names models"), ("/v1/evals/e1/runs/", "an evaluation names models"), ("/v1/%65vals", "an evaluation names models"),
    ("/v1/fine_tuning/alpha/graders/run", "a grader names"), ("/openai/Evals", "an evaluation"),
    ("/v1/realtime/transcription_sessions", "a transcription session names its model in another key"),
])  # fmt: skip
def test_requests_that_name_models_elsewhere_are_refused(path: str, reason: str) -> None:
    with pytest.raises(ExchangeError, match=reason):
        names_in({"name": "a"}, path)


@pytest.mark.parametrize("body", [b"&model=a", b";[MODEL]=a", b"x&%6do-d_el%00x=a", b"a" * PARSED_BYTES + b"a"])
def test_a_body_that_names_a_model_as_a_form_is_refused(body: bytes) -> None:
    form = "content-type: application/X-www-form-URLencoded"
    with pytest.raises(ExchangeError, match="is that of a form"):
        in_other_reading(head(form), body)
    in_other_reading(head("content-type: text/plain"), body)
    for other in (b"model=a", b"&models=a", b"&a=model=", b"&supermodel=a&modela", b"&mod=el&el="):
        in_other_reading(head(form), other)


def test_a_session_in_a_form_is_refused() -> None:
    in_form(head(path="/v1/audio/transcriptions"))
    with pytest.raises(ExchangeError, match="session in its form"):
        in_form(head(path="/v1/realtime/calls"))


def test_the_model_is_replaced_in_all_members() -> None:
    body = '{ "session" : {"\u00e4": 1, "model" : "a"}, "model":"a", "extra_body": {"model":"a","n":1.50}, "b": {"model":"a"} }'.encode()
    new = edited(body, edits_of(inspect_json(body), "n\u00fc"))
    assert new == '{ "session" : {"\u00e4": 1, "model" : "n\u00fc"}, "model":"a", "extra_body": {"model":"n\u00fc","n":1.50}, "b": {"model":"a"} }'.encode()
    assert edits_of(inspect_json(b'{"model":"a","session":"s"}'), "n") == []
    google = b'{"generateContentRequest":{"model":"models/a"}}'
    assert edited(google, edits_of(inspect_json(google), "n")) == google.replace(b"models/a", b"models/n")
