"""Nasty JSON bodies: how long a bystander waits for an answer while one of them is sent, by shape and by way.

The bystander asks for one small answer after the other on a connection of its own: `worst_ms` is the longest that it
waited, a busy machine included. `turn_ms` is the longest turn of relayd's event loop in milliseconds of CPU, which is
what a body can do to others. A request that is refused counts as much as one that is served.
"""

# ruff: noqa: UP031 - JSON is full of braces, which the percent sign leaves alone

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench.rig import HERE, LOAD_CORE, PROXY_CORE, Rig, Running, cpu_ns, free_port, pinned, rss_kib, start

Row = dict[str, Any]
CONFIG = """
listeners:
  public: {{address: "127.0.0.1:{port}", limits: {{connections_per_peer: 0, requests: 0}}}}
admin: {{address: "unix:{folder}/nasty.sock"}}
upstreams:
  plain: {{endpoints: ["http://127.0.0.1:{upstream}/v1"]}}
  openai_chat: {{protocol: openai_chat, endpoints: ["http://127.0.0.1:{upstream}/v1"]}}
  openai_responses: {{protocol: openai_responses, endpoints: ["http://127.0.0.1:{upstream}/v1"]}}
  anthropic_messages: {{protocol: anthropic_messages, endpoints: ["http://127.0.0.1:{upstream}/v1"]}}
  gemini: {{protocol: gemini, endpoints: ["http://127.0.0.1:{upstream}"]}}
  ollama: {{protocol: ollama, endpoints: ["http://127.0.0.1:{upstream}"]}}
models: {{"*": openai_chat}}
routes:
  - {{name: bystander, match: {{path: /bystander}}, upstream: plain}}
  - {{name: rule, match: {{prefix: /rule/, model: [vip]}}, upstream: plain}}
  - {{name: ruled, match: {{prefix: /rule/}}, upstream: plain}}
  - {{name: by_model, match: {{prefix: /by_model/}}, protocol: openai_chat, upstream: by_model, strip_prefix: /by_model}}
  - {{name: passing, match: {{prefix: /passing/}}, upstream: openai_chat, strip_prefix: /passing}}
  - {{name: socket, match: {{prefix: /socket/}}, protocol: openai_responses, upstream: openai_chat, strip_prefix: /socket}}
{pairs}
telemetry:
  access_log: {{format: json, file: "{folder}/nasty.log"}}
"""
FRONTS = {"openai_chat": "/v1/chat/completions", "openai_responses": "/v1/responses", "anthropic_messages": "/v1/messages"}
BACKS = ("openai_chat", "openai_responses", "anthropic_messages", "gemini", "ollama")
PAIRS = {f"{front}-{back}": (front, back) for front in FRONTS for back in BACKS if front != back}


def request(front: str, content: str, more: str = "") -> bytes:
    """A request whose content is this JSON."""
    message = '{"role":"user","content":%s}' % content
    listed = f'"input":[{message}]' if front == "openai_responses" else f'"messages":[{message}],"max_tokens":9'
    return f'{{"model":"m",{listed}{more}}}'.encode()


def listing(front: str, item: str, count: int) -> bytes:
    """A request with so many of one item."""
    name = "input" if front == "openai_responses" else "messages"
    return b'{"model":"m","max_tokens":9,"%s":[%s]}' % (name.encode(), ",".join([item] * count).encode())


def text(kind: str) -> str:
    return {"openai_responses": "input_text"}.get(kind, "text")


def image(front: str, data: str) -> str:
    if front == "anthropic_messages":
        return '[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"%s"}}]' % data
    if front == "openai_responses":
        return '[{"type":"input_image","image_url":"data:image/png;base64,%s"}]' % data
    return '[{"type":"image_url","image_url":{"url":"data:image/png;base64,%s"}}]' % data


