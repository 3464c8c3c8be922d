"""Counts the instructions that relayd executes per small POST and per streamed chunk, with callgrind: on a plain route,
on the same route with a collector of traces that samples none, on an AI route that passes (by model, with a key of a
consumer, usage tap, JSON log and statsd), and on one whose consumer has a rate and a budget besides. Also those of a start
up to the first answer, beside the peers of the bench, and of the commands check, explain and status.

    python tests/bench/instructions.py [KIND ...] [TREE ...]

A count depends neither on the load of the machine nor on its clock, and differs by less than 0.1 % between two runs. It
includes Python, libcurl and libc, but not the kernel. Each TREE is a source tree to compare, by default this one, each KIND
one of KINDS, by default all. All run with this interpreter and its libraries. Clients and the endpoint are in this process: every round sends one request (or
one chunk) on each of CONNECTIONS connections. During the measurement relayd's clock stands nearly still, so that no timer
adds to it.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from tests.bench.rig import ANSWER, LIMITS, RELAYD, ai_config, free_port

CONNECTIONS, WARM_UP, ROUNDS = 16, 24, 40
LAUNCH = """
import itertools, signal, sys, time
sys.path.insert(0, sys.argv[1])
from relayd import clock
from relayd.cli.main import main
def stop_clock(*_):
    time.monotonic = clock.monotonic = itertools.count(time.monotonic(), 1e-7).__next__
signal.signal(signal.SIGRTMIN + 5, stop_clock)
main(["run", "-c", sys.argv[2]])
"""
BODY = b'{"model":"demo","messages":[{"role":"user","content":"Say hello to the bench, please, in one sentence."}]}'
STREAMED = BODY[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}'
KINDS = (
    "post", "unsampled_post", "chunk", "ai_post", "ai_chunk", "limits_post", "limits_chunk", "start", "check", "explain", "status",
)
PEERS = ("tornado_stock.py", "aiohttp_uvloop.py")
UNSAMPLED = '  otlp: {endpoint: "http://127.0.0.1:9", sample: 0}\n'
HEAD = b"HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nCache-Control: no-cache\r\n"
WHOLE = HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER.encode())
BEGINNING = HEAD + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"A word of a stream."},"finish_reason":null}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


def request_of(body: bytes) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer bench-0123456789abcdef\r\nUser-Agent: bench/1\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )


class Both:
    """The clients and the endpoint of one relayd."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("0.0.0.0", 0), backlog=CONNECTIONS)
        self.port: int = self.listener.getsockname()[1]
        self.clients: list[socket.socket] = []
        self.endpoints: list[socket.socket] = []
        self._poll = select.poll()  # select() takes no descriptor above 1023
        self._poll.register(self.listener, select.POLLIN)
        self._by_descriptor: dict[int, socket.socket] = {}

    def connect(self, port: int) -> None:
        self.clients = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(CONNECTIONS)]

    def exchange(self, request: bytes, mark: bytes, answer: bytes, end: bytes) -> None:
        """Send this request on each connection, answer each that arrives with `mark` near its end, and read each response
        up to `end`."""
        self.answer(self.send(request, mark), answer, end)

    def request(self, body: bytes) -> list[socket.socket]:
        """Send one request on each connection. Returns the endpoint's connections on which they arrived."""
        return self.send(request_of(body), body)

    def send(self, request: bytes, mark: bytes) -> list[socket.socket]:
        """Send this request on each connection. Returns the endpoint's connections on which requests with `mark` near
        their end arrived."""
        for client in self.clients:
            client.sendall(request)
        arrived: dict[socket.socket, bytes] = {}
        while sum(mark in received[-256:] for received in arrived.values()) < CONNECTIONS:
            for descriptor, _ in self._poll.poll(60_000):
                ready = self._by_descriptor.get(descriptor)
                if ready is None:
                    endpoint = self.listener.accept()[0]
                    self.endpoints.append(endpoint)
                    self._by_descriptor[endpoint.fileno()] = endpoint
                    self._poll.register(endpoint, select.POLLIN)
                else:
                    arrived[ready] = arrived.get(ready, b"") + ready.recv(65536)
        return list(arrived)

    def answer(self, endpoints: list[socket.socket], data: bytes, end: bytes) -> None:
        """Send `data` from each endpoint, and read it from each client up to `end`."""
        for endpoint in endpoints:
            endpoint.sendall(data)
        for client in self.clients:
            received = b""
            while not received.endswith(end):
                received += client.recv(65536)


