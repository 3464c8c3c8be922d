"""Programs that people use: curl, the openai SDK, and the embedded demo that needs no key and no other server."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tests.functional.harness.message import Message, answer, chunk
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream

CONFIG = {"routes": [
    {"name": "demo", "match": {"prefix": "/v1/"}, "upstream": "demo"}, {"name": "all", "match": {"prefix": "/"}, "upstream": "up"},
]}
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
BODY = json.dumps({"model": "demo", "stream": True, "messages": [{"role": "user", "content": "Hello there"}]})


def curl(*options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["curl", "-sS", "--max-time", "10", *options], capture_output=True, check=False)


@needs_curl
def test_curl_shows_the_models_of_the_demo(relay: Relay, upstream: Upstream) -> None:
    done = curl(f"http://127.0.0.1:{relay.port}/v1/models")
    assert done.returncode == 0 and json.loads(done.stdout)["data"]


@needs_curl
def test_curl_shows_words_arriving_one_by_one(relay: Relay, upstream: Upstream) -> None:
    url = f"http://127.0.0.1:{relay.port}/v1/chat/completions"
    process = subprocess.Popen(["curl", "-sSN", "--max-time", "20", url, "-d", BODY], stdout=subprocess.PIPE)
    assert process.stdout is not None
    events = [line for line in process.stdout if line.startswith(b"data: ")]
    process.stdout.close()
    assert process.wait() == 0
    assert events[-1].strip() == b"data: [DONE]" and len(events) > 3
    words = [json.loads(event[6:])["choices"][0]["delta"].get("content", "") for event in events[:-1]]
    assert "".join(words).strip()


@needs_curl
def test_curl_uploads_a_large_file_with_100_continue(relay: Relay, upstream: Upstream, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40960
    (tmp_path / "file").write_bytes(data)
    upstream.script = lambda peer, message: peer.send(answer(b"%d" % len(peer.whole(message).body)))
    done = curl("-H", "Expect: 100-continue", "--data-binary", f"@{tmp_path}/file", f"http://127.0.0.1:{relay.port}/up")
    assert done.stdout == b"%d" % len(data)
    done = curl("-H", "Transfer-Encoding: chunked", "-T", f"{tmp_path}/file", f"http://127.0.0.1:{relay.port}/up")
    assert done.stdout == b"%d" % len(data)


@needs_curl
def test_curl_sees_that_a_stream_was_cut(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"data: 1\n\n"))
        peer.reset()

    upstream.script = script
    done = curl(f"http://127.0.0.1:{relay.port}/cut")
    # A cut that is seen before the first byte went to the client becomes an honest 502, a later one a broken end.
    assert done.returncode in (18, 52, 56) or b'"status": 502' in done.stdout
    done = curl("-f", f"http://127.0.0.1:{relay.port}/cut")
    assert done.returncode != 0


@needs_curl
def test_curl_speaks_http_1_0(relay: Relay, upstream: Upstream) -> None:
    assert curl("--http1.0", f"http://127.0.0.1:{relay.port}/x").stdout == b"hello"


@pytest.fixture(scope="module")
def sdk(relay: Relay):  # type: ignore[no-untyped-def]
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{relay.port}/v1", api_key="sdk-key", max_retries=0, timeout=60) as client:
        yield client


MESSAGES = [{"role": "user", "content": "Hello there"}]


@pytest.mark.client
def test_the_openai_sdk_gets_an_answer(sdk, relay: Relay, upstream: Upstream) -> None:  # type: ignore[no-untyped-def]
    assert [model.id for model in sdk.models.list()]
    answered = sdk.chat.completions.create(model="demo", messages=MESSAGES)
    assert answered.choices[0].message.content


@pytest.mark.client
def test_the_openai_sdk_streams(sdk, relay: Relay, upstream: Upstream) -> None:  # type: ignore[no-untyped-def]
    with sdk.chat.completions.create(model="demo", messages=MESSAGES, stream=True) as stream:
        words = [event.choices[0].delta.content or "" for event in stream if event.choices]
    assert len(words) > 2 and "".join(words).strip()


@pytest.mark.client
def test_the_openai_sdk_cancels_a_stream(sdk, relay: Relay, upstream: Upstream) -> None:  # type: ignore[no-untyped-def]
    openai = pytest.importorskip("openai")
    started = threading.Event()

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        event = json.dumps({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]})
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"data: " + event.encode() + b"\n\n"))
        started.set()
        peer.wait_gone()

    upstream.script = script
    with openai.OpenAI(base_url=f"http://127.0.0.1:{relay.port}/scripted", api_key="sdk-key", max_retries=0, timeout=60) as client:
        stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        assert next(iter(stream)).choices[0].delta.content == "hi"
        stream.close()
    upstream.left.get(timeout=60)


@pytest.mark.client
def test_the_openai_sdk_reads_relayds_errors(relay: Relay, upstream: Upstream, tmp_path: Path) -> None:
    openai = pytest.importorskip("openai")
    change = {"upstreams": {"up": {"protocol": "openai_chat"}}, "routes": [{"name": "ai", "upstream": "up", "protocol": "openai_chat"}]}
    with Relay(tmp_path / "r", "http://127.0.0.1:1/v1", change) as broken:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{broken.port}/v1", api_key="sdk-key", max_retries=0, timeout=60) as client:
            with pytest.raises(openai.APIStatusError) as caught:
                client.chat.completions.create(model="m", messages=MESSAGES)
    assert caught.value.status_code == 502 and caught.value.code == "connect_failed"
