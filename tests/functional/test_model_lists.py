"""The models that upstreams list themselves, through the real process: merged, kept over failures, shown in status."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.faults import until
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream, saying

LISTS: dict[str, tuple[str, bytes, Any]] = {
    "openai_chat": ("/v1", b"/v1/models", {"object": "list", "data": [{"id": "chat-1"}, {"id": "other/x"}]}),
    "openai_responses": ("", b"/v1/models", {"data": [{"id": "resp-1"}]}),
    "anthropic_messages": ("", b"/v1/models?limit=1000", {"data": [{"id": "claude-1"}], "has_more": False}),
    "gemini": ("", b"/v1beta/models?pageSize=1000", {"models": [{"name": "models/gemini-1"}]}),
    "ollama": ("", b"/api/tags", {"models": [{"name": "small:7b"}]}),
}
MODELS = {
    "fast": {"upstream": "openai_chat", "model": "chat-1"},
    "chat-*": "openai_chat",
    "resp-*": "openai_responses",
    "claude-*": "anthropic_messages",
    "google/*": {"upstream": "gemini", "model": "*"},
    "local/*": {"upstream": "ollama", "model": "*"},
}
LISTED = ["fast", "chat-1", "resp-1", "claude-1", "google/gemini-1", "local/small:7b"]


class Backs:
    """One scripted endpoint of every dialect; `broken` ones answer 500."""

    def __init__(self, stack: ExitStack) -> None:
        self.broken: set[str] = set()
        self.upstreams = {name: stack.enter_context(Upstream()) for name in LISTS}
        for name, upstream in self.upstreams.items():
            upstream.script = self.script(name)

    def script(self, name: str) -> Callable[[Peer, Message], None]:
        _, target, told = LISTS[name]

        def script(peer: Peer, message: Message) -> None:
            peer.whole(message)
            if name in self.broken:
                peer.send(answer(b"{}", status=b"500 Oh"))
            elif message.target == target:
                peer.send(answer(json.dumps(told).encode(), b"Content-Type: application/json"))
            else:
                peer.send(answer(b"{}", status=b"404 Not Found"))

        return script


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, Backs]]:
    folder: Path = tmp_path_factory.mktemp("lists")
    with ExitStack() as stack:
        backs = Backs(stack)
        (folder / "key").write_text("sesame")
        (folder / "key").chmod(0o600)
        upstreams = {
            name: {
                "protocol": name, "endpoints": [backs.upstreams[name].url + base], "list_models": True,
                "auth": {"bearer": {"file": str(folder / "key")}}, "limits": {"requests": 1},
            }
            for name, (base, _, _) in LISTS.items()
        }  # fmt: skip
        config = {
            "upstreams": {"up": None, **upstreams}, "models": MODELS,
            "routes": [{"name": "llm", "match": {"prefix": "/v1/"}, "protocol": "openai_chat", "upstream": "by_model"}],
        }
        yield stack.enter_context(Relay(folder, "", config)), backs


def names(relay: Relay, *lines: bytes) -> list[str]:
    with relay.client() as client:
        told = json.loads(client.ask(request(b"/v1/models", *lines)).body)
    return [one["id"] for one in told["data"]]


def test_what_upstreams_list_is_merged_with_what_is_configured(running: tuple[Relay, Backs]) -> None:
    relay, backs = running
    until(lambda: sorted(names(relay)) == sorted(LISTED))
    assert names(relay) == LISTED
    assert sorted(names(relay, b"anthropic-version: 2023-06-01")) == sorted(LISTED)
    for name, upstream in backs.upstreams.items():
        assert [message.target for message in upstream.heads] == [LISTS[name][1]]
        assert upstream.heads[0].get("authorization") == b"Bearer sesame"


def test_a_listed_model_is_found_by_its_name_with_its_slash(running: tuple[Relay, Backs]) -> None:
    relay, _ = running
    until(lambda: "google/gemini-1" in names(relay))
    for target in (b"/v1/models/google/gemini-1", b"/v1/models/google%2Fgemini-1"):
        with relay.client() as client:
            told = json.loads(client.ask(request(target)).body)
        assert (told["id"], told["owned_by"]) == ("google/gemini-1", "gemini")
    with relay.client() as client:
        assert client.ask(request(b"/v1/models/google/unheard-of")).status == 404


def test_status_tells_how_many_there_are_and_a_list_survives_failures_and_reloads(running: tuple[Relay, Backs]) -> None:
    relay, backs = running
    until(lambda: sorted(names(relay)) == sorted(LISTED))
    backs.broken.add("ollama")
    for upstream in backs.upstreams.values():
        upstream.fresh()
    for name, upstream in backs.upstreams.items():
        upstream.script = backs.script(name)
    changed = {name: {"timeouts": {"first_byte": "99s"}} for name in LISTS}
    relay.write({"upstreams": changed})
    generation = relay.status()["generation"]
    relay.hup()
    until(lambda: bool(relay.status()["generation"] > generation))
    assert sorted(names(relay)) == sorted(LISTED)  # known from before

    def shown() -> dict[str, Any]:
        return {one["name"]: one["models"] for one in relay.status()["upstreams"]}

    until(lambda: shown()["ollama"]["fault"] == "status 500")
    until(lambda: all(upstream.heads for upstream in backs.upstreams.values()))
    told = shown()
    assert told["ollama"]["count"] == 1 and told["openai_chat"]["count"] == 2 and told["openai_chat"]["fault"] == ""
    assert sorted(names(relay)) == sorted(LISTED)
    endpoints = {one["name"]: one["endpoints"][0] for one in relay.status()["upstreams"]}
    assert endpoints["ollama"]["available"] and endpoints["ollama"]["breaker"] == "closed"


# ---- lists that pass, for a consumer that may not use all models

PASSED: dict[str, tuple[bytes, Any, Any]] = {
    "openai_chat": (
        b"/v1/models", {"object": "list", "data": [{"id": "gpt-1", "price": 1.50}, {"id": "hidden"}, {"object": "model"}]},
        {"object": "list", "data": [{"id": "gpt-1", "price": 1.50}]},
    ),
    "anthropic_messages": (
        b"/v1/models?limit=9", {"data": [{"id": "hidden"}, {"id": "gpt-2"}], "has_more": False, "first_id": "hidden", "last_id": "gpt-2"},
        {"data": [{"id": "gpt-2"}], "has_more": False, "first_id": "gpt-2", "last_id": "gpt-2"},
    ),
    "gemini": (
        b"/v1beta/models", {"models": [{"name": "models/hidden"}, {"name": "models/gpt-3"}], "nextPageToken": "x"},
        {"models": [{"name": "models/gpt-3"}], "nextPageToken": "x"},
    ),
    "ollama": (b"/api/tags", {"models": [{"name": "gpt-4:7b", "model": "gpt-4:7b"}, {"name": "hidden"}]}, {"models": [{"name": "gpt-4:7b", "model": "gpt-4:7b"}]}),
}
JSON = b"Content-Type: application/json"


@pytest.fixture(scope="module")
def passing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, Upstream]]:
    folder = tmp_path_factory.mktemp("passing")
    for name in ("all", "some"):
        (folder / name).write_text(f"key-of-{name}")
        (folder / name).chmod(0o600)
    with Upstream() as upstream:
        config = {
            "upstreams": {name: {"protocol": name, "endpoints": [upstream.url + LISTS[name][0]]} for name in PASSED},
            "consumers": {"all": {"key": {"file": str(folder / "all")}}, "some": {"key": {"file": str(folder / "some")}, "models": ["gpt-*"]}},
            "routes": [
                {"name": name, "match": {"prefix": "/", "header": {"x-kind": name}}, "protocol": name, "upstream": name, "allow": ["all", "some"]}
                for name in PASSED
            ],
        }
        with Relay(folder / "r", upstream.url, config) as relay:
            yield relay, upstream


def listed(passing: tuple[Relay, Upstream], kind: str, target: bytes, body: bytes, *lines: bytes, who: bytes = b"some") -> Message:
    relay, upstream = passing
    upstream.script = saying(answer(body, *(lines or (JSON,))))
    with relay.client() as client:
        return client.ask(request(target, b"x-kind: " + kind.encode(), b"Authorization: Bearer key-of-" + who, b"Accept-Encoding: gzip"))


@pytest.mark.parametrize("kind", PASSED)
def test_a_list_that_passes_names_only_the_models_of_the_consumer(kind: str, passing: tuple[Relay, Upstream]) -> None:
    target, told, expected = PASSED[kind]
    body = json.dumps(told).encode()
    found = listed(passing, kind, target, body, JSON, b'ETag: "whole"')
    assert json.loads(found.body) == expected and b"hidden" not in found.body
    assert found.get("etag") is None and found.get("content-length") == str(len(found.body)).encode()
    assert passing[1].heads[-1].get("accept-encoding") == b"identity"
    everything = listed(passing, kind, target, body, who=b"all")
    assert everything.body == body


def test_a_long_list_is_filtered_too_and_a_hidden_model_is_not_described(passing: tuple[Relay, Upstream]) -> None:
    whole = [{"id": f"{'gpt' if number % 2 else 'hidden'}-{number}", "description": "x" * 200} for number in range(3000)]
    found = listed(passing, "openai_chat", b"/v1/models", json.dumps({"data": whole}).encode())
    assert json.loads(found.body) == {"data": whole[1::2]}
    assert listed(passing, "openai_chat", b"/v1/models/hidden", b"{}").status == 403
    assert listed(passing, "openai_chat", b"/v1/models/gpt-1", b"{}").status == 200


@pytest.mark.parametrize(("body", "lines"), [
    (b"[{]", (JSON,)), (b'{"hidden": 1}', (JSON,)), (b"hidden", (b"Content-Type: text/plain",)),
    (b'{"data": [{"id": "hidden"}]}', (JSON, b"Content-Encoding: x-own")), (b'{"data": ["' + b"x" * (5 << 20) + b'"]}', (JSON,)),
], ids=["no JSON", "no list", "a text", "compressed", "too large"])  # fmt: skip
def test_a_list_that_cannot_be_read_is_an_error(body: bytes, lines: tuple[bytes, ...], passing: tuple[Relay, Upstream]) -> None:
    found = listed(passing, "openai_chat", b"/v1/models", body, *lines)
    assert found.status == 502 and b"hidden" not in found.body
    assert json.loads(found.body)["error"]["code"] == "upstream_unreadable"
