"""Traces, metrics and logs by OTLP, as a collector gets them, and the trace context, as endpoints get it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.collector import Collector, attributes
from tests.functional.harness.faults import get, metric, post, refused_url, reload, silent, until
from tests.functional.harness.message import answer
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Upstream, saying

CALLER = "0af7651916cd43dd8448eb211c80319c"
PARENT = b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CHAT = {
    "id": "c", "object": "chat.completion", "model": "served-1", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 5}},
}  # fmt: skip
ASK = json.dumps({"model": "m-1", "messages": [{"role": "user", "content": "the prompt"}]}).encode()
JSON = b"Content-Type: application/json"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running
        running.validate()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


def otlp(url: str, **more: Any) -> dict[str, Any]:
    return {"telemetry": {"otlp": {"endpoint": url, "interval": "100ms", **more}}}


def ai(upstream: Upstream, url: str, **more: Any) -> dict[str, Any]:
    """Routes of AI dialects: one that passes, one that is translated, one with two endpoints."""
    return {
        **otlp(url, **more),
        "upstreams": {"ai": {
            "protocol": "openai_chat", "endpoints": [f"http://127.0.0.1:{upstream.port}/v1"], "retries": {"attempts": 2, "backoff": "10ms", "idempotent": True},
        }},
        "routes": [
            {"name": "chat", "match": {"path": "/v1/chat/completions"}, "protocol": "openai_chat", "upstream": "ai"},
            {"name": "messages", "match": {"path": "/v1/messages"}, "protocol": "anthropic_messages", "upstream": "ai"},
            {"name": "private", "match": {"prefix": "/private"}, "upstream": "up", "request_headers": {"remove": ["traceparent"]}},
            {"name": "all", "match": {"prefix": "/"}, "upstream": "up"},
        ],
    }


def test_a_request_continues_the_trace_of_its_caller(tmp_path: Path, collector: Collector, upstream: Upstream) -> None:
    with Relay(tmp_path, f"http://127.0.0.1:{upstream.port}", otlp(collector.url)) as relay:
        get(relay, b"/a?key=secret", PARENT, b"tracestate: congo=t61rcWkgMzE, rojo=1")
        server, attempt = until(lambda: collector.spans(CALLER) if len(collector.spans(CALLER)) == 2 else None)
        assert server["kind"] == 2 and server["parentSpanId"] == "b7ad6b7169203331" and server["traceState"] == "congo=t61rcWkgMzE,rojo=1"
        assert attempt["kind"] == 3 and attempt["parentSpanId"] == server["spanId"]
        assert int(server["startTimeUnixNano"]) <= int(attempt["startTimeUnixNano"]) <= int(attempt["endTimeUnixNano"]) <= int(server["endTimeUnixNano"])
        sent = upstream.heads[-1]
        assert sent.get_all("traceparent") == [f"00-{CALLER}-{attempt['spanId']}-01".encode()]
        assert sent.get_all("tracestate") == [b"congo=t61rcWkgMzE,rojo=1"]
        found = attributes(server)
        assert found["http.request.method"] == "GET" and found["url.path"] == "/a" and found["http.response.status_code"] == 200
        assert found["relayd.route"] == "all" and "secret" not in str(collector.exports)
        record = relay.record(path="/a")
        assert record["trace_id"] == CALLER and found["relayd.request.id"] == record["id"]


def test_without_a_caller_the_trace_id_is_the_request_id(tmp_path: Path, collector: Collector, upstream: Upstream) -> None:
    with Relay(tmp_path, f"http://127.0.0.1:{upstream.port}", otlp(collector.url)) as relay:
        request_id = (get(relay, b"/b").get("x-request-id") or b"").decode()
        until(lambda: collector.spans(request_id))
        assert (upstream.heads[-1].get("traceparent") or b"").startswith(f"00-{request_id}-".encode())
        for broken in (b"traceparent: 00-" + b"0" * 32 + b"-b7ad6b7169203331-01", PARENT + b"\r\n" + PARENT, b"traceparent: mine"):
            message = get(relay, b"/c", broken, b"tracestate: a=1")
            request_id = (message.get("x-request-id") or b"").decode()
            (sent,) = upstream.heads[-1].get_all("traceparent")
            assert sent.startswith(f"00-{request_id}-".encode()) and not upstream.heads[-1].get_all("tracestate")
        assert "trace_id" not in relay.record(path="/c")


def test_an_ai_request_has_the_attributes_of_genai(tmp_path: Path, collector: Collector, upstream: Upstream) -> None:
    upstream.script = saying(answer(json.dumps(CHAT).encode(), JSON))
    with Relay(tmp_path, f"http://127.0.0.1:{upstream.port}", ai(upstream, collector.url)) as relay:
        post(relay, b"/v1/chat/completions", ASK, JSON, PARENT)
        spans = until(lambda: collector.spans(CALLER) if len(collector.spans(CALLER)) == 2 else None)
        attempt = attributes(spans[1])
        assert spans[1]["name"] == "chat m-1"
        assert {key: value for key, value in attempt.items() if key.startswith("gen_ai.")} == {
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "m-1", "gen_ai.response.model": "served-1",
            "gen_ai.response.finish_reasons": ["stop"], "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3,
            "gen_ai.usage.cache_read.input_tokens": 5,
        }  # fmt: skip
        assert attempt["server.address"] == "127.0.0.1" and attempt["server.port"] == upstream.port
        translated = json.dumps({"model": "m-1", "max_tokens": 5, "messages": [{"role": "user", "content": "the prompt"}]}).encode()
        message = post(relay, b"/v1/messages", translated, JSON, b"anthropic-version: 2023-06-01")
        assert message.status == 200, message.body
        trace_id = (message.get("x-request-id") or b"").decode()
        found = {one["name"]: one for one in until(lambda: collector.spans(trace_id) if len(collector.spans(trace_id)) == 3 else None)}
        assert set(found) == {"POST messages", "translate", "chat m-1"}
        assert upstream.heads[-1].get_all("traceparent") == [f"00-{trace_id}-{found['chat m-1']['spanId']}-03".encode()]
        assert "the prompt" not in str(collector.exports)


def test_each_attempt_has_a_span_and_a_queue_too(tmp_path: Path, collector: Collector, upstream: Upstream) -> None:
    upstream.script = saying(answer(b"busy", status=b"503 Busy"))
    with Relay(tmp_path, f"http://127.0.0.1:{upstream.port}", ai(upstream, collector.url)) as relay:
        assert post(relay, b"/v1/chat/completions", ASK, JSON, PARENT).status == 503
        spans = until(lambda: collector.spans(CALLER) if len(collector.spans(CALLER)) == 3 else None)
        assert [attributes(one).get("http.request.resend_count") for one in spans[1:]] == [None, 1]
        assert all(attributes(one)["error.type"] == "503" and one["status"]["code"] == 2 for one in spans[1:])
        assert attributes(spans[0])["relayd.attempts"] == 2 and len({one["spanId"] for one in spans}) == 3
        assert [head.get("traceparent") for head in upstream.heads] == [f"00-{CALLER}-{one['spanId']}-01".encode() for one in spans[1:]]


def test_a_wait_in_a_queue_is_a_span(tmp_path: Path, collector: Collector, upstream: Upstream) -> None:
    change = otlp(collector.url) | {"upstreams": {"up": {"limits": {"requests": 1, "queue": 5}}}}
    upstream.script = silent
    with Relay(tmp_path, f"http://127.0.0.1:{upstream.port}", change) as relay, relay.client() as first, relay.client() as second:
        first.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: upstream.heads)
        second.send(b"GET /second HTTP/1.1\r\nHost: a\r\n" + PARENT + b"\r\n\r\n")
        until(lambda: metric(relay, "relayd_queue_depth") == 1)
        first.close()
        until(lambda: len(upstream.heads) == 2)
        second.close()
        spans = until(lambda: collector.spans(CALLER) if len(collector.spans(CALLER)) == 3 else None)
        assert [one["name"] for one in spans] == ["GET all", "queue", "GET"]
        assert int(spans[1]["endTimeUnixNano"]) > int(spans[1]["startTimeUnixNano"]) and spans[1]["parentSpanId"] == spans[0]["spanId"]
        assert attributes(spans[0])["relayd.outcome"] == "client.attempt" and attributes(spans[0])["error.type"] == "client_gone"


def test_sampling_follows_the_caller_and_else_the_trace_id(tmp_path: Path, collector: Collector, upstream: Upstream) -> None:
    with Relay(tmp_path, f"http://127.0.0.1:{upstream.port}", otlp(collector.url, sample=0.5)) as relay:
        get(relay, b"/", PARENT[:-2] + b"00")
        assert upstream.heads[-1].get_all("traceparent") == [PARENT.partition(b": ")[2][:-2] + b"00"], "as it came"
        wanted = set()
        with relay.client() as client:
            for _ in range(60):
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                request_id = (client.answer().get("x-request-id") or b"").decode()
                sampled = int(request_id[16:], 16) < 1 << 63
                assert (upstream.heads[-1].get("traceparent") or b"").endswith(b"-03" if sampled else b"-02")
                wanted |= {request_id} if sampled else set()
        get(relay, b"/", PARENT)
        until(lambda: {one["traceId"] for one in collector.spans()} == {*wanted, CALLER})
        reload(relay, otlp(collector.url, sample=0, parent_based=False))
        get(relay, b"/", PARENT.replace(b"0af7", b"0af8"))
        assert (upstream.heads[-1].get("traceparent") or b"").endswith(b"-00")
        reload(relay, {"telemetry": {"otlp": None}})
        get(relay, b"/", PARENT)
        assert upstream.heads[-1].get("traceparent") == PARENT.partition(b": ")[2], "as it came"


def test_a_route_keeps_the_trace_context_from_its_endpoint(tmp_path: Path, collector: Collector, upstream: Upstream) -> None:
    with Relay(tmp_path, f"http://127.0.0.1:{upstream.port}", ai(upstream, collector.url)) as relay:
        get(relay, b"/private", PARENT)
        assert not upstream.heads[-1].get_all("traceparent")
        until(lambda: len(collector.spans(CALLER)) == 2)


def test_metrics_and_logs_are_sent_if_asked_for_with_headers_and_compression(
    tmp_path: Path, collector: Collector, upstream: Upstream
) -> None:
    key = tmp_path / "key"
    key.write_text("Bearer of-the-collector\n")
    more = {"metrics": True, "logs": True, "metrics_interval": "1s", "compression": "gzip", "headers": {"Authorization": {"file": str(key)}}, "resource": {"team": "a"}}
    with Relay(tmp_path, f"http://127.0.0.1:{upstream.port}", otlp(collector.url, **more)) as relay:
        get(relay, b"/logged", PARENT)
        (log,) = until(lambda: collector.items("logs"))
        assert log["traceId"] == CALLER and attributes(log)["url.path"] == "/logged"

        def requests() -> list[dict[str, Any]]:
            return [one for one in collector.items("metrics") if one["name"] == "relayd.proxy.requests"]

        (point,) = until(requests)[-1]["sum"]["dataPoints"]
        assert point["asInt"] == "1" and attributes(point)["route"] == "all"
        timer = next(one for one in collector.items("metrics") if one["name"] == "relayd.proxy.total")
        assert timer["unit"] == "s" and sum(map(int, timer["histogram"]["dataPoints"][0]["bucketCounts"])) == 1
        assert {message.get("authorization") for _, message, _ in collector.exports} == {b"Bearer of-the-collector"}
        resource = json.loads(collector.exports[0][2])
        assert attributes(next(iter(resource.values()))[0]["resource"])["team"] == "a"
        assert b"of-the-collector" not in relay.output()


def test_a_collector_that_fails_harms_nobody(tmp_path: Path, collector: Collector, upstream: Upstream) -> None:
    faults = {
        "/hangs": silent, "/slow": saying(answer(b"slow down", b"Retry-After: 1", status=b"429 Too Many Requests")),
        "/gone": saying(answer(b"", status=b"503 Gone")), "/garbage": saying(b"\x00\x01garbage\r\n\r\n"),
        "/closes": lambda peer, message: peer.close(), "/bad": saying(answer(b"\xff<bad>", status=b"400 Bad Request")),
        "/partial": saying(answer(b'{"partialSuccess": {"rejectedSpans": "1", "errorMessage": "no"}}', JSON)),
        "/words": saying(answer(b"not JSON", JSON)),
    }  # fmt: skip
    lost = {"/bad", "/partial", "/words"}  # an answer is final; the others are sent again

    def came() -> set[str]:
        return {str(attributes(one).get("url.path")) for one in collector.spans()}

    def arrived(path: str) -> bool:
        if path not in lost:
            return path in came()
        counts = [metric(relay, f"relayd_telemetry_otlp_{what}_total", signal="traces") for what in ("sent", "dropped")]
        return sum(counts) == metric(relay, "relayd_proxy_requests_total")

    with Relay(tmp_path, f"http://127.0.0.1:{upstream.port}", otlp(refused_url(), timeout="2s")) as relay:
        assert get(relay, b"/nobody").status == 200
        until(lambda: metric(relay, "relayd_telemetry_otlp_failed_total", signal="traces") >= 1)
        reload(relay, otlp(collector.url, timeout="2s"))
        for path, script in faults.items():
            collector.answers = [script]
            assert get(relay, path.encode()).status == 200
            until(partial(arrived, path))
        assert not lost & came()
        assert metric(relay, "relayd_telemetry_otlp_dropped_total", signal="traces") == 3, "/nobody, /bad and /partial"
        assert b"otlp_failed" in relay.output()


def test_a_thousand_exchanges_arrive_once_and_a_stop_sends_the_rest(tmp_path: Path, collector: Collector, upstream: Upstream) -> None:
    with Relay(tmp_path, f"http://127.0.0.1:{upstream.port}", otlp(collector.url, interval="30s")) as relay:
        with relay.client() as client:
            for _ in range(50):
                client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(20)))
                for _ in range(20):
                    client.answer()
        until(lambda: metric(relay, "relayd_proxy_requests_total") == 1000)
        relay.stop()
    servers = [one["traceId"] for one in collector.spans() if one["kind"] == 2]
    assert len(servers) == len(set(servers)) == 1000 and len(collector.spans()) == 2000


def test_a_stop_does_not_wait_for_a_collector_that_hangs(tmp_path: Path, collector: Collector, upstream: Upstream) -> None:
    collector.script = silent
    with Relay(tmp_path, f"http://127.0.0.1:{upstream.port}", otlp(collector.url)) as relay:
        get(relay)
        until(lambda: collector.heads)
        assert relay.stop() == 0
