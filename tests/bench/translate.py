"""What it costs to speak a dialect: routes that pass and routes that translate, beside a plain route of the same relayd.

1. All ways lead through one process to one upstream, in turns, so that the difference between them is the dialect.
2. A small request, and a chunk at the pace of a model, as with the peers; a request with tools of 24 functions as a
   stream of two words on a connection of its own.
3. Beside them the dialects' halves alone, without a process around them.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from relayd.protocols import anthropic_messages, gemini, ollama, openai_chat, openai_responses
from relayd.protocols.dialect import Dialect, Options, RequestContext
from relayd.stores.memory import Store
from relayd.wire.body import model_of
from tests.bench.rig import PROXY_CORE, Rig, Running, cpu_ns, free_port, start
from tests.bench.small import Shot, wrk
from tests.bench.streams import Tally, receive

Row = dict[str, Any]
DIALECTS: dict[str, Dialect] = {
    module.DIALECT.name: module.DIALECT for module in (openai_chat, openai_responses, anthropic_messages, gemini, ollama)
}
CONFIG = """
listeners:
  public: {{address: "127.0.0.1:{port}", limits: {{connections_per_peer: 0, requests: 0}}}}
admin: {{address: "unix:{folder}/admin.sock"}}
upstreams:
  bench: {{protocol: openai_chat, endpoints: ["http://127.0.0.1:{upstream}/v1"]}}
  same: {{endpoints: ["http://127.0.0.1:{upstream}/v1"]}}
models: {{"*": bench}}
routes:
  - {{name: plain, match: {{prefix: /plain/v1/}}, upstream: same, strip_prefix: /plain/v1}}
  - {{name: by_model, match: {{prefix: /by_model/}}, protocol: openai_chat, upstream: by_model, strip_prefix: /by_model}}
  - {{name: responses, match: {{path: /v1/responses}}, protocol: openai_responses, upstream: bench}}
  - {{name: messages, match: {{path: /v1/messages}}, protocol: anthropic_messages, upstream: bench}}
  - {{name: chat, match: {{prefix: /v1/}}, upstream: bench}}
telemetry:
  access_log: {{format: json, file: "{folder}/access.log"}}
  statsd: {{address: "127.0.0.1:{statsd}", prefix: relayd}}
"""
# The path, the client's dialect, and what stands once in every chunk that the client gets.
WAYS = {
    "plain": ("/plain/v1/chat/completions", "openai_chat", b'"delta":{"content"'),
    "passing": ("/v1/chat/completions", "openai_chat", b'"delta":{"content"'),
    "by_model": ("/by_model/v1/chat/completions", "openai_chat", b'"delta":{"content"'),
    "responses": ("/v1/responses", "openai_responses", b"event: response.output_text.delta"),
    "messages": ("/v1/messages", "anthropic_messages", b"event: content_block_delta"),
}
PASSING = ("plain", "passing", "by_model")
WORDS = "Please read the file and tell me what you find there, in a few sentences. "
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["path"],
    "properties": {f"argument_{number}": {"type": "string", "description": WORDS} for number in range(6)} | {"path": {"type": "string"}},
}  # fmt: skip


def body_of(front: str, tools: int, text: str, turn: int = 0) -> bytes:
    """A request; another `turn` has tools of other names."""
    names = [f"tool_{number}_{turn}" for number in range(tools)]
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
    if back == "openai_responses":
        value = {"type": "response.output_text.delta", "sequence_number": 7, "item_id": "msg_1", "output_index": 0,
                 "content_index": 0, "delta": text, "logprobs": []}  # fmt: skip
        return b"event: response.output_text.delta\ndata: " + json.dumps(value).encode() + b"\n\n"
    value = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1700000000, "model": "m",
             "choices": [{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}]}  # fmt: skip
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def opening_of(back: str) -> bytes:
    if back != "anthropic_messages":
        return b""
    message: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
               "stop_sequence": None, "usage": {"input_tokens": 5, "output_tokens": 1}}  # fmt: skip
    block = {"index": 0, "content_block": {"type": "text", "text": ""}}
    return b"".join(
        b"event: " + kind.encode() + b"\ndata: " + json.dumps({"type": kind, **value}).encode() + b"\n\n"
        for kind, value in (("message_start", {"message": message}), ("content_block_start", block))
    )


def best_us(work: Callable[[], None], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begun = time.thread_time_ns()
        work()
        times.append((time.thread_time_ns() - begun) / 1000)
    return min(times)


def halves(front: str, back: str, rounds: int) -> tuple[float, float, float, float]:
    """Microseconds per chunk, per request without tools, with 24 that are new, and with 24 that came before."""
    memory, options = Store(100, 1 << 24, 60).space("bench"), Options()
    ask = RequestContext("POST", "/x", "", {}, "req_1", memory)
    mine, theirs = DIALECTS[front], DIALECTS[back]
    assert mine.read_request and mine.renderer and theirs.write_request and theirs.reader
    read, write, make_reader, make_renderer = mine.read_request, theirs.write_request, theirs.reader, mine.renderer
    small, large = body_of(front, 0, WORDS), body_of(front, 24, WORDS * 100)
    asked, chunk, number = read(small, ask), chunk_of(back), 1000

    def chunks() -> None:
        reader, renderer = make_reader(asked, options, memory), make_renderer(asked, ask)
        renderer.render(reader.decode(opening_of(back)))
        for _ in range(number):
            assert renderer.render(reader.decode(chunk))

    def request(body: bytes) -> None:
        model_of(body)  # the data path looks at the model first, and hands on what it has parsed
        write(read(body, ask), options, memory)

    turns = iter([body_of(front, 24, WORDS * 100, turn) for turn in range(rounds * 10)])
    return (
        best_us(chunks, rounds) / number, best_us(lambda: request(bytes(bytearray(small))), rounds * 40),
        best_us(lambda: request(next(turns)), rounds * 10), best_us(lambda: request(bytes(bytearray(large))), rounds * 10),
    )  # fmt: skip


@contextlib.contextmanager
def proxying(rig: Rig, upstream: Running) -> Iterator[Running]:
    port, path, statsd = free_port(), rig.folder / "dialects.yaml", rig.statsd.getsockname()[1]
    path.write_text(CONFIG.format(port=port, folder=rig.folder, upstream=upstream.port, statsd=statsd))
    proxy = start("dialects", [rig.python, "-m", "relayd", "run", "-c", str(path)], port, PROXY_CORE, rig.folder)
    try:
        yield proxy
    finally:
        proxy.stop()
        upstream.stop()


def asking(port: int, path: str, body: bytes) -> socket.socket:
    """A connection on which this request was sent."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(b"POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                 % (path.encode(), len(body), body))
    return sock


