"""Keys that `relayd keys` issues: in force at once on every instance, restricted as stated, and nowhere written down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.message import Message, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Upstream

CHAT = "/v1/chat/completions"


def config(url: str) -> dict[str, Any]:
    return {
        "upstreams": {"chat": {"protocol": "openai_chat", "endpoints": [url + "/v1"]}, "up": {"endpoints": [url]}},
        "groups": {"paying": {"models": ["gpt-*"], "limits": {"requests": 1}}},
        "routes": [
            {"name": "llm", "match": {"prefix": "/v1/"}, "upstream": "chat", "allow": ["paying"]},
            {"name": "named", "match": {"prefix": "/named"}, "upstream": "up", "allow": ["paying"]},
            {"name": "open", "match": {"prefix": "/"}, "upstream": "up"},
        ],
    }


class Host:
    """Two instances of one host, with one key store."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.relays = [
            Relay(folder / name, url, config(url), environment={"STATE_DIRECTORY": f"{folder}/{name}:{folder}/keys"}) for name in ("one", "two")
        ]
        self.secrets: list[str] = []

    def keys(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "relayd", "keys", *words, "--state", str(self.folder), "-c", str(self.relays[0].file)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)

    def create(self, *words: str) -> str:
        done = self.keys("create", *words)
        assert done.returncode == 0, done.stderr
        self.secrets.append(done.stdout.strip())
        return done.stdout.strip()

    def rotate(self, *words: str) -> str:
        self.secrets.append(self.keys("rotate", *words).stdout.strip())
        return self.secrets[-1]

    def statuses(self, path: str, key: str) -> list[int]:
        return [ask(relay, path, key).status for relay in self.relays]


def ask(relay: Relay, path: str, key: str, body: Any = None) -> Message:
    with Client(relay.address) as client:
        data = b"" if body is None else json.dumps(body).encode()
        kind = [] if body is None else [b"Content-Type: application/json"]
        method = b"GET" if body is None else b"POST"
        client.send(request(path.encode(), b"Authorization: Bearer " + key.encode(), *kind, method=method, body=data))
        return client.answer()


@pytest.fixture(scope="module")
def host(module_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("host"), module_upstream.url)
    with made.relays[0], made.relays[1]:
        yield made


def test_a_key_is_in_force_at_once_and_revoked_at_once_on_every_instance(host: Host, upstream: Upstream) -> None:
    assert host.statuses("/named", "rl_nobody") == [401, 401]
    key = host.create("first", "--group", "paying")
    assert host.statuses("/named", key) == [200, 200]
    assert host.relays[0].record(consumer="first")["status"] == 200
    assert host.keys("revoke", "first").returncode == 0
    assert host.statuses("/named", key) == [401, 401]


def test_a_key_has_the_routes_and_models_that_were_stated(host: Host, upstream: Upstream) -> None:
    grouped, routed = host.create("grouped", "--group", "paying"), host.create("routed", "--routes", "named", "--models", "o*")
    assert host.statuses("/named", routed) == [200, 200]
    assert host.statuses("/v1/models", routed) == [403, 403]
    refused = ask(host.relays[0], CHAT, grouped, {"model": "o1", "messages": []})
    assert refused.status == 403 and json.loads(refused.body)["error"]["code"] == "model_not_allowed"
    assert ask(host.relays[0], CHAT, grouped, {"model": "gpt-5", "messages": []}).status == 200


def test_a_key_has_the_rates_that_were_stated_and_a_reload_or_rotation_gives_it_no_more(host: Host, upstream: Upstream) -> None:
    relay, key = host.relays[0], host.create("rated", "--group", "paying", "--rates", "{requests: 2, per: 1h}")
    assert [ask(relay, "/named", key).status for _ in range(3)] == [200, 200, 429]
    assert ask(relay, "/named", key).get("retry-after")
    before = relay.status()["generation"]
    relay.write({"groups": {"idle": {}}})
    relay.hup()
    while relay.status()["generation"] == before:
        pass
    (shown,) = (one for one in json.loads(relay.admin("/limits")[1])["limits"] if one["scope"] == "consumer rated")
    assert (shown["limit"], shown["used"], shown["left"]) == (2, 2, 0)
    assert ask(relay, "/named", host.rotate("rated")).status == 429
    refused = host.keys("create", "unclear", "--rates", "{requests: 2, tokens: 9, per: 1m}")
    assert refused.returncode == 1 and "rates[0]: needs exactly one of requests and tokens" in refused.stderr


