"""Rules on the model: nobody reaches a model that he is not granted, however the request names it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.dialects.turns import Turns
from tests.functional.harness.message import Message, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Upstream

CHAT, GEMINI, FORM = "/v1/chat/completions", "/v1beta/models/{}", "/v1/audio/transcriptions"
MINE, VIP = b"Authorization: Bearer sk-bob", b"Authorization: Bearer sk-vip"


def config(folder: Path, url: str) -> dict[str, Any]:
    return {
        "upstreams": {
            "vip": {"endpoints": [url]}, "open": {"endpoints": [url]},
            "chat": {"protocol": "openai_chat", "endpoints": [url + "/v1"]},
            "responses": {"protocol": "openai_responses", "endpoints": [url + "/v1"]},
        },
        "consumers": {"vip": {"bearer": {"env": "VIP"}}, "bob": {"bearer": {"env": "BOB"}}},
        "models": {"cheap": {"upstream": "chat", "model": "small"}, "gpt-vip": {"upstream": "chat"}, "r": {"upstream": "responses", "model": "r2"}},
        "routes": [
            {"name": "plain", "match": {"prefix": "/plain/"}, "upstream": "open"},
            {"name": "dialect", "match": {"prefix": "/dialect/"}, "upstream": "chat", "strip_prefix": "/dialect"},
            {"name": "by_model", "match": {"prefix": "/by_model/"}, "protocol": "openai_chat", "upstream": "by_model", "strip_prefix": "/by_model"},
            {"name": "reads", "match": {"prefix": "/methods/", "method": ["GET"]}, "upstream": "open"},
            {"name": "writes", "match": {"prefix": "/methods/"}, "upstream": "vip", "allow": ["vip"]},
            {"name": "socket_vip", "match": {"prefix": "/socket/", "model": ["gpt-vip*"]}, "upstream": "responses", "allow": ["vip"], "strip_prefix": "/socket"},
            {"name": "socket", "match": {"prefix": "/socket/"}, "upstream": "responses", "strip_prefix": "/socket"},
            {"name": "vip", "match": {"model": ["gpt-vip*", "ultra*"]}, "upstream": "vip", "allow": ["vip"]},
            {"name": "open", "match": {"prefix": "/"}, "upstream": "open"},
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def relay(module_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("models")
    url = module_upstream.url
    change = {**config(folder, url), "routes": config(folder, url)["routes"]}
    with Relay(folder, url, change, environment={"VIP": "sk-vip", "BOB": "sk-bob"}) as running:
        yield running


def ask(relay: Relay, path: str, body: bytes, *fields: bytes, key: bytes = MINE, method: str = "POST") -> Message:
    with Client(relay.address) as client:
        client.send(request(path.encode(), key, *fields, method=method.encode(), body=body))
        return client.answer()


def form(*parts: tuple[str, bytes], before: bytes = b"", behind: bytes = b"\r\n") -> bytes:
    out = before
    for disposition, value in parts:
        out += b"--b\r\nContent-Disposition: form-data; " + disposition.encode() + b"\r\n\r\n" + value + b"\r\n"
    return out + b"--b--" + behind


JSON = b"Content-Type: application/json"
PARTS = b"Content-Type: multipart/form-data; boundary=b"
BODIES = {
    "repeated": b'{"model":"x","model":"gpt-vip"}',
    "repeated, the other first": b'{"model":"gpt-vip","model":"x"}',
    "repeated in an escape": b'{"model":"x","mod\\u0065l":"gpt-vip"}',
    "another case": b'{"Model":"gpt-vip"}',
    "another case beside it": b'{"model":"cheap","MODEL":"gpt-vip"}',
    "another case in an escape": b'{"model":"cheap","\\u004dodel":"gpt-vip"}',
    "dashes": b'{"model":"cheap","mo-d_el":"gpt-vip"}',
    "a null byte in the key": b'{"model":"cheap","model\\u0000x":"gpt-vip"}',
    "another stream": b'{"model":"cheap","\\u017ftream":true}',
    "NaN": b'{"model":"gpt-vip","a":NaN}',
    "Infinity": b'{"a":[-Infinity],"model":"gpt-vip"}',
    "UTF-16": '{"model":"gpt-vip"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"model":"gpt-vip"}'.encode("utf-16-le"),
    "UTF-32": '{"model":"gpt-vip"}'.encode("utf-32-be"),
    "byte order mark": b'\xef\xbb\xbf{"model":"gpt-vip"}',
    "not UTF-8": b'{"model":"gpt-vip","a":"\xff"}',
    "an encoded surrogate": b'{"model":"gpt-vip","a":"\xed\xa0\x80"}',
    "two documents": b'{"model":"cheap"}{"model":"gpt-vip"}',
    "lines": b'{"model":"cheap"}\n{"model":"gpt-vip"}',
    "something behind": b'{"model":"gpt-vip"}\0',
    "half a character": b'{"model":"gpt-vip\\ud800"}',
    "a null byte in the name": b'{"model":"gpt-vip\\u0000"}',
    "a blank before the name": b'{"model":" gpt-vip"}',
    "a list": b'{"model":["gpt-vip"]}',
    "null": b'{"model":null}',
    "no object": b'[{"model":"gpt-vip"}]',
    "a comment": b'{/**/"model":"gpt-vip"}',
    "a comma": b'{"model":"gpt-vip",}',
    "a control character": b'{"model":"gpt-vip","a":"\n"}',
    "single quotes": b"{'model':'gpt-vip'}",
    "urlencoded": b"model=gpt-vip",
    "cut off": b'{"model":"gpt-vip"',
    "large and repeated": b'{"model":"x","a":"' + b"a" * 400_000 + b'","model":"gpt-vip"}',
    "large and in another case": b'{"model":"x","a":[' + b"1," * 200_000 + b'1],"MODEL":"gpt-vip"}',
    "large and NaN": b'{"model":"gpt-vip","a":"' + b"a" * 400_000 + b'","b":NaN}',
}


@pytest.mark.parametrize("path", [CHAT, "/by_model" + CHAT])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_readers_could_dispute_reaches_nobody(name: str, path: str, relay: Relay, upstream: Upstream) -> None:
    told = ask(relay, path, BODIES[name], JSON)
    assert told.status == 400, told.body
    words = json.loads(told.body)
    reason = words.get("detail") or words["error"]["message"]
    assert "certainty: " in reason and reason[-1] == ".", reason
    assert b"ambiguous_body" in told.body
    assert relay.record(code="ambiguous_body")["status"] == 400
    assert upstream.requests.empty()


@pytest.mark.parametrize("fields", [
    (JSON, b"Content-Encoding: gzip"), (JSON, b"Content-Encoding: identity", b"content-encoding: br"), (b"Content-Type: application/json; charset=utf-16",),
    (b'Content-Type: application/json;charset="UTF-7"',), (JSON, b"Content-Type: multipart/form-data; boundary=b"),
    (b"Content-Type: multipart/form-data",), (b"Content-Type: multipart/form-data; boundary=a; boundary=b",),
    (b"Content-Type: multipart/form-data; boundary=a; boundary*0=b",), (b"Content-Type: application/json; charset=utf-8; charset=utf-7",),
    (b'Content-Type: application/json; a=";charset=utf-8"; charset=utf-7',), (JSON, b"Content_Encoding: deflate"), (JSON, b"content_type: text/plain"),
])  # fmt: skip
def test_a_body_that_relayd_cannot_read_is_refused(fields: tuple[bytes, ...], relay: Relay, upstream: Upstream) -> None:
    body = b'{"model":"gpt-vip"}'
    if b"gzip" in fields[-1]:
        body = gzip.compress(body)
    for path in (CHAT, "/by_model" + CHAT):
        assert ask(relay, path, body, *fields).status == 400
    assert upstream.requests.empty()


@pytest.mark.parametrize(("path", "name"), [(CHAT, "GPT-VIP"), (CHAT, "Gpt-vip-2"), ("/v1beta/models/ULTRA:generateContent", "")])
def test_a_name_in_another_case_is_the_same_model(path: str, name: str, relay: Relay, upstream: Upstream) -> None:
    told = ask(relay, path, b'{"model":"%s"}' % name.encode() if name else b"{}", JSON)
    assert told.status == 403, told.body
    assert upstream.requests.empty()


@pytest.mark.parametrize("body", [
    b'{"model":"cheap","a":"&model=gpt-vip&b"}', b'{"model":"cheap","a":"&mod%65l=gpt-vip&"}', b'{"model":"cheap","a":";Model=gpt-vip;"}', b'{"messages":"& model[]=gpt-vip&"}',
    b'{"model":"cheap","a":"&model%00x=gpt-vip&"}', b'{"model":"cheap","a":"' + b"a" * 400_000 + b'&model=gpt-vip&"}', b'{"model":"cheap","a":"%26model=gpt-vip&"}',
])  # fmt: skip
def test_json_that_is_another_request_as_a_form_reaches_nobody(body: bytes, relay: Relay, upstream: Upstream) -> None:
    for path in (CHAT, "/by_model" + CHAT):
        for kind in (b"application/x-www-form-urlencoded", b"Application/X-WWW-Form-Urlencoded; charset=utf-8"):
            told = ask(relay, path, body, b"Content-Type: " + kind)
            assert told.status == 400 and b"ambiguous_body" in told.body, told.body
    assert upstream.requests.empty()
    assert ask(relay, CHAT, body, JSON).status == 200
    upstream.request()


def test_json_that_curl_calls_a_form_is_read(relay: Relay, upstream: Upstream) -> None:
    """`curl -d` states this type if it is told no other."""
    kind = b"Content-Type: application/x-www-form-urlencoded"
    body = b'{"model":"cheap","messages":[{"role":"user","content":"a=b&c=d; the model = e & models=f&supermodel=g"}]}'
    assert ask(relay, CHAT, body, kind).status == 200
    assert upstream.request().body == body
    assert ask(relay, CHAT, body.replace(b"cheap", b"gpt-vip"), kind).status == 403


VIP_FIELD = ('name="model"', b"gpt-vip")
FORMS = {
    "two fields": form(('name="model"', b"cheap"), VIP_FIELD), "two fields, the other first": form(VIP_FIELD, ('name="model"', b"cheap")),
    "another case": form(('name="Model"', b"gpt-vip")), "an array": form(('name="model[]"', b"gpt-vip")),
    "an escape": form(('name="mod\\el"', b"gpt-vip")), "percent": form(('name="%6dodel"', b"gpt-vip")),
    "a file": form(('name="model"; filename="a"', b"gpt-vip")), "a name in another coding": form(("name*=utf-8''model", b"gpt-vip")),
    "JSON before it": form(('name="model"', b"cheap"), before=b'{"model":"gpt-vip"}\r\n'),
    "JSON behind it": form(('name="model"', b"cheap"), behind=b'\r\n{"model":"gpt-vip"}'),
    "a name in pieces": form(('name*0="mod"; name*1="el"', b"gpt-vip")), "a name in pieces beside another": form(('name="a"; name*0*=utf-8\'\'model', b"gpt-vip")),
    "a file in pieces": form(('name="model"; filename*0="a"', b"gpt-vip")),
    "cut off": form(VIP_FIELD)[:-4], "a coding": form(VIP_FIELD).replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n", 1),
    "a second field behind a file": form(('name="model"', b"cheap"), ('name="file"; filename="a"', b"x" * 300_000), VIP_FIELD),
}  # fmt: skip


@pytest.mark.parametrize("path", [FORM, "/by_model" + FORM])
@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_readers_could_dispute_reaches_nobody_whole(name: str, path: str, relay: Relay, upstream: Upstream) -> None:
    told = ask(relay, path, FORMS[name], PARTS)
    assert told.status == 400 and b"ambiguous_body" in told.body
    assert not any(b"gpt-vip" in message.body for message in list(upstream.requests.queue))


@pytest.mark.parametrize("path", [
    GEMINI.format("%75ltra:generateContent"), GEMINI.format("ultra%3AgenerateContent"), "/v1beta/models%2fultra:generateContent",
    "/v1beta/%6dodels/ultra:generateContent", GEMINI.format("x/../ultra:generateContent"), GEMINI.format("%2575ltra:generateContent"),
    GEMINI.format("ultra:generateContent/"), "/v1beta//models//ultra:generateContent", "/v1beta/Models/ultra:generateContent",
    GEMINI.format("ultr%61:streamGenerateContent"), GEMINI.format("ultra%00:generateContent"), GEMINI.format("./ultra:generateContent"),
])  # fmt: skip
def test_a_path_that_names_a_model_is_read_as_the_endpoint_reads_it(path: str, relay: Relay, upstream: Upstream) -> None:
    told = ask(relay, path, b'{"contents":[]}', JSON)
    assert told.status in (400, 403), told.body
    came = list(upstream.requests.queue)  # perhaps the beginning of a refused form of another test
    assert all(FORM.encode() in message.start for message in came)


OLLAMAS = {
    "another case": ("/api/show", b'{"Name":"gpt-vip"}'), "capitals beside it": ("/api/delete", b'{"name":"cheap","NAME":"gpt-vip"}'),
    "an older word beside it": ("/api/show", b'{"model":"cheap","name":"gpt-vip"}'), "an empty model": ("/api/pull", b'{"model":"","name":"gpt-vip"}'),
    "an escape in the path": ("/api/sho%77", b'{"name":"gpt-vip"}'), "two slashes": ("/api//show", b'{"name":"gpt-vip"}'),
    "dots": ("/api/x/../show", b'{"name":"gpt-vip"}'), "a parameter": ("/api/show;x", b'{"name":"gpt-vip"}'), "a query": ("/api/show%3Fx", b'{"name":"gpt-vip"}'),
    "an escaped folder": ("/%61pi/show", b'{"name":"gpt-vip"}'), "a copy": ("/api/copy", b'{"source":"gpt-vip","destination":"cheap"}'),
    "a copy of it": ("/api/copy", b'{"Source":"gpt-vip","destination":"cheap"}'), "made from it": ("/api/create", b'{"model":"cheap","from":"gpt-vip"}'),
    "made from it in a file": ("/api/create", b'{"model":"cheap","modelfile":"FROM gpt-vip"}'), "made twice": ("/api/create", b'{"from":"a","from":"gpt-vip"}'),
}


@pytest.mark.parametrize("name", OLLAMAS)
def test_the_model_that_a_request_to_ollama_names_is_found(name: str, relay: Relay, upstream: Upstream) -> None:
    path, body = OLLAMAS[name]
    told = ask(relay, path, body, JSON)
    assert told.status in (400, 403), told.body
    assert upstream.requests.empty()


def test_a_model_of_ollama_that_everybody_may_use_is_reached(relay: Relay, upstream: Upstream) -> None:
    for path, body in (
        ("/api/show", b'{"name":"cheap"}'), ("/api/show", b'{"model":"cheap","name":"cheap"}'), ("/api/copy", b'{"source":"cheap","destination":"b"}'),
        ("/api/create", b'{"model":"b","from":"cheap"}'), ("/api/generate", b'{"model":"cheap","name":"gpt-vip"}'),
    ):
        assert ask(relay, path, body, JSON).status == 200
        assert upstream.request().body == body


def test_who_is_granted_reaches_the_model_and_its_bytes_are_untouched(relay: Relay, upstream: Upstream) -> None:
    body = b'{ "a" : {"model":"x","Model":1}, "mod\\u0065l" : "gpt-vip-1", "n":1.50 }\n'
    assert ask(relay, CHAT, body, JSON).status == 403
    assert ask(relay, CHAT, body, JSON, key=VIP).status == 200
    assert upstream.request().body == body
    for path in (GEMINI.format("%75ltra:generateContent"), GEMINI.format("ultra:generateContent")):
        assert ask(relay, path, b'{"model":"models/ultra"}', JSON, key=VIP).status == 200
        assert upstream.request().target == path.encode()
    whole = form(('name="file"; filename="a"', b"x" * 200_000), ('name="model"', b"gpt-vip"))
    assert ask(relay, FORM, whole, PARTS).status == 403 and ask(relay, FORM, whole, PARTS, key=VIP).status == 200
    assert upstream.request().body == whole


def test_a_path_and_a_body_may_not_name_two_models(relay: Relay, upstream: Upstream) -> None:
    assert ask(relay, GEMINI.format("cheap:generateContent"), b'{"model":"gpt-vip"}', JSON).status == 400
    assert upstream.requests.empty()


@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("DELETE", b""), ("POST", b""), ("GET", b'{"model":"x"}'), ("POST", b'{"a":1}'), ("POST", b'{"model":""}')])
def test_a_request_without_a_model_goes_to_the_open_rule(method: str, body: bytes, relay: Relay, upstream: Upstream) -> None:
    assert ask(relay, CHAT, body, JSON, method=method).status == 200
    assert upstream.request().body == body


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_other_methods_cannot_carry_the_model_past_the_rule(method: str, relay: Relay, upstream: Upstream) -> None:
    assert ask(relay, CHAT, b'{"model":"gpt-vip"}', JSON, method=method).status == 403
    with Client(relay.address) as client:
        head = f"{method} {CHAT} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n".encode() + MINE + b"\r\n\r\n"
        client.send(head + b'A\r\n{"model":"\r\n9\r\ngpt-vip"}\r\n0\r\n\r\n')
        assert client.answer().status == 403
    assert upstream.requests.empty()


@pytest.mark.parametrize("name", BODIES)
def test_where_no_model_decides_every_byte_passes(name: str, relay: Relay, upstream: Upstream) -> None:
    for path in ("/plain" + CHAT, "/dialect" + CHAT):
        assert ask(relay, path, BODIES[name], JSON).status == 200
        assert upstream.request().body == BODIES[name]


@pytest.mark.parametrize("name", FORMS)
def test_where_no_model_decides_every_form_passes(name: str, relay: Relay, upstream: Upstream) -> None:
    for path in ("/plain" + FORM, "/dialect" + FORM):
        assert ask(relay, path, FORMS[name], PARTS).status == 200
        assert upstream.request().body == FORMS[name]


def test_the_model_of_a_form_gets_its_other_name_wherever_it_stands(relay: Relay, upstream: Upstream) -> None:
    file = ('name="file"; filename="a"', b"\r\n--x" * 60_000)
    for parts in ((('name="model"', b"cheap"), file), (file, ('name="model"', b"cheap")), (('name="model"', b"cheap"),)):
        whole = form(*parts)
        told = ask(relay, "/by_model" + FORM, whole, PARTS)
        assert told.status == 200, told.body
        assert upstream.request().body == whole.replace(b"cheap", b"small")


def test_only_the_name_changes_in_a_large_body(relay: Relay, upstream: Upstream) -> None:
    text = json.dumps("\u20ac\U0001f600" * 100_000, ensure_ascii=False).encode()
    body = b'{"messages":[{"role":"user","content":' + text + b'}], "model" : "cheap","stream":true}\n'
    assert ask(relay, "/by_model" + CHAT, body, JSON).status == 200
    sent = upstream.request().body
    assert sent == body.replace(b'"cheap"', b'"small"').replace(b'"stream":true', b'"stream":true,"stream_options":{"include_usage":true}')


EMPTY = b'{"messages":[]}'
OTHER_PLACES = {
    "OpenRouter's list": (CHAT, b'{"model":"cheap","models":["gpt-vip"]}', ()), "OpenRouter's list alone": (CHAT, b'{"models":["gpt-vip"],"messages":[]}', ()),
    "OpenRouter's choice": (CHAT, b'{"model":"cheap","route":"fallback"}', ()), "OpenRouter's preset": (CHAT, b'{"model":"cheap","preset":"vip"}', ()),
    "LiteLLM's fallbacks": (CHAT, b'{"model":"cheap","fallbacks":["gpt-vip"]}', ()), "what LiteLLM merges": (CHAT, b'{"model":"cheap","extra_body":{"model":"gpt-vip"}}', ()),
    "what LiteLLM merges, a list": (CHAT, b'{"model":"cheap","extra_body":{"models":["gpt-vip"]}}', ()),
    "the query": (CHAT + "?model=gpt-vip", EMPTY, ()), "the query beside a body": (CHAT + "?model=gpt-vip", b'{"model":"cheap"}', ()),
    "the query twice": (CHAT + "?model=cheap&model=gpt-vip", EMPTY, ()), "the query in capitals": (CHAT + "?Model=gpt-vip", EMPTY, ()),
    "the query in escapes": (CHAT + "?%6dodel=gpt%2Dvip", EMPTY, ()), "the query behind a semicolon": (CHAT + "?a=1;model=gpt-vip", EMPTY, ()),
    "Azure": ("/openai/deployments/gpt-vip/chat/completions?api-version=1", EMPTY, ()), "Azure beside a body": ("/openai/deployments/gpt-vip/embeddings", b'{"model":"cheap"}', ()),
    "Azure in capitals": ("/OPENAI/Deployments/gpt-vip/chat/completions", EMPTY, ()), "Azure in escapes": ("/openai/deployments/%67pt-vip/chat/completions", EMPTY, ()),
    "another API of Azure": ("/openai/deployments/gpt-vip/rerank", EMPTY, ()), "Azure's batches": ("/openai/Batches", b'{"input_file_id":"file-1"}', ()),
    "a grader": ("/v1/fine_tuning/alpha/graders/run", b'{"grader":{"type":"score_model","model":"gpt-vip"}}', ()),
    "Azure with a backslash": ("/openai\\deployments/gpt-vip/chat/completions", EMPTY, ()), "an engine": ("/v1/engines/gpt-vip/completions", b'{"prompt":"a"}', ()),
    "a tuned model": ("/v1beta/tunedModels/ultra:generateContent", b"{}", ()), "Vertex": ("/v1/projects/p/locations/l/publishers/google/models/ultra:predict", b"{}", ()),
    "an endpoint of Vertex": ("/v1/projects/p/locations/l/endpoints/ultra:predict", b"{}", ()), "Bedrock": ("/model/gpt-vip/converse", b"{}", ()),
    "Triton": ("/v2/models/gpt-vip/infer", b"{}", ()), "Google's longer name": (CHAT, b'{"model":"models/gpt-vip"}', ()),
    "Azure Machine Learning": (CHAT, b'{"model":"cheap"}', (b"azureml-model-deployment: gpt-vip",)), "a gateway": (CHAT, EMPTY, (b"X-Gateway-Model-Name: gpt-vip",)),
    "SageMaker": ("/endpoints/x/invocations", EMPTY, (b"X-Amzn_SageMaker-Target-Model: gpt-vip",)), "a short name": (CHAT, b'{"model":"cheap"}', (b"x-model: gpt-vip",)),
    "a session": ("/v1/realtime/client_secrets", b'{"session":{"type":"realtime","model":"gpt-vip"}}', ()),
    "a session twice": ("/v1/realtime/client_secrets", b'{"session":{"model":"a"},"Session":{"model":"gpt-vip"}}', ()),
    "a session of transcription": ("/v1/realtime/client_secrets", b'{"session":{"type":"transcription","audio":{"input":{"transcription":{"model":"gpt-vip"}}}}}', ()),
    "the older session of transcription": ("/v1/realtime/transcription_sessions", b'{"input_audio_transcription":{"model":"gpt-vip"}}', ()),
    "an evaluation": ("/v1/evals/e1/runs", b'{"data_source":{"type":"completions","model":"gpt-vip"}}', ()),
    "a counted request": ("/v1beta/models/cheap:countTokens", b'{"generateContentRequest":{"model":"models/gpt-vip"}}', ()),
    "a batch": ("/v1/batches", b'{"input_file_id":"file-1","endpoint":"/v1/chat/completions"}', ()),
    "a batch of messages": ("/v1/messages/batches", b'{"requests":[{"custom_id":"a","params":{"model":"gpt-vip"}}]}', ()),
    "a stored prompt": ("/v1/responses", b'{"prompt":{"id":"pmpt_1"},"input":"a"}', ()), "an assistant": ("/v1/threads/t/runs", b'{"assistant_id":"asst_1"}', ()),
    "a nested message": ("/v1/responses", b'{"type":"response.create","model":"cheap","response":{"model":"gpt-vip"}}', ()),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_PLACES)
def test_no_other_place_names_a_model_past_the_rule(name: str, relay: Relay, upstream: Upstream) -> None:
    path, body, fields = OTHER_PLACES[name]
    told = ask(relay, path, body, JSON, *fields)
    assert told.status in (400, 403), told.body
    if told.status == 400:
        assert b"ambiguous_body" in told.body or b"ambiguous_path" in told.body
    assert upstream.requests.empty()


@pytest.mark.parametrize("name", OTHER_PLACES)
def test_where_no_model_decides_every_other_place_passes(name: str, relay: Relay, upstream: Upstream) -> None:
    path, body, fields = OTHER_PLACES[name]
    assert ask(relay, "/plain" + path, body, JSON, *fields).status == 200
    assert upstream.request().body == body


def test_a_model_that_only_the_query_names_is_found_without_a_body(relay: Relay, upstream: Upstream) -> None:
    for key, status in ((MINE, 403), (VIP, 200)):
        assert ask(relay, "/v1/realtime?model=gpt-vip", b"", key=key, method="GET").status == status
    assert upstream.request().target == b"/v1/realtime?model=gpt-vip"


def test_a_form_must_agree_with_the_query_and_the_path(relay: Relay, upstream: Upstream) -> None:
    whole = form(('name="model"', b"cheap"), ('name="file"; filename="a"', b"x" * 300_000))
    for path in (FORM + "?model=gpt-vip", "/openai/deployments/gpt-vip/audio/transcriptions"):
        for prefix in ("", "/by_model"):
            assert ask(relay, prefix + path, whole, PARTS).status == 400
    assert upstream.requests.empty()


def test_an_alias_is_written_wherever_the_request_names_the_model(relay: Relay, upstream: Upstream) -> None:
    body = b'{"model": "cheap", "extra_body": {"model": "cheap", "a": 1.50}, "messages": [{"role":"user","content":"cheap"}]}'
    path = "/by_model/v1/openai/deployments/cheap/chat/completions?a=cheap&model=cheap"
    told = ask(relay, path, body, JSON, b"X-Model: cheap", b"X-Other: cheap")
    assert told.status == 200, told.body
    seen = upstream.request()
    assert seen.target == b"/v1/openai/deployments/small/chat/completions?a=cheap&model=small"
    assert seen.body == body.replace(b'"model": "cheap"', b'"model": "small"')
    assert seen.get_all("x-model") == [b"small"] and seen.get_all("x-other") == [b"cheap"]


@pytest.mark.parametrize(("target", "fields"), [
    ("/methods/a", (b"X-HTTP-Method-Override: DELETE",)), ("/methods/a", (b"x-http-method: put",)), ("/methods/a", (b"X_Method_Override: POST",)),
])  # fmt: skip
def test_a_request_that_names_another_method_is_refused_where_the_method_decides(target: str, fields: tuple[bytes, ...], relay: Relay, upstream: Upstream) -> None:
    told = ask(relay, target, b"", *fields, method="GET")
    assert told.status == 400
    assert upstream.requests.empty()
    assert ask(relay, "/plain" + target, b"", *fields, method="GET").status == 200
    upstream.request()
    assert ask(relay, target, b"", b"X-HTTP-Method-Override: GET", method="GET").status == 200
    upstream.request()


def test_a_parameter_that_replaces_the_method_of_a_post_is_refused_where_the_method_decides(relay: Relay, upstream: Upstream) -> None:
    for query in ("?_method=GET", "?a=1&%5fmethod=get"):
        assert ask(relay, "/methods/a" + query, b"", method="POST", key=VIP).status == 400
    assert upstream.requests.empty()
    assert ask(relay, "/methods/a?_method=PUT", b"", method="POST", key=VIP).status == 200
    upstream.request()


@pytest.mark.parametrize("members", [
    {"model": "gpt-vip", "input": "a"}, {"model": "cheap", "input": "a", "response": {"model": "gpt-vip"}}, {"model": "cheap", "Model": "gpt-vip", "input": "a"},
    {"model": "cheap", "session": {"model": "gpt-vip"}, "input": "a"}, {"response": {"model": "gpt-vip", "input": "a"}}, {"model": "cheap", "models": ["gpt-vip"], "input": "a"},
])  # fmt: skip
def test_a_turn_of_a_socket_names_no_model_past_the_rule(members: dict[str, Any], relay: Relay, upstream: Upstream) -> None:
    with Turns(relay.port, "sk-bob", "/socket/v1/responses") as turns:
        turns.send(**members)
        told = turns.event()
        assert told["type"] == "error" and told["status"] in (400, 403), told
    assert upstream.requests.empty()


def test_a_socket_whose_handshake_names_another_model_reaches_neither(relay: Relay, upstream: Upstream) -> None:
    with Turns(relay.port, "sk-bob", "/socket/v1/responses?model=cheap") as turns:
        turns.send(model="other", input="a")
        told = turns.event()
        assert told["type"] == "error" and told["status"] == 400, told
    assert upstream.requests.empty()
