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
from relayd.daemon.changeover import Changeover, telemetry_settings, undo_all
from relayd.daemon.turns import at_once
from relayd.errors import ConfigError
from relayd.proxy.gateway import Gateway
from relayd.schema import Duration
from relayd.server.admin import AdminServer
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.sinks import prometheus, statsd
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient


class Site:
    """A gateway and its changeover; `served` records the admin servers passed to the lifecycle."""

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

    def apply(self, **change: Any) -> None:
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
    site = Site(folder)
    site.apply()
    plan = site.gateway.plan
    assert plan is not None
    assert plan.generation == 1
    assert plan.upstreams["up"].opened
    assert len(site.served) == 1
    assert sorted(os.listdir(folder)) == ["admin.sock", "public.sock"]
    site.close()
    assert os.listdir(folder) == []


async def test_resources_of_a_refused_configuration_are_closed(folder: Path) -> None:
    site = Site(folder)
    site.apply()
    plan, before = site.gateway.plan, descriptors()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ConfigError) as refused:
            site.apply(
                listeners={
                    "new": {"address": f"unix:{folder}/new.sock"},
                    "bad": {"address": f"127.0.0.1:{taken.getsockname()[1]}"},
                },
                upstreams={"other": {"endpoints": ["http://127.0.0.1:10"]}},
                routes=[{"name": "all", "upstream": "other"}],
            )
    assert refused.value.findings[0].file == str(folder / "relayd.yaml")
    assert site.gateway.plan is plan
    assert descriptors() == before
    assert sorted(os.listdir(folder)) == ["admin.sock", "public.sock"]
    site.close()


async def test_a_prepared_configuration_can_be_thrown_away(folder: Path) -> None:
    site = Site(folder)
    before = descriptors()
    prepared = site.changeover.prepare(site.loaded(), 1)
    assert prepared.admin is not None
    undo_all(prepared.undo)
    assert descriptors() <= before + 1  # the admin socket below
    prepared.admin.close()
    assert os.listdir(folder) == []
    site.close()


async def test_an_unchanged_upstream_stays_the_same_object(folder: Path) -> None:
    site = Site(folder)
    site.apply()
    assert site.gateway.plan is not None
    first = site.gateway.plan.upstreams["up"]
    site.apply(routes=[{"name": "other", "upstream": "up"}])
    assert site.gateway.plan.upstreams["up"] is first
    assert first.opened
    site.close()


async def test_a_changed_upstream_is_retired_with_the_last_exchange_of_the_old_plan(folder: Path) -> None:
    site = Site(folder)
    site.apply()
    assert site.gateway.plan is not None
    first = site.gateway.plan.upstreams["up"]
    site.apply(upstreams={"up": {"endpoints": ["http://127.0.0.1:9"], "http": "2"}})
    assert not first.opened
    assert site.gateway.plan.upstreams["up"].opened
    site.close()


async def test_other_endpoints_come_into_force_with_the_commit_and_not_before(folder: Path) -> None:
    site = Site(folder)
    site.apply()
    assert site.gateway.plan is not None
    group = site.gateway.plan.upstreams["up"]
    prepared = site.changeover.prepare(site.loaded(upstreams={"up": {"endpoints": ["http://127.0.0.1:11"]}}), 2)
    assert [one.label for one in group.endpoints] == ["127.0.0.1:9"]
    site.changeover.commit(prepared, site.served.append)
    assert site.gateway.plan.upstreams["up"] is group and group.opened
    assert [(one.label, one.pool is not None) for one in group.endpoints] == [("127.0.0.1:11", True)]
    site.close()


async def test_what_an_operator_does_while_a_reload_opens_its_upstreams_is_not_lost(folder: Path) -> None:
    site = Site(folder)
    site.apply()
    assert site.gateway.plan is not None
    old = site.gateway.plan.upstreams["up"]
    old.set_breaker("127.0.0.1:9", "open")
    changed = site.loaded(upstreams={"up": {"endpoints": ["http://127.0.0.1:9"], "http": "2"}})
    steps = site.changeover.open_steps(site.changeover.compile(changed, 2))
    next(steps)
    old.set_state("127.0.0.1:9", "disabled")
    site.changeover.commit(at_once(steps), site.served.append)
    (endpoint,) = site.gateway.plan.upstreams["up"].endpoints
    assert endpoint.breaker is not None
    assert (endpoint.state, endpoint.breaker.forced) == ("disabled", True)
    site.close()


async def test_opening_that_is_given_up_closes_what_is_open(folder: Path) -> None:
    site = Site(folder)
    before = descriptors()
    steps = site.changeover.open_steps(site.changeover.compile(site.loaded(), 1))
    next(steps)
    steps.close()
    assert descriptors() == before and os.listdir(folder) == []
    site.close()


async def test_a_reload_that_is_refused_leaves_the_endpoints_as_they_are(folder: Path) -> None:
    site = Site(folder)
    site.apply()
    assert site.gateway.plan is not None
    group = site.gateway.plan.upstreams["up"]
    before = group.describe()
    with pytest.raises(ConfigError):
        site.changeover.prepare(site.loaded(
            upstreams={"up": {"endpoints": ["http://127.0.0.1:11"]}},
            listeners={"public": {"address": "unix:/nowhere/at/all.sock"}},
        ), 2)
    assert group.describe() == before
    site.close()


async def test_the_demo_runs_only_when_a_route_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = folder / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    site = Site(folder)
    site.apply()
    assert os.listdir(runtime) == []
    site.apply(routes=[{"name": "all", "upstream": "demo"}])
    (name,) = os.listdir(runtime / "relayd")
    assert os.stat(runtime / "relayd" / name).st_mode & 0o777 == 0o600
    site.close()
    assert os.listdir(runtime / "relayd") == []


async def test_the_admin_socket_moves_when_its_address_changes(folder: Path) -> None:
    site = Site(folder)
    site.apply()
    site.apply(admin={"address": f"unix:{folder}/moved.sock"})
    assert [server.path for server in site.served] == [f"{folder}/admin.sock", f"{folder}/moved.sock"]
    assert sorted(os.listdir(folder)) == ["moved.sock", "public.sock"]
    site.close()


async def test_connections_are_bounded_by_the_descriptors_and_by_the_configuration(folder: Path) -> None:
    site = Site(folder)
    site.apply(daemon={"connections": 10})
    assert site.changeover.listeners.limit == 10
    site.apply(daemon={"connections": 5000})
    assert site.changeover.listeners.limit == 1000
    site.apply()
    assert site.changeover.listeners.limit == 1000
    site.close()


def test_telemetry_settings_contain_every_key_of_the_section() -> None:
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