def test_an_imported_key_has_the_rates_and_the_budget_of_its_table(host: Host, upstream: Upstream) -> None:
    row = {"key": "sk-imported-with-rates", "key_alias": "rated-import", "team_id": "paying", "rpm_limit": 1, "max_budget": 5.5, "budget_duration": "30d"}
    (host.folder / "rows.json").write_text(json.dumps([row]))
    assert host.keys("import", str(host.folder / "rows.json")).stdout == "1 keys imported, 0 not\n"
    assert [ask(host.relays[0], "/named", row["key"]).status for _ in range(2)] == [200, 429]  # type: ignore[arg-type]
    limits = json.loads(host.relays[0].admin("/limits")[1])["limits"]
    assert [one["limit"] for one in limits if one["scope"] == "consumer rated-import"] == [1, "5.5"]


def test_a_key_never_reaches_an_upstream(host: Host, upstream: Upstream) -> None:
    key = host.create("stays", "--group", "paying")
    assert ask(host.relays[0], "/open", key).status == 200
    assert key.encode() not in upstream.heads[-1].start + b"".join(value for _, value in upstream.heads[-1].fields)


def test_a_rotated_key_goes_on_for_its_overlap(host: Host, upstream: Upstream) -> None:
    old = host.create("turned", "--group", "paying")
    new = host.rotate("turned", "--overlap", "1h")
    assert host.statuses("/named", old) == host.statuses("/named", new) == [200, 200]
    newest = host.rotate("turned", "--overlap", "0")
    assert host.statuses("/named", new) == [401, 401] and host.statuses("/named", newest) == [200, 200]


def test_a_reload_keeps_the_keys_and_a_group_that_goes_takes_its_keys_along(host: Host, upstream: Upstream) -> None:
    relay, key = host.relays[1], host.create("member", "--group", "paying")
    relay.write({"groups": {"paying": None, "other": {}}, "routes": [{"name": "named", "match": {"prefix": "/"}, "upstream": "up", "allow": ["other"]}]})
    before = relay.status()["generation"]
    relay.hup()
    while relay.status()["generation"] == before:
        pass
    assert ask(relay, "/named", key).status == 401
    (shown,) = (one for one in json.loads(relay.admin("/keys")[1])["keys"] if one["name"] == "member")
    assert shown["state"] == "there is no group paying"
    relay.write(config(relay.config["upstreams"]["up"]["endpoints"][0]) | {"groups": {"other": None, "paying": {"models": ["gpt-*"]}}})
    before = relay.status()["generation"]
    relay.hup()
    while relay.status()["generation"] == before:
        pass
    assert ask(relay, "/named", key).status == 200


def test_an_import_of_ten_thousand_keys_is_known_to_the_next_request(host: Host, upstream: Upstream) -> None:
    last = host.create("before", "--group", "paying")
    rows = [{"name": f"import-{number}", "key": f"sk-imported-{number:05}", "group": "paying"} for number in range(10_000)]
    (host.folder / "rows.json").write_text(json.dumps(rows))
    assert host.keys("import", str(host.folder / "rows.json")).stdout == "10000 keys imported, 0 not\n"
    assert host.statuses("/named", "sk-imported-09999") == [200, 200]
    assert host.statuses("/named", last) == [200, 200]
    assert host.keys("revoke", "import-5000").returncode == 0
    assert host.statuses("/named", "sk-imported-05000") == [401, 401]


def test_the_last_use_survives_the_end_of_the_process(host: Host, upstream: Upstream) -> None:
    key = host.create("used", "--group", "paying")
    assert ask(host.relays[0], "/named", key).status == 200
    assert host.relays[0].stop() == 0
    assert json.loads(host.keys("show", "used", "--json").stdout)["last_used"] > 0
    host.relays[0].start()
    assert ask(host.relays[0], "/named", key).status == 200


def test_no_key_is_written_down_anywhere(host: Host, upstream: Upstream) -> None:
    shown = b"".join(relay.admin(page)[1] for relay in host.relays for page in ("/keys", "/status", "/metrics", "/streams"))
    shown += host.keys("list", "--json").stdout.encode() + host.keys("list").stdout.encode()
    written = b"".join(path.read_bytes() for path in host.folder.rglob("*") if path.is_file() and path.name != "rows.json")
    for secret in host.secrets:
        assert secret.encode() not in shown + written and secret[8:].encode() not in shown + written
