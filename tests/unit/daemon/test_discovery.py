"""The discoveries of the plans: started, kept and ended, and what they find applied."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.config.load import load_text
from relayd.config.model import Config
from relayd.daemon.discovery import DiscoveryService
from relayd.daemon.endpoint_lists import CHECKED, parse_endpoints
from relayd.daemon.timers import Timers
from relayd.plan.compile import compile_plan
from relayd.plan.plan import Plan
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.discovered import LookupFault
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.upstream import Upstream


class Scene:
    """A service with a plan that has one discovered upstream."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, io.StringIO()
        settings = TelemetrySettings(access_format="off", log_format="json")
        self.telemetry = Telemetry.build(settings, self.log)
        self.client: StreamClient = StreamClient(force_instance=True)
        self.service = DiscoveryService(self.client, self.telemetry)
        self.timers = Timers(asyncio.get_running_loop())
        self.plan: Plan | None = None

    def set(self, *urls: str, name: str = "a") -> None:
        beside = self.folder / "new"
        beside.write_text(json.dumps(urls))
        os.rename(beside, self.folder / name)

    def config(self, upstream: str = "", name: str = "a", kind: str = "") -> Config:
        """A configuration; `name` of the file, `upstream` further keys, `kind` another discovery."""
        section = f"{{discovery: {{{kind or f'file: {{path: {self.folder}/{name}, interval: 100ms}}'}}}, {upstream}}}"
        text = f"listeners: {{p: {{address: '127.0.0.1:1'}}}}\nupstreams: {{u: {section}}}\nroutes: [{{name: all, upstream: u}}]"
        return load_text(text, "relayd.yaml").config

    def commit(self, upstream: str = "", name: str = "a", generation: int = 1, kind: str = "") -> Upstream:
        """Put a plan into force."""
        self.plan = compile_plan(self.config(upstream, name, kind), generation, self.plan)
        for one in self.plan.upstreams.values():
            one.open(self.client.connect)
        self.service.commit(self.plan)
        return self.plan.upstreams["u"]

    def events(self, name: str) -> list[dict[str, object]]:
        found = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [one for one in found if one["event"] == name]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[list[Scene]]:
    made: list[Scene] = []
    yield made
    for one in made:
        one.service.close()
        for upstream in one.plan.upstreams.values() if one.plan is not None else ():
            upstream.close()
        one.client.close()
        one.telemetry.close()


async def until(holds: object) -> None:
    async with asyncio.timeout(20):
        while not holds():  # type: ignore[operator]
            await asyncio.sleep(0.01)


def labels(upstream: Upstream) -> list[str]:
    return [one.label for one in upstream.endpoints]


async def test_a_plan_starts_a_discovery_and_a_reload_keeps_it(tmp_path: Path, scene: list[Scene]) -> None:
    one = Scene(tmp_path)
    scene.append(one)
    one.set("http://127.0.0.1:1", "http://127.0.0.2:1")
    upstream = one.commit()
    assert labels(upstream) == [] and "no endpoint is known yet: file" in upstream.unavailable()[0]
    one.service.start(one.timers)
    await until(lambda: len(upstream.endpoints) == 2)
    assert one.commit(generation=2) is upstream and len(upstream.endpoints) == 2
    other = one.commit("timeouts: {idle: 9s}", generation=3)
    assert other is not upstream and labels(other) == labels(upstream)
    one.set("http://127.0.0.3:1")
    await until(lambda: labels(other) == ["127.0.0.3:1"])
    assert labels(upstream) == ["127.0.0.3:1"], "an upstream of an old plan follows while it is open"
    one.service.gauges()
    assert one.telemetry.metrics.value("relayd.discovery.endpoints", upstream="u") == 1
    assert one.telemetry.metrics.value("relayd.discovery.changes", upstream="u") == 2
    upstream.close()


async def test_the_age_of_a_file_that_does_not_change_stays_small(tmp_path: Path, scene: list[Scene]) -> None:
    scene.append(one := Scene(tmp_path))
    one.set("http://127.0.0.1:9001")
    u = one.commit()
    await until(lambda: labels(u) == ["127.0.0.1:9001"])
    assert u.discovered is not None
    found_s = u.discovered.found_s
    await until(lambda: u.discovered is not None and u.discovered.found_s != found_s)
    assert u.discovered.changes == 1


