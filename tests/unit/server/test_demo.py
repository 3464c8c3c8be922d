"""The demo upstream, with the requests of any client of its API."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any

from relayd import clock
from relayd.server.demo import DemoServer, last_user_text

Events = list[tuple[float, str]]


def send_request(path: str, method: str, target: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60)
    connection.sock.connect(path)
    try:
        connection.request(method, target, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def streamed(path: str, body: dict[str, Any], count: int) -> Events:
    """The first events of a stream and the time of each; then the connection is closed."""
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60)
    connection.sock.connect(path)
    began, found = clock.monotonic(), Events()
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        response = connection.getresponse()
        assert response.getheader("Content-Type", "").startswith("text/event-stream")
        while len(found) < count:
            line = response.readline()
            if not line:
                break
            if line.startswith(b"data: "):
                found.append((clock.monotonic() - began, line[6:].decode().strip()))
        return found
    finally:
        connection.close()


async def test_it_lists_its_model(tmp_path: Path) -> None:
    demo = DemoServer(str(tmp_path / "demo.sock"))
    status, body = await asyncio.to_thread(send_request, demo.path, "GET", "/v1/models")
    assert status == 200
    assert [one["id"] for one in json.loads(body)["data"]] == ["demo"]
    demo.close()


async def test_it_quotes_the_user_message_and_explains_the_next_steps(tmp_path: Path) -> None:
    demo = DemoServer(str(tmp_path / "demo.sock"))
    question = {"model": "demo", "messages": [{"role": "user", "content": "is it on?"}]}
    status, body = await asyncio.to_thread(send_request, demo.path, "POST", "/v1/chat/completions", json.dumps(question).encode())
    completion = json.loads(body)
    assert (status, completion["object"], completion["model"]) == (200, "chat.completion", "demo")
    (choice,) = completion["choices"]
    assert choice["finish_reason"] == "stop"
    assert "is it on?" in choice["message"]["content"]
    assert "relayd.yaml" in choice["message"]["content"]
    assert completion["usage"]["total_tokens"] == completion["usage"]["prompt_tokens"] + completion["usage"]["completion_tokens"]
    demo.close()


async def test_words_come_one_by_one_and_the_first_at_once(tmp_path: Path) -> None:
    demo = DemoServer(str(tmp_path / "demo.sock"))
    question = {"stream": True, "messages": [{"role": "user", "content": "hi"}]}
    events = await asyncio.to_thread(streamed, demo.path, question, 6)
    deltas = [json.loads(data)["choices"][0]["delta"] for _, data in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta["content"] for delta in deltas[1:]) == 'Hello! You said: "hi". I'
    pauses_s = events[5][0] - events[1][0]
    assert pauses_s > 0.1  # four of 50 ms
    assert events[1][0] - events[0][0] < pauses_s
    demo.close()


async def test_a_whole_stream_ends_with_reason_usage_and_done(tmp_path: Path) -> None:
    demo = DemoServer(str(tmp_path / "demo.sock"))
    question = {"stream": True, "stream_options": {"include_usage": True}, "messages": []}
    events = await asyncio.to_thread(streamed, demo.path, question, 1000)
    last, usage, reason = events[-1][1], json.loads(events[-2][1]), json.loads(events[-3][1])
    assert last == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] > 10
    assert reason["choices"][0]["finish_reason"] == "stop"
    demo.close()


async def test_faults_have_the_shape_of_the_api(tmp_path: Path) -> None:
    demo = DemoServer(str(tmp_path / "demo.sock"))
    for method, target, body, status in (
        ("POST", "/v1/chat/completions", b"no json", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/v1/chat/completions", b'{"messages": "x"}', 400),
        ("GET", "/v1/chat/completions", None, 405),
        ("GET", "/v1/else", None, 404),
    ):
        found, answer = await asyncio.to_thread(send_request, demo.path, method, target, body)
        assert found == status
        assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}
    demo.close()


async def test_its_socket_is_private_and_its_spec_has_its_path(tmp_path: Path) -> None:
    demo = DemoServer(str(tmp_path / "demo.sock"))
    assert os.stat(demo.path).st_mode & 0o777 == 0o600
    (endpoint,) = demo.spec.endpoints
    assert (endpoint.unix, endpoint.origin, demo.spec.protocol) == (demo.path, "http://localhost", "openai_chat")
    demo.close()
    assert not os.path.exists(demo.path)


def test_the_last_message_of_the_user_is_found_whatever_surrounds_it() -> None:
    parts = [{"type": "text", "text": "look"}, {"type": "image_url"}, "odd", {"text": 5}]
    assert last_user_text([{"role": "user", "content": "a"}, {"role": "user", "content": parts}, {"role": "assistant"}]) == "look"
    assert last_user_text([None, 7, {"role": "user", "content": None}]) == ""
    assert len(last_user_text([{"role": "user", "content": "x" * 9999}])) < 500
