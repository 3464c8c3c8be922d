"""Starts the proxies and the upstreams of the bench, each on its core, and reads what the kernel accounts to them.

1. The proxy has core 0 for itself; load and upstream share core 1 (the last core of the machine).
2. CPU is the scheduler's own figure of all threads of the process and its children, in nanoseconds.
3. Every peer is measured in the same run, interleaved; only ratios of one run mean anything.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PROXY_CORE = 0
LOAD_CORE = max(os.sched_getaffinity(0))
ANSWER = (
    '{"id":"chatcmpl-0001","object":"chat.completion","created":1700000000,"model":"demo","choices":[{"index":0,'
    '"message":{"role":"assistant","content":"Hello from the upstream of the bench."},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}'
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pinned(command: list[str], core: int) -> list[str]:
    return ["taskset", "-c", str(core), *command] if shutil.which("taskset") else command


def tree(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                children = Path(f"/proc/{parent}/task/{task}/children").read_text()
                found.extend(int(child) for child in children.split())
    return found


def cpu_ns(pid: int) -> int:
    total = 0
    for member in tree(pid):
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{member}/task"):
                total += int(Path(f"/proc/{member}/task/{task}/schedstat").read_text().split()[0])
    return total


def waited_ns(pid: int) -> int:
    """How long the threads could run and had no processor: what others on these cores took from the process."""
    total = 0
    for member in tree(pid):
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{member}/task"):
                total += int(Path(f"/proc/{member}/task/{task}/schedstat").read_text().split()[1])
    return total


def rss_kib(pid: int) -> int:
    """Anonymous resident memory, which is what grows."""
    total = 0
    for member in tree(pid):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{member}/status").read_text()
            total += sum(int(kib) for kib in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", text, re.M))
    return total


def all_rss_kib(pid: int) -> int:
    """Proportional resident memory, files included: what an idle process costs."""
    total = 0
    for member in tree(pid):
        with contextlib.suppress(OSError):
            found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{member}/smaps_rollup").read_text(), re.M)
            total += int(found.group(1)) if found else 0
    return total


def answers(port: int, path: str = "/ready") -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as client:
        client.settimeout(2)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        return client.recv(12).startswith(b"HTTP/1.1 ")
    return False


@dataclass
class Running:
    """One started process; owned by the scenario that started it."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    started_s: float
    ready_s: float = 0.0
    folder: Path = field(default_factory=Path)

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(
    name: str, command: list[str], port: int, core: int, folder: Path, *, probe: str = "/ready", patience_s: float = 20
) -> Running:
    log = open(folder / f"{name}.log", "ab")  # noqa: SIM115 - handed to the child
    # Without compiled modules every start would compile them.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = str(ROOT)
    begun = time.monotonic()
    process = subprocess.Popen(pinned(command, core), stdout=log, stderr=log, cwd=ROOT, env=environment)
    log.close()
    running = Running(name, port, process, begun, folder=folder)
    while not answers(port, probe):
        if process.poll() is not None or time.monotonic() - begun > patience_s:
            running.stop()
            raise RuntimeError(f"{name} does not answer:\n" + (folder / f"{name}.log").read_text()[-2000:])
        time.sleep(0.002)
    running.ready_s = time.monotonic() - begun
    return running