async def test_other_options_are_another_discovery_and_the_addresses_stay_until_it_has_succeeded(
    tmp_path: Path, scene: list[Scene]
) -> None:
    one = Scene(tmp_path)
    scene.append(one)
    one.set("http://127.0.0.1:1")
    one.service.start(one.timers)
    upstream = one.commit()
    await until(lambda: labels(upstream))
    one.set("http://127.0.0.2:1", name="b")
    other = one.commit(name="b", generation=2)
    assert labels(other) == ["127.0.0.1:1"], "in force until the new source has answered"
    await until(lambda: labels(other) == ["127.0.0.2:1"])
    last = one.commit(name="c", generation=3)
    await until(lambda: one.events("discovery_failed"))
    described = last.describe()["discovery"]
    assert isinstance(described, dict) and described["failures"] >= 1 and described["age_s"] is None
    assert "No such file" in described["fault"] and labels(last) == ["127.0.0.2:1"]
    (event, *_) = one.events("discovery_failed")
    assert event["upstream"] == "u" and event["source"] == f"file {tmp_path}/c"
    one.set("http://127.0.0.3:1", name="c")
    await until(lambda: labels(last) == ["127.0.0.3:1"])


async def test_an_invalid_address_and_too_many_are_left_out_with_a_note(tmp_path: Path, scene: list[Scene]) -> None:
    one = Scene(tmp_path)
    scene.append(one)
    one.set(*(f"http://127.0.0.1:{port}" for port in range(1, 101)))
    one.service.start(one.timers)
    upstream = one.commit()
    await until(lambda: len(upstream.endpoints) == 64)
    (event,) = one.events("discovery_note")
    assert "of 100 addresses the first 64" in str(event["message"])


async def test_a_discovery_that_raises_is_reported_and_started_again(
    tmp_path: Path, scene: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Scene(tmp_path)
    scene.append(one)
    monkeypatch.setattr("relayd.daemon.discovery.RESTART_S", 0.01)
    upstream = one.commit()
    running = one.service._running["u"]
    whole, calls = running._kind.run, []

    async def run(report: object) -> None:
        calls.append(report)
        if len(calls) == 1:
            raise RuntimeError("broken")
        await whole(running)

    monkeypatch.setattr(running._kind, "run", run)
    one.set("http://127.0.0.1:1")
    one.service.start(one.timers)
    await until(lambda: labels(upstream))
    assert one.events("discovery_failed")[0]["why"] == "internal fault: RuntimeError"


async def test_a_configuration_is_prepared_with_its_first_answers_or_discarded(tmp_path: Path, scene: list[Scene]) -> None:
    one = Scene(tmp_path)
    scene.append(one)
    one.set("http://127.0.0.1:1")
    await one.service.prepare(one.config())
    upstream = one.commit()
    assert labels(upstream) == ["127.0.0.1:1"] and not one.service._prepared
    assert one.events("endpoints_changed") == [] and upstream.discovered is not None and upstream.discovered.changes == 1
    before = asyncio.all_tasks()
    await one.service.prepare(one.config())
    assert asyncio.all_tasks() == before, "what is at work already is not started again"
    await one.service.prepare(one.config(name="b"))
    assert len(asyncio.all_tasks()) == len(before) + 1
    one.service.discard()
    await until(lambda: asyncio.all_tasks() == before)
    await one.service.prepare(one.config(name="c"))
    other = one.commit(name="c", generation=2)
    assert other.discovered is not None and other.discovered.fault
    assert labels(other) == ["127.0.0.1:1"], "the first lookup of the other source has failed"


async def test_a_silent_source_delays_nothing_for_long(tmp_path: Path, scene: list[Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    one = Scene(tmp_path)
    scene.append(one)
    monkeypatch.setattr("relayd.daemon.discovery.FIRST_ANSWERS_S", 0.05)
    kind = "command: {argv: [/bin/sleep, '60'], timeout: 60s}"
    await asyncio.wait_for(one.service.prepare(one.config(kind=kind)), 10)
    assert not labels(one.commit(kind=kind))


async def test_a_fault_that_comes_and_goes_is_logged_with_its_end_once_in_a_while(tmp_path: Path, scene: list[Scene]) -> None:
    one = Scene(tmp_path)
    scene.append(one)
    one.set("http://127.0.0.1:1")
    one.commit()
    running = one.service._running["u"]
    await asyncio.wait_for(running.answered.wait(), 5)
    for reason in ("NXDOMAIN", "NXDOMAIN", "NXDOMAIN", "SERVFAIL"):
        running.failed(reason)
        running.found(())
    assert [event["why"] for event in one.events("discovery_failed")] == ["NXDOMAIN", "SERVFAIL"]
    assert len(one.events("discovery_recovered")) == 2


def test_a_file_with_faults_names_the_first() -> None:
    with pytest.raises(LookupFault, match=r"a:1:3: .*\(and 1 more\)"):
        parse_endpoints(b"- ftp://a\n- gopher://b\n", "a")


def test_a_check_connects_to_nothing() -> None:
    with pytest.raises(LookupFault):
        CHECKED.connect("unix:/run/docker.sock")
