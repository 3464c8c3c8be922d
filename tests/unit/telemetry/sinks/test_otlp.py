"""The sink `otlp`: what is sent of a record, and how failures of a collector are handled. Time is a fake."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from relayd import clock
from relayd.schema import Secret
from relayd.telemetry.journal import Journal
from relayd.telemetry.metrics import Metrics
from relayd.telemetry.outcome import Record
from relayd.telemetry.outlet import Outlet, Reply
from relayd.telemetry.sink import RecordSink, declared
from relayd.telemetry.sinks._otlp_delivery import (
    BATCH,
    GIVE_UP_S,
    QUEUE,
    QUEUE_BYTES,
    STEP,
    partial_success,
    retry_after_s,
)
from relayd.telemetry.sinks._otlp_json import MAX_TEXT
from relayd.telemetry.sinks.otlp import Options, Sink
from relayd.telemetry.trace import MAX_CHILDREN, AttemptTimes, Sampler, Trace
from relayd.usage import Usage
from relayd.wire.json_steps import Steps
from relayd.wire.trace_context import TraceParent
from tests.aids.steps import MOST_UNITS, units_of
from tests.functional.harness.collector import attributes, validate
from tests.unit.telemetry.record import record as counted

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def record(path: str = "/", *, sampled: bool = True) -> Record:
    made = Record("public", "192.0.2.1", 3, 100.0, 1_700_000_000.0)
    made.id, made.method, made.host, made.path, made.route, made.upstream = "r" * 32, "POST", "ai.example:8443", path, "llm", "up"
    made.status, made.total_s, made.first_byte_s, made.attempts = 200, 2.0, 0.5, 1
    made.trace = Trace(TRACE, TraceParent(TRACE, PARENT, 1), "a=b", sampled)
    return made


class World:
    """A sink with an outlet whose requests wait for the test's reply."""

    def __init__(self, **options: Any) -> None:
        self.metrics = Metrics(declared())
        self.steps: list[Callable[[], None]] = []
        self.posts: list[tuple[str, Sequence[bytes], bytes, Callable[[Reply], None]]] = []
        self.log = io.StringIO()
        self.use(Sink(Options(endpoint="http://127.0.0.1:4318/", **options), self.metrics))

    def use(self, sink: Sink) -> None:
        """Use this sink."""
        self.sink = sink
        sink.connect(Outlet(self._post, self.steps.append, Journal("text", "debug", self.log)))

    def _post(
        self, url: str, ca: str | None, fields: Sequence[bytes], body: bytes, timeout_s: float, on_done: Callable[[Reply], None]
    ) -> Callable[[], None]:
        self.posts.append((url, fields, body, on_done))
        return lambda: None

    def run(self) -> None:
        """Flush, and run all steps."""
        self.sink.flush()
        while self.steps:
            self.steps.pop(0)()

    def reply(self, status: int, body: bytes = b"", retry_after: str = "", fault: str = "") -> None:
        self.posts[-1][3](Reply(status, body, retry_after, fault))
        while self.steps:
            self.steps.pop(0)()

    def count(self, name: str) -> float:
        return self.metrics.value(f"relayd.telemetry.otlp_{name}")

    def spans(self, index: int = -1) -> list[dict[str, Any]]:
        url, _, body, _ = self.posts[index]
        assert url == "http://127.0.0.1:4318/v1/traces"
        validate("/v1/traces", body)
        found: list[dict[str, Any]] = json.loads(body)["resourceSpans"][0]["scopeSpans"][0]["spans"]
        return found


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(clock, "monotonic", lambda: made.now_s)
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    return made


def test_the_sink_takes_records_and_samples_traces_unless_they_are_off() -> None:
    assert isinstance(World().sink, RecordSink)
    assert World(sample=0.25).sink.sampler == Sampler(0.25, True)
    assert World(traces=False, metrics=True).sink.sampler is None


