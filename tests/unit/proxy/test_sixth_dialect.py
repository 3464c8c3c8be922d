"""A dialect that no file of relayd names, added as a folder beside the others: all of relayd supports it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import relayd.protocols
from relayd.cli.explanation import HypotheticalRequest, explanation
from relayd.config.documents import schema_text
from relayd.config.load import load_text
from relayd.errors import ConfigError
from relayd.protocols import registry
from relayd.protocols.model_list import read_page
from relayd.usage import Usage
from tests.unit.proxy.fakes import head_for, plan_of
from tests.unit.proxy.harness import get, post, running, status_of
from tests.unit.proxy.scripted_endpoints import ScriptedEndpoints, http, in_turn

PLANTED = '''
"""A sixth dialect: `POST /planted/ask` with model and question; answers are events that say and count words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from relayd.protocols import canon
from relayd.protocols.dialect import (
    Dialect, EncodedRequest, EncodedResponse, ModelListShape, ModelListSource, Page, Reader, Refused, Renderer, ResponseFacts,
    TapFormat,
)
from relayd.usage import Usage


def read_request(body, ask):
    asked = json.loads(body)
    if "question" not in asked:
        raise Refused("No question.", "question")
    return canon.Request(asked["model"], (canon.Message("user", (canon.Text(asked["question"]),)),), bool(asked.get("stream")))


def write_request(request, options, memory):
    question = "".join(part.text for message in request.messages for part in message.parts)
    return EncodedRequest("/planted/ask", json.dumps({"model": request.model, "question": question}).encode())


def read_usage(counts: Mapping[str, Any]) -> Usage:
    return Usage(input=counts.get("heard", 0), output=counts.get("spoken", 0))


def facts(value: dict[str, Any]) -> ResponseFacts:
    return ResponseFacts(value.get("mind", ""), value.get("why", ""), value.get("words"))


class PlantedReader(Reader):
    has_more = False

    def __init__(self) -> None:
        self.body = b""

    def decode(self, data):
        self.body += data
        return []

    def finish(self):
        value = json.loads(self.body)
        return [canon.Begin(), canon.TextDelta(value["say"]), read_usage(value["words"]), canon.Finish("stop"), canon.End()]


class Speaker(Renderer):
    def __init__(self) -> None:
        self.text, self.failure = "", None

    def render(self, events):
        for event in events:
            if isinstance(event, canon.TextDelta):
                self.text += event.text
            elif isinstance(event, canon.Failure):
                self.failure = event
        return b""

    def keepalive(self):
        return b""

    def response(self):
        return render_error(self.failure, "") if self.failure else EncodedResponse(200, json.dumps({"say": self.text}).encode())


def render_error(failure, request_id):
    return EncodedResponse(failure.status, json.dumps({"sorry": failure.message}).encode())


