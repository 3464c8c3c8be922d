"""`relayd explain` on the command line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from relayd.cli.commands import explain
from relayd.cli.main import main

TEXT = """
listeners:
  public: {address: "127.0.0.1:8282"}
upstreams:
  web: {endpoints: ["http://127.0.0.1:9001"], auth: {bearer: {env: EXPLAINED_KEY}}}
routes:
  - {name: web, match: {prefix: /web/}, upstream: web}
  - {name: demo, match: {prefix: /v1/}, upstream: demo}
"""


def explained(folder: Path, *arguments: str, text: str = TEXT) -> int:
    file = folder / "relayd.yaml"
    file.write_text(text, encoding="utf-8")
    parser = argparse.ArgumentParser()
    explain.configure(parser)
    return explain.run(parser.parse_args(["-c", str(file), *arguments]))


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPLAINED_KEY", "sk-explained")


def test_a_request_that_a_route_takes_is_explained_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(tmp_path, "GET", "http://127.0.0.1:8282/web/x", "-H", "X-A: 1", "-d", "{}") == 0
    result = capsys.readouterr().out
    assert "> web " in result and "target    /web/x" in result and "from env EXPLAINED_KEY" in result
    assert "2 bytes" in result and "sk-explained" not in result


def test_json_holds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(tmp_path, "--json", "POST", "/v1/models") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["route"] == "demo" and result["sent"]["target"] == "/v1/models"


CACHED = """
upstreams: {up: {protocol: openai_chat, endpoints: ["http://127.0.0.1:9001/v1"]}}
routes: [{name: kept, match: {prefix: /v1/}, upstream: up, cache: {}}, {name: rest, upstream: up}]
"""


@pytest.mark.parametrize(("path", "body", "text", "cache"), [
    ("/v1/chat/completions", '{"model": "m", "temperature": 0, "messages": []}', "is looked up: key ", {"used": True, "reason": None}),
    ("/v1/chat/completions", '{"model": "m", "messages": []}', "is not looked up: not_deterministic", {"used": False, "reason": "not_deterministic"}),
    ("/v1/embeddings", '{"model": "m", "input": "x"}', "is not looked up: other_request", {"used": False, "reason": "other_request"}),
    ("/chat/completions", '{"model": "m", "temperature": 0, "messages": []}', "", None),
])  # fmt: skip
def test_the_use_of_a_cache_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, body: str, text: str, cache: dict[str, object] | None
) -> None:
    top = TEXT.partition("upstreams:")[0]
    assert explained(tmp_path, "POST", path, "-d", body, "-H", "Content-Type: application/json", text=top + CACHED) == 0
    shown = capsys.readouterr().out
    assert text in shown if text else "cache " not in shown
    assert explained(tmp_path, "--json", "POST", path, "-d", body, text=top + CACHED) == 0
    found = json.loads(capsys.readouterr().out)["cache"]
    assert found == cache if cache is None else {key: found[key] for key in cache} == cache


def test_no_route_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(tmp_path, "GET", "http://127.0.0.1:8282") == 1
    assert "404 no_route" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("GET", "/a b"), ("G T", "/"), ("GET", "/", "-H", "Host: a b"), ("CONNECT", "/")])
def test_a_malformed_request_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert explained(tmp_path, *arguments) == 1
    assert "refused before any route" in capsys.readouterr().out
    assert explained(tmp_path, "--json", *arguments) == 1
    assert json.loads(capsys.readouterr().out)["answer"]["status"] in (400, 405)


@pytest.mark.parametrize("arguments", [
    ("GET", "web"), ("GET", "ftp://a/"), ("GET", "/", "-H", "no colon"), ("GET", "/", "-H", "A: b\r\nC: d"), ("GET", "/#x"),
])
def test_wrong_usage_is_two(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert explained(tmp_path, *arguments) == 2
    assert capsys.readouterr().err.startswith("relayd explain:")


@pytest.mark.parametrize("text", ["routes: [", TEXT.replace("prefix: /web/}", "prefix: /web/}, strip_prefix: /x")])
def test_a_refused_configuration_is_78(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert explained(tmp_path, "GET", "/", text=text) == 78
    assert capsys.readouterr().err


def test_nothing_of_the_request_reaches_the_terminal_raw() -> None:
    assert explain.escape_line("a\x1b[31m\"b'\x9b") == "a\\x1b[31m\"b'\\x9b"


KEYED = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams: {chat: {protocol: openai_chat, endpoints: ["http://127.0.0.1:1/v1"]}}
models: {"gpt-*": chat}
groups: {paying: {models: ["gpt-*"]}}
routes:
  - {name: llm, match: {prefix: /v1/}, upstream: chat, allow: [paying]}
  - {name: by_model, match: {prefix: /m/}, protocol: openai_chat, upstream: by_model, strip_prefix: /m, allow: [paying]}
"""


@pytest.mark.parametrize("prefix", ["", "/m"])
def test_a_key_of_the_key_store_is_explained_with_what_it_may_use(tmp_path: Path, capsys: pytest.CaptureFixture[str], prefix: str) -> None:
    (tmp_path / "relayd.yaml").write_text(KEYED)
    assert main(["keys", "create", "bob", "--group", "paying", "--state", str(tmp_path), "-c", str(tmp_path / "relayd.yaml")]) == 0
    key = capsys.readouterr().out.strip()
    for model, shown in (("o1", "403 model_not_allowed"), ("gpt-5", "target ")):
        asked = ("POST", f"{prefix}/v1/chat/completions", "-H", f"Authorization: Bearer {key}", "-H", "Content-Type: application/json")
        assert explained(tmp_path, "--state", str(tmp_path), *asked, "-d", f'{{"model":"{model}","messages":[]}}', text=KEYED) == 0
        result = capsys.readouterr().out
        assert "the key of bob of the group paying" in result and "bob may use gpt-* only" in result
        assert shown in result and key not in result