NGINX = """
worker_processes 1; daemon off; master_process off; pid {folder}/{name}.pid; error_log {folder}/{name}.err crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 19900; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 100000000; keepalive_timeout 300s; default_type application/json;
  client_body_temp_path {folder}/{name}-b; proxy_temp_path {folder}/{name}-p; fastcgi_temp_path {folder}/{name}-f;
  uwsgi_temp_path {folder}/{name}-u; scgi_temp_path {folder}/{name}-s; client_max_body_size 0;
  {body}
}}
"""
NGINX_PROXY = """
  upstream u {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{
    proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    proxy_request_buffering off; proxy_read_timeout 3600s; }} }}
"""
NGINX_UPSTREAM = """
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{
    add_header X-Request-Cost 12; add_header Cache-Control no-cache; add_header X-Model demo; return 200 '{answer}'; }} }}
"""
RELAYD = """
listeners:
  public: {{address: "127.0.0.1:{port}", {sharing}limits: {{connections_per_peer: 0, requests: 0}}}}
admin: {{address: "unix:{folder}/{name}.sock"}}
upstreams:
  bench:
    endpoints: ["http://127.0.0.1:{upstream}"]
    timeouts: {{connect: 5s, first_byte: 300s, idle: 300s}}
    {more}
  other: {{endpoints: ["http://127.0.0.1:9"]}}
routes:
  - {{name: exact, match: {{path: /exact}}, upstream: other}}
  - {{name: images, match: {{prefix: /v1/images}}, upstream: other}}
  - {{name: host, match: {{host: [other.example.org]}}, upstream: other}}
  - {{name: deleted, match: {{prefix: /v1/, method: [DELETE]}}, upstream: other}}
  - {{name: llm, match: {{prefix: /v1/}}, upstream: bench, body_limit: 2GiB}}
  - {{name: rest, match: {{prefix: /}}, upstream: bench, body_limit: 2GiB}}
telemetry:
  access_log: {{format: json, file: "{folder}/{name}.log"}}
  statsd: {{address: "127.0.0.1:{statsd}", prefix: relayd}}
"""
# An AI route that passes: by model, with a key of a consumer (in the file `key`), usage tap, JSON log and statsd.
AI_RELAYD = """
listeners:
  public: {{address: "127.0.0.1:{port}", limits: {{connections_per_peer: 0, requests: 0}}}}
admin: {{address: "unix:{folder}/{name}.sock"}}
upstreams:
  bench:
    protocol: openai_chat
    endpoints: ["http://127.0.0.1:{upstream}/v1"]
    timeouts: {{connect: 5s, first_byte: 300s, idle: 300s}}
    {more}
models:
  "claude-*": bench
  demo: bench
consumers:
  team: {{bearer: {{file: "{folder}/key"}}{limits}}}
routes:
  - {{name: llm, match: {{prefix: /v1/}}, protocol: openai_chat, upstream: by_model, allow: [team]}}
telemetry:
  access_log: {{format: json, file: "{folder}/{name}.log"}}
  statsd: {{address: "127.0.0.1:{statsd}", prefix: relayd}}
"""

# Rates and a budget of the consumer: large enough to refuse nothing.
LIMITS = ", rates: [{requests: 100000000, per: 1m}], budget: [{amount: 1000000, per: 1d}]"
PRICES = "currency: USD\nmodels: {demo: {input: 2.50, output: 10}}\n"
# relayd with an AI route: the limits of its consumer, by the name of the peer.
AI_VARIANTS = {"relayd+ai": "", "relayd+ai+limits": LIMITS}


def ai_config(port: int, folder: Path, upstream: int, statsd: int, name: str, limits: str) -> str:
    """The configuration of an AI route that passes: by model, with a key, usage tap, JSON log and statsd. Its consumer
    has `limits`. Writes the files that it names."""
    (folder / "key").touch(0o600)
    (folder / "key").write_text("bench-0123456789abcdef")
    (folder / "prices.yaml").write_text(PRICES)
    prices = f'prices: "{folder}/prices.yaml"\n' if limits else ""
    return prices + AI_RELAYD.format(
        port=port, folder=folder, upstream=upstream, statsd=statsd, name=name, more="", limits=limits
    )


CADDYFILE = """
{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port} {{
  reverse_proxy 127.0.0.1:{upstream} {{
    flush_interval -1
    transport http {{
      keepalive_idle_conns_per_host 512
    }}
  }}
}}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 9000
defaults
  mode http
  timeout connect 5s
  timeout client 3600s
  timeout server 3600s
  http-reuse always
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  server s 127.0.0.1:{upstream}
"""

# What a peer of this name has beside relayd: settings of its upstream.
VARIANTS = {
    "relayd": "",
    "relayd+resilience": "limits: {requests: 1000, queue: 64}\n    breaker: {failures: 5}\n    retries: {attempts: 3}",
    "relayd+limits": "limits: {requests: 1000, queue: 64}",
    "relayd+breaker": "breaker: {failures: 5}",
    "relayd+retries": "retries: {attempts: 3}",
}


