"""The certificates of running listeners: reports of the thread, changed files, status."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from relayd.acme.state import Record, State
from relayd.acme.worker import Standing
from relayd.config.load import load_text
from relayd.daemon import certificates
from relayd.daemon.certificates import Certificates
from relayd.daemon.changeover import Changeover
from relayd.daemon.timers import Timers
from relayd.plan.compile import compile_plan
from relayd.proxy.gateway import Gateway
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient
from tests.aids.ports import free_port
from tests.unit.server.certificates import certificate

DAY_S = 86400.0


class Running:
    """A service over real listeners; nothing is ordered, because the state cannot be prepared."""

    def __init__(self, folder: Path, tls: str) -> None:
        self.written = io.StringIO()
        self.telemetry = Telemetry.build(TelemetrySettings(access_format="off", log_format="json"), self.written)
        self.client = StreamClient(force_instance=True)
        self.gateway = Gateway(self.client, self.telemetry)
        self.changeover = Changeover(self.gateway, self.telemetry, {}, 100)
        (folder / "state").touch()
        self.state = State(str(folder / "state" / "acme"))
        self.service = Certificates(self.gateway, self.changeover, self.state)
        self.port = free_port()
        self.commit(tls)

    def commit(self, tls: str) -> None:
        text = f"listeners: {{web: {{address: '127.0.0.1:{self.port}', tls: {tls}}}}}\nroutes: [{{name: all, respond: {{body: x}}}}]"
        config = load_text(text, "c").config
        self.gateway.plan = compile_plan(config, 1)
        self.changeover.listeners.commit(self.changeover.listeners.prepare(config.listeners))
        self.service.commit(self.gateway.plan)

    def report(self, **values: Any) -> None:
        self.service._on_report(replace(Standing("a.example", Record()), **values))

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.written.getvalue().splitlines()]

    def value(self, name: str, **labels: str) -> float:
        self.service.gauges()
        return self.telemetry.metrics.value(name, **labels)

    def close(self) -> None:
        self.service.close()
        self.changeover.listeners.abort_all()
        self.changeover.listeners.close()
        self.client.close()
        self.telemetry.close()


ACME = "{acme: {domains: [a.example], email: a@b.example}}"


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Running]:
    one = Running(folder, ACME)
    try:
        yield one
    finally:
        one.close()


async def until(probe: Callable[[], Any]) -> None:
    for _ in range(3000):
        if probe():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("did not happen")


async def test_a_certificate_that_was_issued_is_logged_and_counted(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        now = clock.wall()
        record = Record(directory="https://d/", renew_at=now + 60 * DAY_S)
        running.report(event="issued", record=record, begins_s=now, ends_s=now + 90 * DAY_S)
        event = next(one for one in running.events() if one["event"] == "certificate_issued")
        assert (event["level"], event["domain"], event["directory"]) == ("info", "a.example", "https://d/")
        assert running.value("relayd.certs.attempts", domain="a.example", result="issued") == 1
        left_s = running.service.left_s()["web", running.state.certificate_file("a.example")]
        assert left_s == pytest.approx(90 * DAY_S, abs=60)
        entry = running.service.describe()[0]
        assert (entry["domain"], entry["warning"], entry["directory"]) == ("a.example", "", "https://d/")


@pytest.mark.parametrize(("ends_in_s", "urgency", "level", "words"), [
    (0.0, "error", "error", "there is no certificate"), (40 * DAY_S, "warning", "warning", "ends in 39 days"), (-1.0, "error", "error", "HAS EXPIRED"),
])
async def test_a_failure_is_logged_as_loud_as_it_is_urgent(tmp_path: Path, ends_in_s: float, urgency: str, level: str, words: str) -> None:
    async with serving(tmp_path) as running:
        now = clock.wall()
        record = Record(failures=4, error="no answer", next_try=now + 100)
        running.report(event="failed", urgency=urgency, record=record, ends_s=now + ends_in_s if ends_in_s else 0.0)
        event = next(one for one in running.events() if one["event"] == "certificate_failed")
        assert event["level"] == level and "no answer" in event["message"] and words in event["message"]
        assert running.value("relayd.certs.failures", domain="a.example") == 4
        assert running.service.describe()[0]["warning"] == "certificate of a.example: no answer"


async def test_a_fault_of_the_thread_is_logged(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        await until(lambda: any(one["event"] == "certificates_not_examined" for one in running.events()))  # its folder cannot be made


async def test_a_name_that_a_reload_removes_is_forgotten(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        running.report(record=Record(failures=1), ends_s=clock.wall() + 100)
        assert running.value("relayd.certs.failures", domain="a.example") == 1
        assert [listener for listener, _ in running.service.left_s()] == ["web"]
        running.commit("{acme: {domains: [b.example], email: a@b.example}}")
        running.report(record=Record(failures=2))
        assert running.value("relayd.certs.failures", domain="a.example") == 0
        assert running.service.left_s() == {}
        assert [one["domain"] for one in running.service.describe()] == ["b.example"]
        assert running.service.describe()[0]["warning"] == "certificate of b.example: not obtained yet"


async def test_what_is_renewed_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        assert running.service.renew("A.example") == running.service.renew() == ["a.example"]
        assert running.service.renew("other.example") == []


async def test_challenges_are_answered_only_with_acme(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        assert running.gateway.challenge_response is not None
        one = certificate(tmp_path, "files.example")
        running.commit(f"{{certificates: {{cert: {one.cert}, key: {one.key}}}}}")
        assert running.gateway.challenge_response is None


async def test_changed_files_come_into_use_with_their_expiry_and_broken_ones_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "LOOK_S", 0.02)
    one, other = certificate(tmp_path, "a.example"), certificate(tmp_path, "b.example")
    running = Running(tmp_path, f"{{certificates: {{cert: {one.cert}, key: {one.key}}}}}")
    timers = Timers(asyncio.get_running_loop())
    try:
        listener = running.changeover.listeners.active["web"]
        before = listener.context
        running.service.start(timers)
        Path(other.key).replace(one.key)
        await until(lambda: any(event["event"] == "certificate_refused" for event in running.events()))
        assert listener.context is before
        Path(other.cert).replace(one.cert)
        await until(lambda: listener.context is not before)
        assert [(found.kind, found.name, found.file) for found in running.changeover.expiries] == [("listener", "web", one.cert)]
        Path(one.cert).write_text("broken")
        again = listener.context
        await until(lambda: sum(event["event"] == "certificate_refused" for event in running.events()) > 1)
        assert listener.context is again
    finally:
        timers.close()
        running.close()