def test_the_spans_of_an_exchange() -> None:
    one = record("/v1/chat/completions")
    assert one.trace is not None
    one.usage, one.more = Usage(10, 4, 3, 2, 1), {"model": "m", "model_served": "m-2", "finish": "stop", "first_token_ms": 700.0}
    one.cost_nano, one.currency, one.queue_s = 1500, "EUR", 0.2
    one.trace.operation, one.trace.stream, one.trace.tls = "chat", True, True
    one.trace.add_wait(100.0, 100.2)
    for start_s, status in ((100.3, 503), (100.6, 200)):
        one.trace.add_attempt(AttemptTimes(f"{status:016x}", "up", "[::1]:9001", "openai", "there", start_s, start_s - 0.1))
        one.trace.end_attempt(start_s + 0.1, status, "")
    world = World()
    world.sink.record(one)
    world.run()
    spans = world.spans()
    assert [(one["name"], one["kind"]) for one in spans] == [
        ("POST llm", 2), ("queue", 1), ("translate", 1), ("chat there", 3), ("translate", 1), ("chat there", 3),
    ]
    server = spans[0]
    assert {one["traceId"] for one in spans} == {TRACE} and {one["parentSpanId"] for one in spans[1:]} == {server["spanId"]}
    assert server["parentSpanId"] == PARENT and server["traceState"] == "a=b" and server["flags"] == 0x301 and spans[1]["flags"] == 0x101
    assert server["startTimeUnixNano"] == "1700000000000000000" and server["endTimeUnixNano"] == "1700000002000000000"
    assert spans[1]["endTimeUnixNano"] == "1700000000200000000"
    found = attributes(server)
    assert (found["server.address"], found["server.port"], found["url.scheme"]) == ("ai.example", 8443, "https")
    assert (found["relayd.cost.nano"], found["relayd.cost.currency"], found["relayd.queue.duration"]) == (1500, "EUR", 0.2)
    assert "status" not in server and "error.type" not in found and "relayd.consumer" not in found
    first, last = attributes(spans[3]), attributes(spans[5])
    assert first["error.type"] == "503" and spans[3]["status"]["code"] == 2 and "gen_ai.usage.input_tokens" not in first
    assert last["gen_ai.response.time_to_first_chunk"] == pytest.approx(0.1) and last["http.request.resend_count"] == 1
    assert [last[f"gen_ai.usage.{name}"] for name in (
        "input_tokens", "output_tokens", "cache_read.input_tokens", "cache_creation.input_tokens", "reasoning.output_tokens",
    )] == [10, 4, 3, 2, 1]  # fmt: skip
    assert last["gen_ai.response.model"] == "m-2" and last["gen_ai.request.stream"] is True and last["server.address"] == "[::1]"


def test_hostile_texts_make_no_invalid_request() -> None:
    one = record("/" + "\udcff\x00\x1f\"\\" + "x" * 5000)
    one.method, one.host, one.detail, one.code, one.status = "\x7fBAD", "\xff" * 10, "\ud800", "upstream_cut", 0
    world = World()
    world.sink.record(one)
    world.run()
    (span,) = world.spans()
    assert span["name"] == "HTTP llm" and attributes(span)["http.request.method"] == "_OTHER" and span["status"]["code"] == 2
    assert len(attributes(span)["url.path"]) == 1024


def test_records_that_are_not_sampled_are_not_kept() -> None:
    world = World()
    world.sink.record(record(sampled=False))
    world.sink.record(Record())
    assert world.sink.is_idle


def test_a_full_queue_drops_and_counts() -> None:
    world = World()
    for _ in range(QUEUE + 7):
        world.sink.record(record())
    assert world.count("dropped") == 7
    world.run()
    assert len(world.spans()) == BATCH and not world.sink.is_idle


