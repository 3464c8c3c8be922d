"""`relayd probe` against real endpoints: what is shown, the exit code, and that no key is ever shown."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from relayd.cli.main import main
from relayd.cli.upstream_inspection import inspect_upstreams, specs_of
from relayd.config.load import load
from tests.aids.certificates import made
from tests.aids.ports import free_port
from tests.functional.harness.message import Message, answer
from tests.functional.harness.upstream import Peer, Upstream, saying

SECRETS = ("sk-first-secret", "sk-second-secret")


def written(folder: Path, **upstreams: Any) -> str:
    file = folder / "relayd.yaml"
    config = {
        "listeners": {"public": {"address": f"127.0.0.1:{free_port()}"}}, "upstreams": upstreams,
        "routes": [{"name": "all", "upstream": next(iter(upstreams))}],
    }
    file.write_text(json.dumps(config))
    return str(file)


def models(*names: str) -> bytes:
    return answer(json.dumps({"data": [{"id": name} for name in names]}).encode())


def keys(folder: Path) -> list[dict[str, str]]:
    found = []
    for number, secret in enumerate(SECRETS):
        path = folder / f"key{number}"
        path.write_text(secret)
        path.chmod(0o600)
        found.append({"file": str(path)})
    return found


def test_an_endpoint_step_by_step_and_every_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        valid = message.get("authorization") == b"Bearer " + SECRETS[0].encode()
        names = (f"echo-{SECRETS[0]}", *(f"model-{number}" for number in range(9)))
        peer.send(models(*names) if valid else answer(b"{}", status=b"401 Unauthorized"))

    with Upstream() as upstream:
        upstream.script = script
        up = {"endpoints": [upstream.url + "/v1"], "protocol": "openai_chat", "auth": {"bearer": keys(tmp_path)},
              "timeouts": {"idle": "30s"}}  # fmt: skip
        file = written(tmp_path, up=up)
        assert main(["probe", "-c", file, "up"]) == 1
        text = capsys.readouterr().out
        for shown in ("upstream up, openai_chat", "connect 5s, first byte 5m, idle 30s, total off", "addresses   127.0.0.1 in",
                      "connection  127.0.0.1 in", "GET /v1/models", "response    200", "models      10", "model-6, ...",
                      f"refuses the key of file {tmp_path}/key1: status 401", "cure        replace the key"):  # fmt: skip
            assert shown in text, (shown, text)
        assert "\033" not in text
        assert main(["probe", "-c", file, "--json"]) == 1
        told = capsys.readouterr().out
        (data,) = json.loads(told)["upstreams"]
        first, second = data["endpoints"]
        assert len(first["models"]) == 10 and first["status"] == 200 and first["findings"][0]["level"] == "fine"
        assert second["status"] == 401 and second["models"] is None and second["tls"] is None
        assert data["timeouts"]["idle_s"] == 30
        assert not any(secret in text + told for secret in SECRETS)


def test_tls_and_a_failure_of_one_of_two_upstreams(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = made(tmp_path, "own", "127.0.0.1")
    with Upstream(tls=pair.serving()) as secure:
        file = written(
            tmp_path, trusted={"endpoints": [secure.url], "tls": {"ca": pair.cert}},
            careless={"endpoints": [secure.url], "tls": {"verify": False}}, strict={"endpoints": [secure.url]},
        )
        assert main(["probe", "-c", file, "trusted", "careless"]) == 0
        text = capsys.readouterr().out
        assert "TLS         TLS 1.3 in" in text and "certificate own, issued by own, until 20" in text
        assert text.count("NOT VERIFIED") == 1
        assert main(["probe", "-c", file, "--json", "strict"]) == 1
        (one,) = json.loads(capsys.readouterr().out)["upstreams"][0]["endpoints"]
        assert one["code"] == "tls_failed" and "self-signed" in one["findings"][0]["cause"]
        assert one["tls"]["certificates"][0]["names"] == ["127.0.0.1"]
        assert one["tls"]["certificates"][0]["days_left"] in (29, 30)


def test_wrong_usage_and_a_faulty_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, up={"endpoints": ["http://127.0.0.1:1"]})
    assert main(["probe", "-c", file, "down"]) == 2
    assert "there is no upstream down; the upstreams are: up" in capsys.readouterr().err
    Path(file).write_text("listeners: 1")
    assert main(["probe", "-c", file]) == 78


def test_many_endpoints_are_inspected_at_once_but_not_all(tmp_path: Path) -> None:
    with Upstream() as upstream:
        upstream.script = saying(answer())
        urls = [f"{upstream.url}/{number}" for number in range(40)]
        config = load(written(tmp_path, up={"endpoints": urls})).config
        found = asyncio.run(inspect_upstreams(specs_of(config), 60.0))
        assert [one.found.target for one in found] == [f"/{number}" for number in range(40)]
        assert all(one.found.status == 200 for one in found)
