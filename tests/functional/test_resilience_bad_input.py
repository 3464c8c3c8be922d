"""Settings of resilience that cannot be meant: each a fault at check time, with its line and its column."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.functional.harness.faults import post, says
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Upstream
from tests.functional.test_resilience_fallbacks import asking, error, good

HEAD = """listeners: {public: {address: "127.0.0.1:8282"}}
upstreams:
  a:
    endpoints: ["http://127.0.0.1:9001"]
    LINE
  b: {endpoints: ["http://127.0.0.1:9002"]}
  twin: {endpoints: ["http://127.0.0.1:9001"]}
routes:
  - name: all
    upstream: a
    ROUTE
"""
MODELS = """listeners: {public: {address: "127.0.0.1:8282"}}
upstreams:
  a: {protocol: openai_chat, endpoints: ["http://127.0.0.1:9001"]}
  b: {protocol: openai_chat, endpoints: ["http://127.0.0.1:9002"]}
models:
  m: MODEL
routes: [{name: all, upstream: by_model, ROUTE}]
"""

UPSTREAM_FAULTS = [
    ("balance: least_requests", "5:14", "did you mean least_request?"),
    ("balance: sticky", "5:14", "is none of consistent_hash, least_request"),
    ("limits: {requests: -1}", "5:24", "at least 0"),
    ("limits: {requests: 10000000}", "5:24", "at most 1000000"),
    ("limits: {requests: many}", "5:24", "whole number"),
    ("limits: {requests: 1.5}", "5:24", "whole number"),
    ("limits: {queue: 9999999999}", "5:21", "at most 1000000"),
    ("limits: {requests: 1, queue_timeout: 9999999d}", "5:42", "longer than"),
    ("limits: {requests: 1, queue_timeout: soon}", "5:42", "soon"),
    ("limits: {request: 1}", "5:14", "did you mean requests?"),
    ("retries: 1000", "5:14", "at most 20"),
    ("retries: {attempts: 0}", "5:25", "at least 1"),
    ("retries: {on: [sometimes]}", "5:20", "is none of connect"),
    ("retries: {on: ['200']}", "5:20", "400 and above"),
    ("retries: {budget: {share: 99}}", "5:31", "at most 10"),
    ("breaker: {rate: 2}", "5:21", "at most 1"),
    ("breaker: {failures: 0}", "5:25", "never opens"),
    ("breaker: {failurs: 3}", "5:15", "did you mean failures?"),
    ("health: {status: [fine]}", "5:23", "is not a status"),
    ("health: {status: []}", "5:22", "at least one"),
    ("health: {interval: 0}", "5:24", "at least"),
    ("health: {kind: icmp}", "5:20", "none of http, tcp"),
    ("{balance: consistent_hash, hash: {by: [colour]}}", "5:", "is none of header:NAME"),
]
ROUTE_FAULTS = [
    ("mirror: a", "11:13", "is the upstream of the request already"),
    ("mirror: {upstream: a, share: 0.1}", "11:24", "is the upstream of the request already"),
    ("mirror: twin", "11:13", "would get requests twice"),
    ("mirror: nobody", "11:13", "unknown upstream 'nobody'"),
    ("mirror: {upstream: b, share: 5}", "11:34", "at most 1"),
    ("canary: {upstream: a, weight: 5}", "11:24", "is the route's own upstream"),
    ("canary: {upstream: b, weight: 500}", "11:35", "at most 100"),
    ("canary: {upstream: b}", "11:13", "weight"),
    ("fallbacks: [a]", "11:17", "leads back to the first target of the request"),
    ("fallbacks: [b, a]", "11:20", "leads back to the first target of the request"),
    ("fallbacks: [b, twin, b]", "11:26", "leads back to fallbacks[0]"),
    ("fallbacks: [nobody]", "11:17", "unknown upstream 'nobody'"),
    ("fallbacks: [{upstream: b, on: [bored]}]", "11:36", "none of unavailable"),
    ("fallbacks: [{upstream: b, on: []}]", "11:35", "at least one class"),
    ("limits: {requests: 1, ageing: 0}", "11:35", "at least"),
]
MODEL_FAULTS = [
    ("{upstream: a, fallbacks: [b, a]}", "", "6:35", "leads back to the first target of the request"),
    ("{upstream: a, fallbacks: [b, {upstream: a, model: m}]}", "", "6:35", "leads back to the first target of the request"),
    ("{upstream: a, model: x, fallbacks: [{upstream: a, model: x}]}", "", "6:42", "leads back"),
    ("a", "mirror: a", "7:50", "is the upstream of every model already"),
]


def checked(file: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "relayd", "check", "-c", str(file)], capture_output=True, text=True, timeout=60, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout + done.stderr


def expect(file: Path, text: str, place: str, words: str) -> None:
    file.write_text(text)
    code, out = checked(file)
    assert code == 78, out
    line = next(line for line in out.splitlines() if ": error:" in line)
    assert line.startswith(f"{file}:{place}"), line
    assert words in line
    assert "Traceback" not in out


@pytest.mark.parametrize(("line", "place", "words"), UPSTREAM_FAULTS, ids=[one[0] for one in UPSTREAM_FAULTS])
def test_absurd_settings_of_an_upstream_are_faults(line: str, place: str, words: str, tmp_path: Path) -> None:
    text = HEAD.replace("    ROUTE\n", "")
    text = text.replace("LINE", line[1:-1].replace(", hash", "\n    hash")) if line[0] == "{" else text.replace("LINE", line)
    expect(tmp_path / "relayd.yaml", text, place if line[0] != "{" else "6:", words)


@pytest.mark.parametrize(("line", "place", "words"), ROUTE_FAULTS, ids=[one[0] for one in ROUTE_FAULTS])
def test_absurd_settings_of_a_route_are_faults(line: str, place: str, words: str, tmp_path: Path) -> None:
    expect(tmp_path / "relayd.yaml", HEAD.replace("LINE", "http: '1.1'").replace("ROUTE", line), place, words)


@pytest.mark.parametrize(("model", "route", "place", "words"), MODEL_FAULTS, ids=[one[0] for one in MODEL_FAULTS])
def test_models_that_lead_back_are_faults(model: str, route: str, place: str, words: str, tmp_path: Path) -> None:
    expect(tmp_path / "relayd.yaml", MODELS.replace("MODEL", model).replace("ROUTE", route), place, words)


def test_a_reload_with_such_a_fault_changes_nothing(upstream: Upstream, folder: Path) -> None:
    upstream.script = says(b"old")
    with Relay(folder, upstream.url) as relay:
        relay.write({"upstreams": {"up": {"balance": "sticky"}}})
        done = subprocess.run([sys.executable, "-m", "relayd", "reload", "--socket", relay.admin_path], cwd=ROOT, capture_output=True)
        assert done.returncode != 0
        assert b"sticky" in done.stdout + done.stderr
        assert post(relay, b"/x").body == b"old"
        assert relay.status()["refused"]["findings"]


def test_a_fallback_of_the_route_is_not_asked_twice_where_the_model_was_there_already(
    upstream: Upstream, folder: Path
) -> None:
    """What only some models make a circle is no fault, and no circle either."""
    upstream.script = error(b"500 No")
    with Upstream() as other:
        other.script = good
        change = {
            "upstreams": {
                "up": {"protocol": "openai_chat", "endpoints": [upstream.url]},
                "second": {"protocol": "openai_chat", "endpoints": [other.url]},
            },
            "models": {"m": "up", "n": "second"},
            "routes": [{"name": "llm", "protocol": "openai_chat", "upstream": "by_model", "fallbacks": ["second", "up"][::-1]}],
        }
        with Relay(folder, upstream.url, change) as relay:
            assert post(relay, b"/v1/chat/completions", asking(), b"Content-Type: application/json").status == 200
            assert (len(upstream.heads), len(other.heads)) == (1, 1)
