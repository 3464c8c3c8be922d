"""What translation costs in CPU: per chunk of a stream and per request, through the process and in the dialects alone.

    python tests/bench/translate.py [--python /usr/bin/python3]

Through the process: streams that pass and streams that are translated run in turns through one relayd, so that the
difference is the translation. Alone: the dialects' halves in this process, by pair.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from rig import PROXY_CORE, Rig, Running, cpu_ns, free_port, start

from relayd.protocols import anthropic_messages, gemini, ollama, openai_chat, openai_responses
from relayd.protocols.dialect import Ask, Dialect, Options
from relayd.stores.memory import Store

DIALECTS: dict[str, Dialect] = {
    module.DIALECT.name: module.DIALECT for module in (openai_chat, openai_responses, anthropic_messages, gemini, ollama)
}
CONFIG = """
listeners:
  public: {{address: "127.0.0.1:{port}", limits: {{connections_per_peer: 0, requests: 0}}}}
admin: {{address: "unix:{folder}/admin.sock"}}
upstreams:
  bench: {{protocol: openai_chat, endpoints: ["http://127.0.0.1:{upstream}/v1"]}}
routes:
  - {{name: plain, match: {{prefix: /plain/}}, upstream: bench, protocol: plain, strip_prefix: /plain}}
  - {{name: responses, match: {{path: /v1/responses}}, protocol: openai_responses, upstream: bench}}
  - {{name: messages, match: {{path: /v1/messages}}, protocol: anthropic_messages, upstream: bench}}
  - {{name: chat, match: {{prefix: /v1/}}, upstream: bench}}
telemetry: {{access_log: {{format: json, file: "{folder}/access.log"}}}}
"""
WORDS = "Please read the file and tell me what you find there, in a few sentences. "
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["path"],
    "properties": {f"argument_{number}": {"type": "string", "description": WORDS} for number in range(6)} | {"path": {"type": "string"}},
}  # fmt: skip


def body_of(front: str, tools: int, text: str) -> bytes:
    names = [f"tool_{number}" for number in range(tools)]
    body: dict[str, Any] = {"model": "m", "stream": True}
    if front == "openai_responses":
        body |= {"instructions": WORDS * 10, "input": [{"role": "user", "content": text}], "store": False}
        body["tools"] = [{"type": "function", "name": name, "description": WORDS * 3, "parameters": SCHEMA, "strict": False} for name in names]
    elif front == "anthropic_messages":
        body |= {"max_tokens": 1000, "system": [{"type": "text", "text": WORDS * 10}], "messages": [{"role": "user", "content": text}]}
        body["tools"] = [{"name": name, "description": WORDS * 3, "input_schema": SCHEMA} for name in names]
    else:
        body |= {"messages": [{"role": "system", "content": WORDS * 10}, {"role": "user", "content": text}], "stream_options": {"include_usage": True}}
        body["tools"] = [{"type": "function", "function": {"name": name, "description": WORDS * 3, "parameters": SCHEMA}} for name in names]
    return json.dumps(body if tools else {key: value for key, value in body.items() if key != "tools"}).encode()


def chunk_of(back: str) -> bytes:
    """One word of a stream, of the size in which back-ends send them."""
    text = " sentence"
    if back == "anthropic_messages":
        value: Any = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        return b"event: content_block_delta\ndata: " + json.dumps(value).encode() + b"\n\n"
    if back == "gemini":
        value = {"candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}], "modelVersion": "m",
                 "usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120}}  # fmt: skip
        return b"data: " + json.dumps(value).encode() + b"\r\n\r\n"
    if back == "ollama":
        value = {"model": "m", "created_at": "2026-01-01T00:00:00.1Z", "message": {"role": "assistant", "content": text}, "done": False}
        return json.dumps(value).encode() + b"\n"
    value = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1700000000, "model": "m",
             "choices": [{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}]}  # fmt: skip
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def opening_of(back: str) -> bytes:
    if back != "anthropic_messages":
        return b""
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
               "stop_sequence": None, "usage": {"input_tokens": 5, "output_tokens": 1}}  # fmt: skip
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    return b"".join(
        b"event: " + value["type"].encode() + b"\ndata: " + json.dumps(value).encode() + b"\n\n"
        for value in ({"type": "message_start", "message": message}, block)
    )


def best_us(work: Callable[[], None], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begun = time.thread_time_ns()
        work()
        times.append((time.thread_time_ns() - begun) / 1000)
    return min(times)


def halves(front: str, back: str, rounds: int) -> tuple[float, float, float]:
    """Microseconds per chunk, per request without tools, and per request with 24."""
    memory, options = Store(100, 1 << 24, 60).space("bench"), Options()
    ask = Ask("POST", "/x", "", {}, "req_1", memory)
    mine, theirs = DIALECTS[front], DIALECTS[back]
    assert mine.read_request and mine.renderer and theirs.write_request and theirs.reader
    read, write, make_reader, make_renderer = mine.read_request, theirs.write_request, theirs.reader, mine.renderer
    small, large = body_of(front, 0, WORDS), body_of(front, 24, WORDS * 100)
    request, chunk, number = read(small, ask), chunk_of(back), 1000

    def chunks() -> None:
        reader, renderer = make_reader(request, options, memory), make_renderer(request, ask)
        renderer.feed(reader.feed(opening_of(back)))
        for _ in range(number):
            assert renderer.feed(reader.feed(chunk))

    return (
        best_us(chunks, rounds) / number, best_us(lambda: write(read(small, ask), options, memory) and None, rounds * 40),
        best_us(lambda: write(read(large, ask), options, memory) and None, rounds * 10),
    )  # fmt: skip


def exchange(port: int, path: str, body: bytes) -> None:
    """One stream, read to its end."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                     % (path.encode(), len(body), body))
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            data = sock.recv(262144)
            if not data:
                raise RuntimeError(f"{path} broke off after {tail!r}")
            tail = (tail + data)[-400:]