def count(tree: Path, kind: str) -> int:
    """Instructions per request (kinds with `post`) or per chunk (kinds with `chunk`) of the relayd in this source tree."""
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as name:
        folder, both, port = Path(name), Both(), free_port()
        if kind.startswith(("ai_", "limits_")):
            text = ai_config(port, folder, both.port, 9, "relayd", LIMITS if kind.startswith("limits_") else "")
        else:
            text = RELAYD.format(port=port, folder=folder, upstream=both.port, statsd=9, name="relayd", more="", sharing="")
        (folder / "relayd.yaml").write_text(text + UNSAMPLED if kind.startswith("unsampled_") else text)
        process = subprocess.Popen([
            "valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/callgrind",
            sys.executable, "-c", LAUNCH, str(tree), str(folder / "relayd.yaml"),
        ], cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            wait_for(port, process)
            return measured(both, port, process.pid, folder, kind)
        finally:
            process.kill()  # a drain would wait for the clock
            process.wait()


def valgrind(folder: Path, tree: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start a program of Python with modules that are compiled before."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = str(tree)
    if (tree / "relayd").is_dir():
        subprocess.run([sys.executable, "-m", "compileall", "-q", "relayd"], cwd=tree, env=environment, check=True)
    return subprocess.Popen(
        ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={folder}/callgrind", sys.executable, *command],
        cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )


def count_start(tree: Path, peer: str = "") -> int:
    """Instructions from the start of a process to its first answer: of relayd, or of a peer."""
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as name, Both().listener as upstream:
        folder, port, target = Path(name), free_port(), upstream.getsockname()[1]
        (folder / "relayd.yaml").write_text(
            RELAYD.format(port=port, folder=folder, upstream=target, statsd=9, name="relayd", more="", sharing="")
        )
        command = ["-m", "relayd", "run", "-c", str(folder / "relayd.yaml")]
        if peer:
            command = [str(Path(__file__).resolve().parent / "peers" / peer), str(port), f"http://127.0.0.1:{target}", "100"]
        process = valgrind(folder, tree, *command)
        try:
            wait_for(port, process)
            with socket.create_connection(("127.0.0.1", port), 60) as client:
                client.sendall(b"GET /ready HTTP/1.1\r\nHost: bench\r\n\r\n")
                endpoint = upstream.accept()[0]
                endpoint.recv(65536)
                endpoint.sendall(WHOLE)
                client.recv(65536)
            subprocess.run(["callgrind_control", "--dump", str(process.pid)], check=True, capture_output=True)
            return total(folder)
        finally:
            process.kill()
            process.wait()


def count_command(tree: Path, kind: str) -> int:
    """Instructions of a command with a small configuration. No daemon responds to `status`."""
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as name:
        folder = Path(name)
        path = folder / "relayd.yaml"
        path.write_text(RELAYD.format(port=80, folder=folder, upstream=9, statsd=9, name="relayd", more="", sharing=""))
        valgrind(folder, tree, "-m", "relayd", kind, "-c", str(path), *(["/v1/models"] if kind == "explain" else [])).wait()
        return total(folder)


def total(folder: Path) -> int:
    totals = [re.search(r"^totals: (\d+)", one.read_text(), re.M) for one in folder.glob("callgrind*")]
    return max(int(found[1]) for found in totals if found)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the port accepts connections."""
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("relayd has ended")


def measured(both: Both, port: int, pid: int, folder: Path, kind: str) -> int:
    def control(*options: str) -> None:
        subprocess.run(["callgrind_control", *options, str(pid)], check=True, capture_output=True)

    def post() -> None:
        both.answer(both.request(BODY), WHOLE, ANSWER[-10:].encode())

    def chunk() -> None:
        both.answer(streams, CHUNK, b"\n\n\r\n")

    both.connect(port)
    for _ in range(WARM_UP):
        post()
    streams: list[socket.socket] = []
    if kind.endswith("chunk"):
        streams = both.request(STREAMED)
        both.answer(streams, BEGINNING + CHUNK, b"\n\n\r\n")
    step = post if kind.endswith("post") else chunk
    os.kill(pid, signal.SIGRTMIN + 5)
    control("--instr=on")
    for _ in range(4):
        step()
    control("--zero")
    for _ in range(ROUNDS):
        step()
    control("--dump")
    return total(folder) // (ROUNDS * CONNECTIONS)


def main() -> int:
    trees = [Path(one).resolve() for one in sys.argv[1:] if one not in KINDS] or [Path(__file__).resolve().parents[2]]
    for kind in [kind for kind in KINDS if kind in sys.argv] or KINDS:
        first = 0
        for tree in trees:
            commands = kind in ("check", "explain", "status")
            number = count_start(tree) if kind == "start" else count_command(tree, kind) if commands else count(tree, kind)
            first = first or number
            sys.stdout.write(f"{kind:14} {number:13,} instructions  {number / first:5.3f}  {tree}\n")
            sys.stdout.flush()
        for peer in PEERS if kind == "start" else ():
            number = count_start(trees[0], peer)
            sys.stdout.write(f"{kind:14} {number:13,} instructions  {number / first:5.3f}  {peer}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