DIALECT = Dialect(
    name="planted_ai", title="Planted", paths=("/planted/ask",), drops=("Everything else.",),
    render_error=render_error, read_error=lambda status, headers, body: canon.Failure(status, json.loads(body)["sorry"]),
    read_request=read_request, renderer=lambda request, ask: Speaker(),
    write_request=write_request, reader=lambda request, options, memory, content_encoding="": PlantedReader(),
    serves=frozenset({"openai_chat"}), default_base_path=b"/v9", key_header=b"x-planted-key",
    frame_error=lambda rendered: b"event: sorry\\ndata: " + rendered.body + b"\\n\\n",
    tap=TapFormat(usage_key="words", finish_key="why", model_key="mind", facts=facts, usage=read_usage),
    model_list=ModelListSource("/minds", "", lambda value: Page(tuple(value["minds"]))),
    listing=ModelListShape(
        lambda listing, made_s, asked: {"minds": [name for name, _ in listing]}, lambda name, upstream, made_s: {"mind": name},
    ),
)
'''
WHOLE = """
upstreams:
  there: {protocol: planted_ai, endpoints: ["http://127.0.0.1:PORT/a/v9"]}
  chat: {protocol: openai_chat, endpoints: ["http://127.0.0.1:PORT/b/v1"]}
models: {mind: there, mine: chat}
consumers: {}
routes:
  - {name: chat, match: {prefix: /v1/}, protocol: openai_chat, upstream: by_model}
  - {name: planted, protocol: planted_ai, upstream: by_model}
"""
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
SAID = b'data: {"mind":"m-1","say":"yes"}\n\n'
LAST = b'data: {"why":"done","words":{"heard":3,"spoken":2}}\n\n'


@pytest.fixture(autouse=True)
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "elsewhere" / "planted_ai"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(PLANTED)
    monkeypatch.setattr(relayd.protocols, "__path__", [*relayd.protocols.__path__, str(folder.parent)])
    importlib.invalidate_caches()
    yield
    registry.dialect.cache_clear()
    sys.modules.pop("relayd.protocols.planted_ai", None)
    vars(relayd.protocols).pop("planted_ai", None)


def asking(path: str = "/planted/ask", **members: object) -> bytes:
    body = {"model": "mind", "question": "well?", **members}
    return post(json.dumps(body).encode(), "Content-Type: application/json", path=path)


def test_the_configuration_takes_its_name_and_knows_what_it_leads_to() -> None:
    listener = 'listeners: {public: {address: "127.0.0.1:8282"}}\n'
    load_text(listener + WHOLE.replace("PORT", "1"), "relayd.yaml")
    assert '"planted_ai"' in schema_text()
    with pytest.raises(ConfigError, match=r"planted_ai needs an upstream whose protocol|nothing is translated") as caught:
        load_text(listener + WHOLE.replace("PORT", "1").replace("protocol: openai_chat, e", "protocol: gemini, e").replace(
            "{name: planted, protocol: planted_ai, upstream: by_model}", "{name: x, protocol: ollama, upstream: there}"), "y")
    assert "nothing is translated from ollama to planted_ai" in str(caught.value)


def test_it_is_explained_with_its_path_behind_its_base() -> None:
    text = 'listeners: {public: {address: "127.0.0.1:8282"}}\n' + WHOLE.replace("PORT", "1").replace("/a/v9", "")
    head = head_for("Content-Type: application/json", "Content-Length: 9", start="POST /v1/chat/completions HTTP/1.1")
    head.model = "mind"
    body = b'{"model": "mind", "messages": [{"role": "user", "content": "hi"}]}'
    sent = explanation(plan_of(text), HypotheticalRequest(head, "http", "127.0.0.1", body))["sent"]
    assert sent["translated"] == "from openai_chat to planted_ai" and sent["target"] == "/v9/planted/ask"


async def test_its_own_clients_pass_and_are_counted(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=STREAM + b"\r\n" + SAID + LAST)
    async with running(tmp_path, endpoints, whole=WHOLE) as harness:
        side = await harness.connect()
        side.write(asking(stream=True).replace(b"Host:", b"Connection: close\r\nHost:"))
        assert (await side.rest()).endswith(b"0\r\n\r\n")
        (record,) = await harness.accounted(1)
        assert record.usage == Usage(3, 2) and record.more is not None
        assert (record.more["finish"], record.more["model_served"]) == ("done", "m-1")
        assert b"/a/v9/planted/ask " in endpoints.asked[0][1]


async def test_an_error_inside_its_stream_is_one_of_its_own_frames(tmp_path: Path) -> None:
    cut = STREAM + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(SAID), SAID)
    events, play = in_turn(cut, b"")
    async with running(tmp_path, ScriptedEndpoints(a=play), whole=WHOLE) as harness:
        side = await harness.connect()
        side.write(asking(stream=True))
        events[0].set()
        await side.head()
        events[1].set()
        assert b"event: sorry\ndata: {" in await side.rest()


async def test_other_dialects_are_translated_to_it_and_it_to_them(tmp_path: Path) -> None:
    endpoints = ScriptedEndpoints(a=http(200, {"say": "yes", "words": {"heard": 4, "spoken": 1}}), b=http(200, {
        "choices": [{"index": 0, "message": {"content": "no"}, "finish_reason": "stop"}],
    }))  # fmt: skip
    async with running(tmp_path, endpoints, whole=WHOLE) as harness:
        body = {"model": "mind", "messages": [{"role": "user", "content": "well?"}]}
        head, answer = await harness.ask(post(json.dumps(body).encode(), path="/v1/chat/completions"))
        assert status_of(head) == 200 and json.loads(answer)["choices"][0]["message"]["content"] == "yes"
        head, answer = await harness.ask(asking(model="mine"))
        assert status_of(head) == 200 and json.loads(answer) == {"say": "no"}
        head, answer = await harness.ask(asking(model="mine", question=None).replace(b"question", b"questioN"))
        assert status_of(head) == 400 and json.loads(answer) == {"sorry": "No question."}
        first, _, _ = await harness.accounted(3)
        assert first.usage == Usage(4, 1)


async def test_its_clients_read_lists_of_models_in_its_shape_and_its_endpoints_lists_are_read(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEndpoints(), whole=WHOLE) as harness:
        head, answer = await harness.ask(get("/planted/models"))
        assert status_of(head) == 200 and json.loads(answer) == {"minds": ["mind", "mine"]}
    source = registry.load("planted_ai").model_list
    assert source is not None and read_page(source, b'{"minds": ["a"]}').names == ("a",)


async def test_a_consumer_s_key_is_taken_from_its_header_and_stays_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM", "sk-team")
    whole = WHOLE.replace("consumers: {}", "consumers: {team: {key: {env: TEAM}}}")
    whole = whole.replace("protocol: planted_ai, upstream: by_model", "protocol: planted_ai, upstream: by_model, allow: [team]")
    endpoints = ScriptedEndpoints(a=http(200, {"mind": "m-1", "say": "yes"}))
    async with running(tmp_path, endpoints, whole=whole) as harness:
        assert status_of((await harness.ask(asking()))[0]) == 401
        head, _ = await harness.ask(asking().replace(b"Host:", b"X-Planted-Key: sk-team\r\nHost:"))
        assert status_of(head) == 200 and b"sk-team" not in endpoints.asked[0][1]