def process_us(proxy: Running, path: str, body: bytes, count: int) -> float:
    """CPU of the process per stream."""
    before = cpu_ns(proxy.pid)
    for _ in range(count):
        exchange(proxy.port, path, body)
    return (cpu_ns(proxy.pid) - before) / 1000 / count


WAYS = (("plain", "/plain/v1/chat/completions", "openai_chat"), ("passing", "/v1/chat/completions", "openai_chat"),
        ("responses", "/v1/responses", "openai_responses"), ("messages", "/v1/messages", "anthropic_messages"))  # fmt: skip


def through(rig: Rig, rounds: int, number: int) -> list[dict[str, Any]]:
    """By way: CPU per chunk (the slope between a long and a short stream), and of a request (a stream of two words)."""
    upstream, port = rig.streamer(), free_port()
    path = rig.folder / "translate.yaml"
    path.write_text(CONFIG.format(port=port, folder=rig.folder, upstream=upstream.port))
    proxy = start("translate", [rig.python, "-m", "relayd", "run", "-c", str(path)], port, PROXY_CORE, rig.folder)
    found: dict[str, list[list[float]]] = {name: [[], [], [], []] for name, _, _ in WAYS}
    try:
        for _ in range(rounds):
            for name, target, front in WAYS:
                for place, body in enumerate((
                    body_of(front, 0, f"chunks={number}"), body_of(front, 0, "chunks=2"), body_of(front, 24, "chunks=2"),
                    body_of(front, 24, "chunks=2" + WORDS * 430),
                )):  # fmt: skip
                    found[name][place].append(process_us(proxy, target, body, 4 if place == 0 else 60))
    finally:
        for running in (proxy, upstream):
            running.stop()
    rows = []
    for name, _, front in WAYS:
        long, short, tools, large = (min(shots) for shots in found[name])
        rows.append({
            "way": name, "us_chunk": round((long - short) / (number - 2), 1), "us_request": round(short),
            "us_request_24_tools": round(tools), "us_request_large": round(large), "large_kb": len(body_of(front, 24, WORDS * 430)) // 1000,
        })  # fmt: skip
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--python", default=sys.executable, help="interpreter of relayd")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunks", type=int, default=400)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="relayd-bench-"))
    try:
        print("through the process, microseconds of CPU")
        for row in through(Rig(folder, options.python, sys.executable), options.rounds, options.chunks):
            print("  " + "  ".join(f"{key} {value}" for key, value in row.items()))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("the dialects alone, microseconds of CPU: chunk, request, request with 24 tools (30 KB)")
    for front in ("openai_chat", "openai_responses", "anthropic_messages"):
        for back in ("openai_chat", "anthropic_messages", "gemini", "ollama"):
            if front != back:
                chunk, request, tools = halves(front, back, options.rounds)
                print(f"  {front:20} {back:20} {chunk:6.1f} {request:8.0f} {tools:8.0f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