def test_a_queue_of_large_records_is_bounded_by_their_bytes() -> None:
    world = World(logs=True)
    for _ in range(QUEUE):
        world.sink.record(record("/" + "x" * 60_000))
    for signal in ("traces", "logs"):
        dropped = world.metrics.value("relayd.telemetry.otlp_dropped", signal=signal)
        kept = QUEUE - dropped
        assert kept * 60_000 < QUEUE_BYTES < (kept + 2) * 65_000
    sent = 0
    while not world.sink.is_idle:
        world.run()
        sent += len(world.posts)
        while world.posts:
            done = world.posts.pop()[3]
            done(Reply(200, b"", "", ""))
            while world.steps:
                world.steps.pop(0)()
    before = world.count("dropped")
    world.sink.record(record("/" + "x" * 60_000))
    assert sent and world.count("dropped") == before, "what has been sent frees its bytes"


def test_a_metric_of_many_series_is_encoded_in_several_steps() -> None:
    world = World(traces=False, metrics=True)

    def steps() -> Steps[None]:
        world.use(Sink(Options(endpoint="http://127.0.0.1:4318/", traces=False, metrics=True), world.metrics))
        world.sink.flush()
        while world.steps:
            world.steps.pop(0)()
            yield

    for number in range(900):
        world.metrics.count_exchange(counted(route=f"route-{number}", upstream="up"))
    assert units_of(steps) < MOST_UNITS
    (_, _, body, _) = world.posts[-1]
    validate("/v1/metrics", body)
    found = json.loads(body)["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    (totals,) = (one for one in found if one["name"] == "relayd.proxy.total")
    assert len(totals["histogram"]["dataPoints"]) == 900 and totals["histogram"]["aggregationTemporality"] == 2


def test_one_step_encodes_few_items_and_one_request_is_under_way() -> None:
    world = World()
    for _ in range(STEP * 3):
        world.sink.record(record())
    world.sink.flush()
    assert len(world.steps) == 1
    world.steps.pop(0)()
    assert len(world.steps) == 1 and not world.posts, "the rest is for later turns"
    world.run()
    world.sink.record(record())
    world.run()
    assert len(world.posts) == 1 and len(world.spans()) == STEP * 3
    world.reply(200)
    world.run()
    assert len(world.posts) == 2 and world.count("sent") == STEP * 3


@pytest.mark.parametrize("status", [429, 502, 503, 504, 0])
def test_a_failure_is_retried_with_growing_pauses(status: int, time: Clock) -> None:
    world = World()
    world.sink.record(record())
    world.run()
    body = world.posts[0][2]
    for pause_s in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        sent = len(world.posts)
        world.reply(status, fault="" if status else "connect_failed: refused")
        time.now_s += pause_s - 0.01
        world.run()
        assert len(world.posts) == sent
        time.now_s += 0.01
        world.run()
        assert len(world.posts) == sent + 1 and world.posts[-1][2] == body
    world.reply(200)
    assert world.sink.is_idle and world.count("failed") == 7 and world.count("dropped") == 0
    assert "otlp_failed" in world.log.getvalue() and "otlp_recovered" in world.log.getvalue()


def test_retry_after_is_respected_and_a_batch_is_given_up(time: Clock) -> None:
    world = World()
    world.sink.record(record())
    world.run()
    world.reply(503, retry_after="120")
    time.now_s += 119
    world.run()
    assert len(world.posts) == 1
    time.now_s += 1
    world.run()
    assert len(world.posts) == 2
    time.now_s += GIVE_UP_S
    world.reply(503, retry_after="1")
    assert world.sink.is_idle and world.count("dropped") == 1


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500, 301])
def test_other_answers_drop_the_batch_and_the_next_one_goes(status: int) -> None:
    world = World()
    for _ in range(BATCH + 1):
        world.sink.record(record())
    world.run()
    world.reply(status, b"\xff no \n idea")
    assert world.count("dropped") == BATCH and len(world.posts) == 2 and len(world.spans()) == 1
    assert f"status {status}" in world.log.getvalue()


