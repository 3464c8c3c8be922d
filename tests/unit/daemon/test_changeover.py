"""Preparing, undoing and committing a configuration, with real sockets and nothing in between."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.config.load import Loaded, load_text
from relayd.daemon.changeover import Changeover, telemetry_settings, undone
from relayd.errors import ConfigError
from relayd.proxy.gateway import Gateway
from relayd.schema import Duration
from relayd.server.admin import AdminServer
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.sinks import prometheus, statsd
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient


class House:
    """A gateway and its changeover; `serve` is what the lifecycle does with a new admin socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.telemetry = Telemetry.build(TelemetrySettings(access_format="off", log_format="text"), io.StringIO())
        self.client = StreamClient(force_instance=True)
        self.gateway = Gateway(self.client, self.telemetry)
        self.changeover = Changeover(self.gateway, self.telemetry, {}, 1000)
        self.served: list[AdminServer] = []
        self.generation = 0

    def loaded(self, **change: Any) -> Loaded:
        base: dict[str, Any] = {
            "listeners": {"public": {"address": f"unix:{self.folder}/public.sock"}},
            "admin": {"address": f"unix:{self.folder}/admin.sock"},
            "upstreams": {"up": {"endpoints": ["http://127.0.0.1:9"]}},
            "routes": [{"name": "all", "upstream": "up"}],
            "telemetry": {"access_log": {"format": "off"}},
        }
        return load_text(json.dumps({**base, **change}), str(self.folder / "relayd.yaml"))

    def take(self, **change: Any) -> None:
        self.generation += 1
        prepared = self.changeover.prepare(self.loaded(**change), self.generation)
        self.changeover.commit(prepared, self.served.append)

    def close(self) -> None:
        self.changeover.listeners.abort_all()
        self.changeover.close()
        self.client.close()
        self.telemetry.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_commit_puts_everything_in_force(folder: Path) -> None:
    house = House(folder)
    house.take()
    plan = house.gateway.plan
    assert plan is not None
    assert plan.generation == 1
    assert plan.upstreams["up"].opened
    assert len(house.served) == 1
    assert sorted(os.listdir(folder)) == ["admin.sock", "public.sock"]
    house.close()
    assert os.listdir(folder) == []


async def test_what_a_refused_configuration_opened_is_closed_again(folder: Path) -> None:
    house = House(folder)
    house.take()
    plan, before = house.gateway.plan, descriptors()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ConfigError) as refused:
            house.take(
                listeners={
                    "new": {"address": f"unix:{folder}/new.sock"},
                    "bad": {"address": f"127.0.0.1:{taken.getsockname()[1]}"},
                },
                upstreams={"other": {"endpoints": ["http://127.0.0.1:10"]}},
                routes=[{"name": "all", "upstream": "other"}],
            )
    assert refused.value.findings[0].file == str(folder / "relayd.yaml")
    assert house.gateway.plan is plan
    assert descriptors() == before
    assert sorted(os.listdir(folder)) == ["admin.sock", "public.sock"]
    house.close()


async def test_a_prepared_configuration_can_be_thrown_away(folder: Path) -> None:
    house = House(folder)
    before = descriptors()
    prepared = house.changeover.prepare(house.loaded(), 1)
    assert prepared.admin is not None
    undone(prepared.undo)
    assert descriptors() <= before + 1  # the admin socket below
    prepared.admin.close()
    assert os.listdir(folder) == []
    house.close()


async def test_an_unchanged_upstream_stays_the_same_object(folder: Path) -> None:
    house = House(folder)
    house.take()
    assert house.gateway.plan is not None
    first = house.gateway.plan.upstreams["up"]
    house.take(routes=[{"name": "other", "upstream": "up"}])
    assert house.gateway.plan.upstreams["up"] is first
    assert first.opened
    house.close()


async def test_a_changed_upstream_is_retired_when_nobody_is_left_on_the_old_plan(folder: Path) -> None:
    house = House(folder)
    house.take()
    assert house.gateway.plan is not None
    first = house.gateway.plan.upstreams["up"]
    house.take(upstreams={"up": {"endpoints": ["http://127.0.0.1:9"], "http": "2"}})
    assert not first.opened
    assert house.gateway.plan.upstreams["up"].opened
    house.close()


async def test_other_endpoints_come_into_force_with_the_commit_and_not_before(folder: Path) -> None:
    house = House(folder)
    house.take()
    assert house.gateway.plan is not None
    group = house.gateway.plan.upstreams["up"]
    prepared = house.changeover.prepare(house.loaded(upstreams={"up": {"endpoints": ["http://127.0.0.1:11"]}}), 2)
    assert [one.label for one in group.endpoints] == ["127.0.0.1:9"]
    house.changeover.commit(prepared, house.served.append)
    assert house.gateway.plan.upstreams["up"] is group and group.opened
    assert [(one.label, one.pool is not None) for one in group.endpoints] == [("127.0.0.1:11", True)]
    house.close()


async def test_a_reload_that_is_refused_leaves_the_endpoints_as_they_are(folder: Path) -> None:
    house = House(folder)
    house.take()
    assert house.gateway.plan is not None
    group = house.gateway.plan.upstreams["up"]
    before = group.describe()
    with pytest.raises(ConfigError):
        house.changeover.prepare(house.loaded(
            upstreams={"up": {"endpoints": ["http://127.0.0.1:11"]}},
            listeners={"public": {"address": "unix:/nowhere/at/all.sock"}},
        ), 2)
    assert group.describe() == before
    house.close()


async def test_the_demo_runs_only_when_a_route_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = folder / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    house = House(folder)
    house.take()
    assert os.listdir(runtime) == []
    house.take(routes=[{"name": "all", "upstream": "demo"}])
    (name,) = os.listdir(runtime / "relayd")
    assert os.stat(runtime / "relayd" / name).st_mode & 0o777 == 0o600
    house.close()
    assert os.listdir(runtime / "relayd") == []


async def test_the_admin_socket_moves_when_its_address_changes(folder: Path) -> None:
    house = House(folder)
    house.take()
    house.take(admin={"address": f"unix:{folder}/moved.sock"})
    assert [server.path for server in house.served] == [f"{folder}/admin.sock", f"{folder}/moved.sock"]
    assert sorted(os.listdir(folder)) == ["moved.sock", "public.sock"]
    house.close()


async def test_connections_are_bounded_by_the_descriptors_and_by_the_configuration(folder: Path) -> None:
    house = House(folder)
    house.take(daemon={"connections": 10})
    assert house.changeover.listeners.limit == 10
    house.take(daemon={"connections": 5000})
    assert house.changeover.listeners.limit == 1000
    house.take()
    assert house.changeover.listeners.limit == 1000
    house.close()


def test_telemetry_is_told_every_key_of_its_section() -> None:
    text = """
listeners: {a: {address: "127.0.0.1:1"}}
telemetry:
  access_log: {format: json, file: /tmp/x.log, query: true}
  log: {level: debug, format: json}
  statsd: {address: "127.0.0.1:8125", prefix: p, interval: 2s, tags: true}
  prometheus: {enabled: false}
"""
    assert telemetry_settings(load_text(text, "relayd.yaml").config) == TelemetrySettings(
        access_format="json", access_file="/tmp/x.log", access_query=True, log_format="json", log_level="debug",
        sinks={
            "statsd": statsd.Options(address="127.0.0.1:8125", prefix="p", interval=Duration(2), tags=True),
            "prometheus": prometheus.Options(enabled=False),
        },
    )