def calls(front: str, arguments: str, count: int) -> bytes:
    """A history with so many calls of these arguments, each answered."""
    quoted = json.dumps(arguments)
    if front == "openai_responses":
        items = [
            '{"type":"function_call","call_id":"c%d","name":"f","arguments":%s},{"type":"function_call_output","call_id":"c%d","output":%s}'
            % (n, quoted, n, quoted) for n in range(count)
        ]  # fmt: skip
        return b'{"model":"m","input":[{"role":"user","content":"x"},%s]}' % ",".join(items).encode()
    if front == "anthropic_messages":
        made = ",".join('{"type":"tool_use","id":"c%d","name":"f","input":%s}' % (n, arguments) for n in range(count))
        told = ",".join('{"type":"tool_result","tool_use_id":"c%d","content":%s}' % (n, quoted) for n in range(count))
        history = '{"role":"assistant","content":[%s]},{"role":"user","content":[%s]}' % (made, told)
    else:
        made = ",".join('{"id":"c%d","type":"function","function":{"name":"f","arguments":%s}}' % (n, quoted) for n in range(count))
        told = ",".join('{"role":"tool","tool_call_id":"c%d","content":%s}' % (n, quoted) for n in range(count))
        history = '{"role":"assistant","tool_calls":[%s]},%s' % (made, told)
    return b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"x"},%s]}' % history.encode()


def tools(front: str, schema: str, count: int) -> bytes:
    form = {
        "openai_chat": '{"type":"function","function":{"name":"t%d","parameters":%s}}',
        "openai_responses": '{"type":"function","name":"t%d","parameters":%s}',
        "anthropic_messages": '{"name":"t%d","input_schema":%s}',
    }[front]
    return request(front, '"hi"', ',"tools":[%s]' % ",".join(form % (n, schema) for n in range(count)))


SCRAPS = '[],{},"a",'
OBJECT = '{"type":"object","properties":{%s}}' % ",".join(f'"p{n}":{{"type":"string"}}' for n in range(20))
SHAPES: dict[str, Callable[[str], bytes]] = {
    "100,000 keys": lambda front: b"{" + b",".join(b'"k%d":1' % n for n in range(100_000)) + b"}",
    "100,000 keys inside": lambda front: request(front, '"hi"', ',"metadata":{%s}' % ",".join(f'"k{n}":1' for n in range(100_000))),
    "8 MB of quotes": lambda front: b'{"model":"m","a":' + b'"' * 8_000_000,
    "8 MB of escaped quotes": lambda front: request(front, '"' + '\\"' * 4_000_000 + '"'),
    "10 MB of scraps": lambda front: b'{"model":"m","a":[' + SCRAPS.encode() * 1_000_000 + b"1]}",
    "1 MB of scraps": lambda front: request(front, '"hi"', ',"metadata":{"a":[%s1]}' % (SCRAPS * 40_000)),
    "256 KB of scraps": lambda front: request(front, '"hi"', ',"metadata":{"a":[%s1]}' % (SCRAPS * 26_000)),
    "one key a million times": lambda front: b"{" + b'"k":1,' * 1_000_000 + b'"model":"m"}',
    "one key 50,000 times": lambda front: request(front, '"hi"', ',"metadata":{%s"k":1}' % ('"k":1,' * 40_000)),
    "200,000 items": lambda front: listing(front, '{"role":"user","content":"hi"}', 200_000),
    "40,000 items": lambda front: listing(front, '{"role":"user","content":"hi"}', 40_000),
    "40,000 turns of one role": lambda front: listing(front, '{"role":"assistant","content":"hi"}', 40_000),
    "9,000 items in 250 KB": lambda front: listing(front, '{"role":"user","content":""}', 9_000),
    "40,000 parts": lambda front: request(front, "[%s]" % ",".join(['{"type":"%s","text":"a"}' % text(front)] * 40_000)),
    "4,000 parts": lambda front: request(front, "[%s]" % ",".join(['{"type":"%s","text":"a"}' % text(front)] * 4_000)),
    "nested 60 deep": lambda front: request(front, '"hi"', ',"metadata":[%s]' % ",".join(["[" * 60 + "]" * 60] * 2_000)),
    "nested a million deep": lambda front: b'{"model":"m","a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
    "30 MB of one string": lambda front: request(front, '"' + "a" * 30_000_000 + '"'),
    "30 MB of escapes": lambda front: request(front, '"' + "\\n" * 15_000_000 + '"'),
    "30 MB of \\u escapes": lambda front: request(front, '"' + "\\u0041" * 5_000_000 + '"'),
    "12 MB of wide text": lambda front: request(front, '"' + "\U0001f600" * 3_000_000 + '"'),
    "30 MB with one wide character": lambda front: request(front, '"' + "a" * 30_000_000 + '\U0001f600"'),
    "30 MB of digits": lambda front: b'{"model":"m","a":' + b"1" * 30_000_000 + b"}",
    "30 MB of blanks": lambda front: b'{"model":"m",' + b" " * 30_000_000 + b'"a":1}',
    "20 MB image": lambda front: request(front, image(front, base64.b64encode(bytes(range(256)) * 60_000).decode())),
    "20 MB image, URL-safe": lambda front: request(front, image(front, base64.urlsafe_b64encode(bytes(range(256)) * 60_000).decode())),
    "30 MB in 1 MB strings": lambda front: request(front, "[%s]" % ",".join(['{"type":"%s","text":"%s"}' % (text(front), "a" * 1_000_000)] * 30)),
    "400 calls of 30 KB": lambda front: calls(front, '{"a":"%s"}' % ("x\\n" * 10_000), 400),
    "one call of 5 MB": lambda front: calls(front, '{"a":"%s"}' % ("x\\n" * 1_600_000), 1),
    "one call of scraps": lambda front: calls(front, '{"a":[%s1]}' % (SCRAPS * 12_000), 1),
    "3,000 calls": lambda front: calls(front, "{}", 3_000),
    "1,000 tools": lambda front: tools(front, OBJECT, 1_000),
    "one tool of 1 MB": lambda front: tools(front, '{"type":"object","enum":[%s1]}' % (SCRAPS * 30_000), 1),
}  # fmt: skip


