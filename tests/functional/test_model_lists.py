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
from tests.functional.harness.upstream import Peer, Upstream

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