def test_finish_sends_all_batches_and_does_not_wait(time: Clock) -> None:
    world = World()
    for _ in range(BATCH * 2):
        world.sink.record(record())
    world.run()
    world.reply(503)
    world.sink.finish()
    assert len(world.posts) == 2, "the batch that waited"
    world.reply(200)
    world.reply(200)
    assert world.sink.is_idle and world.count("sent") == BATCH * 2
    world = World()
    for _ in range(BATCH * 2):
        world.sink.record(record())
    world.sink.finish()
    world.run()
    world.reply(0, fault="refused")
    assert world.sink.is_idle and world.count("dropped") == BATCH * 2


def test_the_rest_is_sent_when_a_reload_replaces_the_sink() -> None:
    world = World(metrics=True)
    world.sink.record(record())
    world.sink.close()
    world.run()
    world.reply(200)
    assert world.count("sent") == 1


def test_metrics_in_all_kinds(time: Clock) -> None:
    world = World(traces=False, metrics=True)
    world.metrics.gauge("relayd.proxy.exchanges", 2.5)
    world.metrics.add("relayd.config.reloads", 3, result="accepted")
    world.metrics.observe("relayd.loop.lag", 0.002)
    world.run()
    url, _, body, _ = world.posts[-1]
    assert url.endswith("/v1/metrics")
    validate("/v1/metrics", body)
    found = {one["name"]: one for one in json.loads(body)["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]}
    assert found["relayd.config.reloads"]["sum"]["dataPoints"][0]["asInt"] == "3" and found["relayd.config.reloads"]["sum"]["isMonotonic"]
    assert found["relayd.proxy.exchanges"]["gauge"]["dataPoints"][0]["asDouble"] == 2.5
    (point,) = found["relayd.loop.lag"]["histogram"]["dataPoints"]
    assert point["count"] == "1" and len(point["bucketCounts"]) == len(point["explicitBounds"]) + 1 and point["bucketCounts"][1] == "1"
    world.reply(200)
    world.run()
    assert len(world.posts) == 1
    time.now_s += 60
    world.run()
    assert len(world.posts) == 2


def test_logs_of_all_exchanges_with_their_severity() -> None:
    world = World(traces=False, logs=True)
    for status in (200, 404, 503):
        one = record(sampled=False)
        one.status = status
        world.sink.record(one)
    world.run()
    _, _, body, _ = world.posts[-1]
    validate("/v1/logs", body)
    found = json.loads(body)["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    assert [one["severityText"] for one in found] == ["INFO", "WARN", "ERROR"] and {one["traceId"] for one in found} == {TRACE}


def test_compressed_requests_are_the_same() -> None:
    plain, packed = World(), World(compression="gzip")
    one = record()
    for world in (plain, packed):
        world.sink.record(one)
        world.run()
    assert gzip.decompress(packed.posts[0][2]) == plain.posts[0][2] and b"Content-Encoding: gzip" in packed.posts[0][1]


@pytest.mark.parametrize(("body", "expected"), [
    (b"", (0, "")), (b"{}", (0, "")), (b"<html>", (0, "")), (b"[]", (0, "")), (b"[" * 100_000, (0, "")), (b'{"partialSuccess": 3}', (0, "")),
    (b'{"partialSuccess": {"rejectedSpans": 1e999}}', (0, "")), (b'{"partialSuccess": {"rejectedSpans": "x"}}', (0, "")), (b'{"partialSuccess": {"rejectedSpans": -4}}', (0, "")),
    (b'{"partialSuccess": {"rejectedLogRecords": "2", "errorMessage": "a\\nb"}}', (2, "a b")),
])  # fmt: skip
def test_partial_success(body: bytes, expected: tuple[int, str]) -> None:
    assert partial_success(body) == expected


def test_retry_after_in_both_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "wall", lambda: 784111777.0 - 30)
    assert retry_after_s("Sun, 06 Nov 1994 08:49:37 GMT") == 30 and retry_after_s("7") == 7
    for strange in ("Sun, 06 Nov 99999999999999999999 08:49:37 GMT", f"Sun, 06 Nov 1994 08:49:37 +{'9' * 23}"):
        assert retry_after_s(strange) == 0
    assert retry_after_s("999999999999") == 300 and retry_after_s("soon") == retry_after_s("") == retry_after_s("-5") == 0


def test_a_model_that_is_no_unicode_or_too_long_is_sent_as_a_text_in_the_name_of_a_span_too() -> None:
    world, one = World(), record()
    assert one.trace is not None
    one.more, one.trace.operation = {"model": "m\ud800" + "x" * 5000}, "chat"
    one.trace.add_attempt(AttemptTimes("1" * 16, "up", "127.0.0.1:1", "openai", "", 100.0, -1.0))
    world.sink.record(one)
    world.run()
    name = world.spans()[1]["name"]
    assert name.startswith("chat m?xx") and len(name) == MAX_TEXT and b"\\ud800" not in world.posts[0][2]


def test_an_item_that_cannot_be_encoded_does_not_stop_those_behind_it(caplog: pytest.LogCaptureFixture) -> None:
    world, faulty = World(), record("/faulty")
    faulty.trace = Trace(TRACE, None, "", True)
    faulty.status = "x"  # type: ignore[assignment]
    for one in (record("/a"), faulty, record("/b")):
        world.sink.record(one)
    world.run()
    assert [attributes(one)["url.path"] for one in world.spans()] == ["/a", "/b"]
    world.reply(200)
    assert (world.count("sent"), world.count("dropped"), world.sink.is_idle) == (2, 1, True)
    assert "TypeError" in caplog.text


def test_items_that_are_large_are_encoded_in_more_steps() -> None:
    world, one = World(), record()
    assert one.trace is not None
    for _ in range(MAX_CHILDREN):
        one.trace.add_attempt(AttemptTimes("1" * 16, "up", "127.0.0.1:1", "", "", 100.0, -1.0))
    for _ in range(STEP):
        world.sink.record(one)
    world.sink.flush()
    steps = 0
    while world.steps:
        world.steps.pop(0)()
        steps += 1
    assert steps > STEP // 2 and len(world.spans()) == STEP * (MAX_CHILDREN + 1)


def test_counters_begin_with_the_process_not_with_a_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "wall", lambda: 1000.0)
    world = World(traces=False, metrics=True)
    world.metrics.add("relayd.config.reloads", result="accepted")
    monkeypatch.setattr(clock, "wall", lambda: 2000.0)
    world.use(Sink(Options(endpoint="http://127.0.0.1:4318/", traces=False, metrics=True), world.metrics))
    world.run()
    found = json.loads(world.posts[0][2])["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    (point,) = next(one for one in found if one["name"] == "relayd.config.reloads")["sum"]["dataPoints"]
    assert (point["startTimeUnixNano"], point["timeUnixNano"]) == ("1000000000000", "2000000000000")


def test_fields_that_cannot_be_set_are_found() -> None:
    options = Options(endpoint="http://a", ca="relative.pem")
    values = {"Host": "x", "a b": "x", "X-Key": "a\nb"}
    faulty = dataclasses.replace(options, headers={name: Secret(value, "env K") for name, value in values.items()})
    assert [path for path, _ in faulty.check()] == ["headers.Host", "headers.a b", "headers.X-Key", "ca"]


@pytest.mark.parametrize("endpoint", ["http://[::1", "http://a:b", "http://a:70000", "http://:1", "http://a:0"])
def test_an_endpoint_needs_a_host_and_a_valid_port(endpoint: str) -> None:
    assert [path for path, _ in Options(endpoint=endpoint).check()] == ["endpoint"]
    assert not list(Options(endpoint="http://[::1]:4318/base").check())
