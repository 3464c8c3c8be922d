"""The periodic work of the daemon."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

from relayd.config.load import load_text
from relayd.daemon.loop_lag import LoopLag
from relayd.daemon.maintenance import Maintenance, bounds_of, descriptors, resident
from relayd.plan.compile import compile_plan
from relayd.protocols.dialect import run_steps
from relayd.proxy.gateway import Gateway
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.classify import Blame, Classification
from relayd.upstream.transport.client import StreamClient

CONFIG = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams: {a: {endpoints: ["http://127.0.0.1:1"], breaker: {failures: 1}, limits: {requests: 2, queue: 1}}}
routes: [{name: data, match: {path: /session}, upstream: sessions}, {name: all, upstream: a}]
daemon: {overload: {loop_lag: 500ms, memory: 1GiB, descriptors: 0.5}, request_buffers: {size: 2MiB, queue_timeout: 3s}}
"""


class Scene:
    def __init__(self, tmp_path: Path) -> None:
        self.log = io.StringIO()
        settings = TelemetrySettings(access_format="off", log_format="json")
        self.telemetry = Telemetry.build(settings, self.log)
        self.client: StreamClient = StreamClient(force_instance=True)
        self.gateway = Gateway(self.client, self.telemetry)
        self.lag = LoopLag(lambda late_s: None)
        self.plan = self.gateway.plan = compile_plan(
            load_text(CONFIG, "relayd.yaml").config, 1, gates=self.gateway.gates)
        self.gateway.gates.apply(self.plan.gate_limits)
        self.maintenance = Maintenance(self.gateway, self.client, self.lag, self.telemetry.journal, 1000)
        self.maintenance.commit(self.plan)

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def gauge(self, name: str) -> str:
        page = self.telemetry.page()
        assert page is not None
        text = run_steps(page[1]).decode()
        return "\n".join(line for line in text.splitlines() if line.startswith(name))


def opened(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    try:
        yield scene
    finally:
        scene.maintenance.close()
        scene.client.close()
        scene.telemetry.close()


async def test_a_change_of_an_endpoint_is_logged_and_counted(tmp_path: Path) -> None:
    for scene in opened(tmp_path):
        upstream = scene.plan.upstreams["a"]
        lease = upstream.acquire()
        assert lease is not None
        lease.release(Classification(Blame.ENDPOINT, "connect"))
        (event,) = scene.events()
        assert (event["event"], event["upstream"], event["endpoint"]) == ("breaker_opened", "a", "127.0.0.1:1")
        assert event["level"] == "warning"
        assert 'event="breaker_opened"' in scene.gauge("relayd_upstream_changes")


async def test_gauges_follow_gates_and_endpoints(tmp_path: Path) -> None:
    for scene in opened(tmp_path):
        gate = scene.gateway.gates.get("upstream a")
        gate.acquire("x")
        scene.maintenance.gauges()
        assert scene.gauge("relayd_queue_in_flight").endswith(" 1")
        assert scene.gauge("relayd_upstream_available").endswith(" 1")


async def test_request_buffers_are_configured_measured_and_part_of_the_load(tmp_path: Path) -> None:
    for scene in opened(tmp_path):
        buffers = scene.gateway.buffers
        assert (buffers.limit, buffers.queue_timeout_s) == (2 * 1024 * 1024, 3.0)
        buffers.retain(9 * 1024 * 1024)
        buffers.open(1024 * 1024, lambda: None, lambda reason, retry_after_s: None)
        scene.maintenance.gauges()
        assert int(scene.gauge("relayd_buffers_used").split()[-1]) > 8 * 1024 * 1024
        assert scene.gauge("relayd_buffers_waiting").endswith(" 1")
        scene.maintenance.tick()
        assert scene.gateway.overload.active and scene.gateway.overload.why == "request_buffers"


async def test_overload_is_logged_when_it_begins_and_when_it_ends(tmp_path: Path) -> None:
    for scene in opened(tmp_path):
        scene.lag.last_s = 5.0
        scene.maintenance.tick()
        assert scene.gateway.overload.active and scene.events()[-1]["event"] == "overloaded"
        scene.lag.last_s = 0.0
        for _ in range(40):
            scene.maintenance.tick()
        assert not scene.gateway.overload.active and scene.events()[-1]["event"] == "overload_ended"
        assert len(scene.events()) == 2


async def test_sessions_are_counted(tmp_path: Path) -> None:
    for scene in opened(tmp_path):
        sessions = scene.gateway.space("session:team", 60.0)
        sessions.put("a", {})
        scene.gateway.space("session-endpoints:team", 60.0).put("a", {})
        scene.gateway.session_counts.created += 1
        for _ in range(40):
            scene.maintenance.tick()
        scene.maintenance.gauges()
        assert scene.gauge("relayd_sessions_active").endswith(" 1") and scene.gauge("relayd_sessions_created").endswith(" 1")
        assert sessions.delete("a")
        for _ in range(40):
            scene.maintenance.tick()
        scene.maintenance.gauges()
        assert scene.gauge("relayd_sessions_active").endswith(" 0") and scene.gauge("relayd_sessions_created").endswith(" 1")


def test_bounds_are_those_of_the_configuration() -> None:
    bounds = bounds_of(load_text(CONFIG, "relayd.yaml").config, 1000)
    assert (bounds.loop_lag_s, bounds.memory_bytes, bounds.descriptors) == (0.5, 1 << 30, 500)


def test_the_process_knows_its_own_size() -> None:
    assert resident() > 1 << 20
    before = descriptors()
    with open("/dev/null", encoding="ascii"):
        assert descriptors() == before + 1