def exchange(port: int, path: str, body: bytes) -> None:
    """One stream, read to its end."""
    with asking(port, path, body) as sock:
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            data = sock.recv(262144)
            if not data:
                raise RuntimeError(f"{path} broke off after {tail!r}")
            tail = (tail + data)[-400:]


def request_us(proxy: Running, path: str, bodies: list[bytes]) -> float:
    """CPU of the process per stream of two words."""
    before = cpu_ns(proxy.pid)
    for body in bodies:
        exchange(proxy.port, path, body)
    return (cpu_ns(proxy.pid) - before) / 1000 / len(bodies)


def chunk_us(proxy: Running, path: str, body: bytes, mark: bytes, streams: int) -> float:
    """CPU of the process per chunk that a client got, from the time on when all streams are open."""
    opening, tally = Tally(mark), Tally(mark)
    socks = [asking(proxy.port, path, body) for _ in range(streams)]
    try:
        receive(socks, time.monotonic() + 0.7, opening, sample=1 << 30)
        before = cpu_ns(proxy.pid)
        receive(socks, time.monotonic() + 60, tally, sample=1 << 30)
        spent = cpu_ns(proxy.pid) - before
    finally:
        for sock in socks:
            sock.close()
    if opening.done or tally.done != streams:
        raise RuntimeError(f"{path}: {tally.done} of {streams} streams came to their end, {opening.done} too soon")
    return spent / 1000 / tally.chunks


def measure(rig: Rig, rounds: int, seconds: float, chunks: int) -> list[Row]:
    """By way: microseconds of CPU per small request, per paced chunk, and per request without tools, with 24 that are
    new in every request, and with the same 24 in every request."""
    found: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}

    def take(way: str, figure: str, us: float) -> None:
        found[way].setdefault(figure, []).append(us)

    with proxying(rig, rig.upstream()) as proxy:
        for way in PASSING:
            wrk(rig.folder, proxy.port, 16, 1, WAYS[way][0])
        for _ in range(rounds):
            for way in PASSING:
                before = cpu_ns(proxy.pid)
                shot: Shot = wrk(rig.folder, proxy.port, 64, seconds, WAYS[way][0])
                if shot.errors:
                    raise RuntimeError(f"{way}: {shot.errors} requests failed")
                take(way, "us_small", (cpu_ns(proxy.pid) - before) / 1000 / shot.requests)
    with proxying(rig, rig.streamer()) as proxy:
        for turn in range(rounds):
            for way, (path, front, mark) in WAYS.items():
                paced = body_of(front, 0, f"chunks={chunks} gap_ms=20")
                take(way, "us_chunk", chunk_us(proxy, path, paced, mark, 200))
                take(way, "us_request", request_us(proxy, path, [body_of(front, 0, "chunks=2")] * 100))
                fresh = [body_of(front, 24, "chunks=2", turn * 100 + number) for number in range(100)]
                take(way, "us_24_new_tools", request_us(proxy, path, fresh))
                take(way, "us_24_known_tools", request_us(proxy, path, [fresh[-1]] * 100))
    return [{"peer": way} | {figure: round(min(shots), 1) for figure, shots in found[way].items()} for way in WAYS]


def measure_halves(rounds: int) -> list[Row]:
    """The dialects alone, by pair."""
    rows: list[Row] = []
    for front in ("openai_chat", "openai_responses", "anthropic_messages"):
        for back in ("openai_chat", "anthropic_messages", "gemini", "ollama"):
            if front != back:
                chunk, request, new, known = halves(front, back, rounds)
                rows.append({
                    "peer": f"{front} > {back}", "us_chunk": round(chunk, 1), "us_request": round(request),
                    "us_24_new_tools": round(new), "us_24_known_tools": round(known),
                })
    return rows
