"""Nasty answers of endpoints, and large stored responses: how long a bystander waits while one of them is worked on.

As in nasty.py: `worst_ms` and `p99_ms` are what the bystander waited for, `turn_ms` is the longest turn of relayd's event
loop in milliseconds of CPU, `cpu_ms` all of the work, `rss_mib` the memory of the process afterwards.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
from typing import Any

from tests.aids.nasty_answers import ANSWERS
from tests.bench.nasty import Bystander, Row, forget, longest_ms
from tests.bench.rig import HERE, LOAD_CORE, PROXY_CORE, Rig, cpu_ns, free_port, rss_kib, start

SIZE = 3_000_000
CONFIG = """
listeners:
  public: {{address: "127.0.0.1:{port}", limits: {{connections_per_peer: 0, requests: 0}}}}
admin: {{address: "unix:{folder}/nasty-answers.sock"}}
upstreams:
{upstreams}
routes:
  - {{name: bystander, match: {{path: /bystander}}, respond: {{status: 200, body: hello}}}}
{routes}
telemetry:
  access_log: {{format: json, file: "{folder}/nasty-answers.log"}}
"""
FRONTS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai_chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    "openai_responses": ("/v1/responses", {"input": "hi"}),
    "anthropic_messages": ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}),
}
BACKS = ("openai_chat", "openai_responses", "anthropic_messages", "gemini", "ollama")


class Load:
    """Sends one request; the bystander asks meanwhile."""

    def __init__(self, port: int) -> None:
        self.port, self.bystander = port, Bystander(port)
        self.status, self.body = 0, b""

    def waits(self, method: str, path: str, body: bytes | None) -> list[float]:
        """What the bystander waited for each answer, in milliseconds, sorted."""

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            self.status, self.body = response.status, response.read()
            connection.close()

        asking = threading.Thread(target=ask)
        asking.start()
        found = [self.bystander.ask()]
        while asking.is_alive():
            found.append(self.bystander.ask())
        return sorted(1000 * one for one in found)


def measure(rig: Rig, quick: bool) -> list[Row]:
    """A row for each answer, of the front and the form that wait longest, and for each operation on a stored response."""
    port, turns = free_port(), rig.folder / "answer-turns"
    answerer_port = free_port()
    answerer = start("answerer", [sys.executable, str(HERE / "answerer.py"), str(answerer_port), str(SIZE)], answerer_port, LOAD_CORE, rig.folder)
    pairs = [(front, back) for front in FRONTS for back in BACKS if front != back]
    upstreams = "\n".join(f'  {back}: {{protocol: {back}, endpoints: ["http://127.0.0.1:{answerer_port}"]}}' for back in BACKS)
    routes = "\n".join(
        f"  - {{name: {front}-{back}, match: {{prefix: /{front}-{back}/}}, protocol: {front}, upstream: {back}, strip_prefix: /{front}-{back}}}"
        for front, back in pairs
    )
    path = rig.folder / "nasty-answers.yaml"
    path.write_text(CONFIG.format(port=port, folder=rig.folder, upstreams=upstreams, routes=routes))
    proxy = start("nasty-answers", [rig.python, str(HERE / "turns.py"), str(turns), "run", "-c", str(path)], port, PROXY_CORE, rig.folder, probe="/bystander")
    try:
        load = Load(port)
        return [*_answers(load, proxy.pid, turns, pairs, quick), *_stored(load, proxy.pid, turns)]
    finally:
        proxy.stop()
        answerer.stop()


def _row(load: Load, pid: int, turns: Any, name: str, method: str, path: str, body: bytes | None = None) -> Row:
    forget(turns)
    before = cpu_ns(pid)
    waits = load.waits(method, path, body)
    return {
        "peer": name, "turn_ms": longest_ms(turns), "worst_ms": round(waits[-1], 1), "p99_ms": round(waits[int(len(waits) * 0.99)], 1),
        "told": load.status, "cpu_ms": (cpu_ns(pid) - before) // 1_000_000, "rss_mib": rss_kib(pid) // 1024,
    }  # fmt: skip


def _answers(load: Load, pid: int, turns: Any, pairs: list[tuple[str, str]], quick: bool) -> list[Row]:
    only, rows = os.environ.get("NASTY_SHAPES", ""), []
    for number, (name, answer) in enumerate(ANSWERS.items()):
        if only and not any(word in name for word in only.split(",")):
            continue
        found = []
        for front, back in pairs:
            if back == answer.back:
                path, members = FRONTS[front]
                for stream in (True,) if quick else (False, True):
                    body = json.dumps({"model": f"answer-{number}", "stream": stream, **members}).encode()
                    row = _row(load, pid, turns, name, "POST", f"/{front}-{back}{path}", body)
                    found.append({**row, "way": f"{front} {'stream' if stream else 'plain'}"})
        rows.append(max(found, key=lambda row: float(row["turn_ms"])))
    return rows


def _stored(load: Load, pid: int, turns: Any) -> list[Row]:
    """A response of some 8 MB with its conversation."""
    route, number = "/openai_responses-openai_chat/v1/responses", list(ANSWERS).index("a long text")
    items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "lorem ipsum\n" * 450}]}] * 900
    body = json.dumps({"model": f"answer-{number}", "input": items}).encode()
    rows = [_row(load, pid, turns, "a response is stored", "POST", route, body)]
    path = f"{route}/{json.loads(load.body)['id']}"
    rows.append(_row(load, pid, turns, "a stored response is returned", "GET", path))
    rows.append(_row(load, pid, turns, "input items are listed", "GET", path + "/input_items?limit=100"))
    following = json.dumps({"model": f"answer-{number}", "input": "go on", "previous_response_id": path.rpartition("/")[2], "store": False}).encode()
    rows.append(_row(load, pid, turns, "a stored response is continued", "POST", route, following))
    rows.append(_row(load, pid, turns, "a stored response is deleted", "DELETE", path))
    return rows