class Bystander:
    """Asks one request after the other; knows how long each took."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> float:
        begun = time.perf_counter()
        self.sock.sendall(b"GET /bystander HTTP/1.1\r\nHost: bench\r\n\r\n")
        got = b""
        while b"\r\n\r\n" not in got or len(got) < int(got.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            data = self.sock.recv(65536)
            if not data:
                raise RuntimeError("the bystander was sent away")
            got += data
        return time.perf_counter() - begun


SENDER = """
import socket, struct, sys, os
port, is_socket = int(sys.argv[1]), sys.argv[2] == "socket"
head, body = sys.stdin.buffer.read().split(b"\\0\\0HEAD\\0\\0", 1)
sock = socket.create_connection(("127.0.0.1", port)); sock.settimeout(60)
got = b""
try:
    sock.sendall(head)
    if is_socket:
        while b"\\r\\n\\r\\n" not in got: got += sock.recv(65536)
        got = b""
    sock.sendall(body)
except OSError: pass
try:
    while b"\\r\\n\\r\\n" not in got and len(got) < 4000:
        data = sock.recv(65536)
        if not data: break
        got += data
        if is_socket: break
except OSError: pass
sys.stdout.write((got[:400] if is_socket else got[9:12]).decode("latin-1"))
"""


def upgrade() -> bytes:
    return (b"GET /socket/v1/responses HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")


def frame(message: bytes) -> bytes:
    """One masked text frame; a mask of zeros leaves the bytes as they are."""
    return b"\x81\xff" + struct.pack(">Q", len(message)) + b"\0\0\0\0" + message


def wait_ms(proxy: Running, bystander: Bystander, path: str, body: bytes) -> tuple[float, str]:
    """The longest that the bystander waited from the first byte of this request to the last of its answer."""
    is_socket = path == "socket"
    if is_socket:
        head, body = upgrade(), frame(body)
    else:
        head = b"POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body))
    sender = subprocess.Popen(
        pinned([sys.executable, "-c", SENDER, str(proxy.port), path], LOAD_CORE), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )
    assert sender.stdin is not None and sender.stdout is not None
    sender.stdin.write(head + b"\0\0HEAD\0\0" + body)
    sender.stdin.close()
    worst = 0.0
    while sender.poll() is None:
        worst = max(worst, bystander.ask())
    told = sender.stdout.read().decode("latin-1")
    return worst * 1000, "socket" if is_socket and told else told


@contextlib.contextmanager
def proxying(rig: Rig, upstream: Running) -> Iterator[Running]:
    port, path = free_port(), rig.folder / "nasty.yaml"
    pairs = "\n".join(
        f"  - {{name: {name}, match: {{prefix: /{name}/}}, protocol: {front}, upstream: {back}, strip_prefix: /{name}}}"
        for name, (front, back) in PAIRS.items()
    )
    path.write_text(CONFIG.format(port=port, folder=rig.folder, upstream=upstream.port, pairs=pairs))
    command = [rig.python, str(HERE / "turns.py"), str(rig.folder / "turns"), "run", "-c", str(path)]
    proxy = start("nasty", command, port, PROXY_CORE, rig.folder)
    try:
        yield proxy
    finally:
        proxy.stop()
        upstream.stop()


WAYS = {
    "rule": ("openai_chat", "/rule/v1/chat/completions"), "by_model": ("openai_chat", "/by_model/v1/chat/completions"),
    "passing": ("openai_chat", "/passing/v1/chat/completions"), "socket": ("openai_responses", "socket"),
    **{name: (front, f"/{name}{FRONTS[front]}") for name, (front, _) in PAIRS.items()},
}  # fmt: skip


def measure(rig: Rig, quick: bool) -> list[Row]:
    """By shape: the longest wait in milliseconds on each way, and what was answered."""
    only, some = os.environ.get("NASTY_SHAPES", ""), os.environ.get("NASTY_WAYS", "")
    ways = [way for way in WAYS if (not some or way in some.split(",")) and (not quick or "gemini" in way or "-" not in way)]
    rows: list[Row] = []
    with proxying(rig, rig.upstream()) as proxy:
        turns, bystander = rig.folder / "turns", Bystander(proxy.port)
        for _ in range(200):
            bystander.ask()
        forget(turns)
        calm = sorted(bystander.ask() for _ in range(500))
        rows.append({"peer": "nobody else", "turn_ms": longest_ms(turns), "worst_ms": round(calm[-1] * 1000, 1)})
        for shape, make in SHAPES.items():
            if only and not any(word in shape for word in only.split(",")):
                continue
            bodies: dict[str, bytes] = {}
            found: list[tuple[float, str, float, str, int]] = []
            for way in ways:
                front, path = WAYS[way]
                body = bodies.setdefault(front, make(front))
                if path == "socket":
                    body = b'{"type":"response.create",' + body[1:]
                forget(turns)
                before = cpu_ns(proxy.pid)
                waited, told = wait_ms(proxy, bystander, path, body)
                found.append((longest_ms(turns), way, round(waited, 1), told, (cpu_ns(proxy.pid) - before) // 1_000_000))
            turn, way, _, told, cpu = max(found)
            rows.append({
                "peer": shape, "turn_ms": turn, "worst_ms": max(waited for _, _, waited, _, _ in found), "way": way,
                "told": told, "cpu_ms": cpu, "rss_mib": rss_kib(proxy.pid) // 1024,
            })  # fmt: skip
            if os.environ.get("NASTY_ALL"):
                sys.stdout.write(f"{shape}: " + " ".join(f"{way}={turn}/{told}" for turn, way, _, told, _ in found) + "\n")
                sys.stdout.flush()
    return rows


def longest_ms(turns: Path) -> float:
    longest_s: float = struct.unpack("d", turns.read_bytes())[0]
    return round(longest_s * 1000, 1)


def forget(turns: Path) -> None:
    with open(turns, "r+b") as file:  # the file is mapped: it keeps its length
        file.write(bytes(8))