class Rig:
    """Knows how to start every peer; owned by one bench run."""

    def __init__(self, folder: Path, python: str, peer_python: str, max_clients: int = 1000) -> None:
        self.folder, self.python, self.peer_python, self.max_clients = folder, python, peer_python, max_clients
        self.statsd = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.statsd.bind(("127.0.0.1", 0))  # never read: what does not fit is dropped by the kernel
        self.count = 0

    def nginx(self, name: str, body: str, port: int, core: int) -> Running:
        self.count += 1
        name = f"{name}{self.count}"
        path = self.folder / f"{name}.conf"
        path.write_text(NGINX.format(folder=self.folder, name=name, body=body))
        return start(name, ["nginx", "-c", str(path), "-p", str(self.folder)], port, core, self.folder)

    def upstream(self) -> Running:
        port = free_port()
        return self.nginx("upstream", NGINX_UPSTREAM.format(port=port, answer=ANSWER), port, LOAD_CORE)

    def streamer(self) -> Running:
        port = free_port()
        command = [self.peer_python, str(HERE / "streamer.py"), str(port)]
        return start("streamer", command, port, LOAD_CORE, self.folder)

    def proxy(self, peer: str, upstream: int, *, max_clients: int = 0) -> Running:
        port = free_port()
        if peer == "nginx":
            return self.nginx("proxy", NGINX_PROXY.format(port=port, upstream=upstream), port, PROXY_CORE)
        if peer in ("caddy", "haproxy"):
            path = self.folder / f"{peer}{port}.conf"
            path.write_text((CADDYFILE if peer == "caddy" else HAPROXY).format(port=port, upstream=upstream))
            command = ["caddy", "run", "--adapter", "caddyfile", "--config"] if peer == "caddy" else ["haproxy", "-q", "-f"]
            return start(peer, [*command, str(path)], port, PROXY_CORE, self.folder)
        if peer in AI_VARIANTS:
            path = self.folder / f"{peer}.yaml"
            statsd = self.statsd.getsockname()[1]
            path.write_text(ai_config(port, self.folder, upstream, statsd, peer, AI_VARIANTS[peer]))
            command = [self.python, "-m", "relayd", "run", "-c", str(path)]
            return start(peer, command, port, PROXY_CORE, self.folder)
        if peer == "tornado":
            script, tail = "tornado_stock.py", [str(max_clients or self.max_clients)]
        elif peer == "aiohttp":
            script, tail = "aiohttp_uvloop.py", []
        else:
            return start(peer, self.relayd(peer, port, upstream, VARIANTS[peer]), port, PROXY_CORE, self.folder)
        python = self.python if peer == "tornado" else self.peer_python
        command = [python, str(HERE / "peers" / script), str(port), f"http://127.0.0.1:{upstream}", *tail]
        return start(peer, command, port, PROXY_CORE, self.folder)

    def relayd(self, name: str, port: int, upstream: int, more: str = "", sharing: str = "") -> list[str]:
        """Write a configuration, and return the command of a relayd for it. `sharing`: keys of its listener."""
        path = self.folder / f"{name}.yaml"
        path.write_text(RELAYD.format(
            port=port, folder=self.folder, upstream=upstream, statsd=self.statsd.getsockname()[1], name=name, more=more,
            sharing=sharing,
        ))
        return [self.python, "-m", "relayd", "run", "-c", str(path)]

    @contextlib.contextmanager
    def running(self, peer: str, upstream: int, *, max_clients: int = 0) -> Iterator[Running]:
        proxy = self.proxy(peer, upstream, max_clients=max_clients)
        try:
            yield proxy
        finally:
            proxy.stop()


def has(python: str, *modules: str) -> bool:
    command = [python, "-c", "import " + ", ".join(modules)]
    return subprocess.run(command, capture_output=True, cwd=ROOT, check=False).returncode == 0
