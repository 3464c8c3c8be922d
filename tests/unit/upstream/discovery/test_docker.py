"""`discovery: {docker: ...}`: the contract, and what happens to containers, on a small engine; tests/functional has a
real one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relayd.plan.specs import endpoint_spec
from relayd.schema import Duration
from relayd.upstream.discovered import Tools
from relayd.upstream.discovery.docker import LEAST_RETRY_S
from relayd.upstream.transport.api_client import ApiRequests
from relayd.upstream.transport.client import StreamClient
from tests.unit.config.section_case import accepted, faults
from tests.unit.upstream.discovery.contract import TOOLS, Contract, Reports, Source
from tests.unit.upstream.discovery.engine import Engine, container

FIRST, SECOND = "http://172.17.0.2:8001", "http://172.17.0.3:8001"


TWO_PORTS = [
    {"IP": "::", "PrivatePort": 7, "PublicPort": 70, "Type": "tcp"}, {"IP": "0.0.0.0", "PrivatePort": 7, "PublicPort": 70, "Type": "tcp"},
    {"IP": "192.0.2.1", "PrivatePort": 9, "PublicPort": 90, "Type": "tcp"}, {"PrivatePort": 8, "Type": "tcp"},
]


class Containers(Source):
    urls = (FIRST, SECOND)

    def __init__(self, engine: Engine, tools: Tools) -> None:
        self.engine, self.tools = engine, tools

    def options(self) -> dict[str, Any]:
        return {"name": "backend.ai", "engine": f"unix:{self.engine.path}"}

    async def set(self, *urls: str) -> None:
        self.engine.broken = False
        self.engine.containers = [
            container(f"backend.ai.{number}", url.split("/")[2].split(":")[0]) for number, url in enumerate(urls)
        ]
        self.engine.say("start", "backend.ai.0", "new")

    async def fail(self) -> None:
        self.engine.broken = True
        self.engine.drop()


async def until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


class TestDocker(Contract):
    kind = "docker"

    @contextlib.asynccontextmanager
    async def source(self, folder: Path) -> AsyncIterator[Containers]:
        client: StreamClient = StreamClient(force_instance=True)
        requests = ApiRequests(client)
        tools = Tools(TOOLS.parse_endpoints, lambda url: requests.connect(endpoint_spec(url)))
        try:
            async with Engine(folder / "docker.sock") as engine:
                yield Containers(engine, tools)
        finally:
            requests.close()
            client.close()

    @contextlib.asynccontextmanager
    async def followed(self, folder: Path, *containers: Any, **options: Any) -> AsyncIterator[tuple[Engine, Reports]]:
        """A discovery that has listed these containers and follows the events."""
        async with self.source(folder) as source:
            source.engine.containers = list(containers)
            async with self.at_work(source, **options) as reports:
                await reports.until_count(1)
                yield source.engine, reports

    async def listed_again(self, engine: Engine, reports: Reports, event: Any) -> None:
        """Wait until the list that an event causes has been reported."""
        listings, seen = engine.listings, len(reports.seen)
        event()
        await reports.until_count(seen + 1)
        assert engine.listings > listings

    @pytest.mark.parametrize(("options", "change", "found"), [
        ({}, {}, True),
        ({}, {"Names": ["/backend.ai.1"]}, True),
        ({}, {"Names": ["/other/alias", "/backend.ai"]}, True),
        ({}, {"Names": ["/backend.ai.1.upcoming-42"]}, False),
        ({}, {"Names": ["/backend.ai.1700000000.old"]}, False),
        ({}, {"Names": ["/backendxai"]}, False),
        ({}, {"Names": ["/my-backend.ai"]}, False),
        ({"name": "backend.*"}, {"Names": ["/backend.ai.web"]}, True),
        ({"name": None, "label": ("relayd.upstream=chat",)}, {"Labels": {"relayd.upstream": "chat"}}, True),
        ({"name": None, "label": ("relayd.upstream=chat",)}, {"Labels": {"relayd.upstream": "chats"}}, False),
        ({"name": None, "label": ("a", "b=1")}, {"Labels": {"a": "", "b": "1", "c": "2"}}, True),
        ({"name": None, "label": ("a", "b=1")}, {"Labels": {"a": ""}}, False),
        ({"name": None, "service": "chat", "project": "ai"},
         {"Labels": {"com.docker.compose.service": "chat", "com.docker.compose.project": "ai"}}, True),
        ({"name": None, "service": "chat", "project": "ai"},
         {"Labels": {"com.docker.compose.service": "chat", "com.docker.compose.project": "ia"}}, False),
        ({"name": None, "service": "chat"}, {"Labels": {"com.docker.compose.service": "chat"}}, True),
        ({"label": ("a",)}, {"Labels": {}}, False),
    ])
    async def test_which_containers_are_meant(self, tmp_path: Path, options: Any, change: Any, found: bool) -> None:
        async with self.followed(tmp_path, container("backend.ai", **change), **options) as (_, reports):
            assert reports.found_last == ((FIRST,) if found else ())
            assert reports.notes[-1] == ("" if found else "no running container matches")

    @pytest.mark.parametrize(("options", "change", "result"), [
        ({"port": 9}, {}, "http://172.17.0.2:9"),
        ({"scheme": "https", "path": "/v1"}, {}, "https://172.17.0.2:8001/v1"),
        ({}, {"Ports": []}, "exposes no port: set port"),
        ({}, {"Ports": None}, "exposes no port: set port"),
        ({}, {"Ports": [{"PrivatePort": 1, "Type": "tcp"}, {"PrivatePort": 2, "Type": "tcp"}]}, "exposes several ports (1, 2)"),
        ({}, {"Ports": [{"PrivatePort": 7, "PublicPort": p, "IP": "0.0.0.0", "Type": "tcp"} for p in (1, 2)]}, "http://172.17.0.2:7"),
        ({}, {"Ports": [{"PrivatePort": 53, "Type": "udp"}, {"PrivatePort": 7, "Type": "tcp"}]}, "http://172.17.0.2:7"),
        ({}, {"NetworkSettings": {"Networks": {"a": {"IPAddress": "10.0.0.2"}, "b": {"IPAddress": "10.1.0.2"}}}}, "is in several networks (a, b): set network"),
        ({"network": "b"}, {"NetworkSettings": {"Networks": {"a": {"IPAddress": "10.0.0.2"}, "b": {"IPAddress": "10.1.0.2"}}}}, "http://10.1.0.2:8001"),
        ({"network": "c"}, {}, "has no address in the network c, only in: bridge"),
        ({}, {"NetworkSettings": {"Networks": {"six": {"IPAddress": "", "GlobalIPv6Address": "fd00::2"}}}}, "http://[fd00::2]:8001"),
        ({}, {"NetworkSettings": {"Networks": {"host": {"IPAddress": ""}}}}, "http://127.0.0.1:8001"),
        ({}, {"NetworkSettings": {}}, "has no address yet"),
        ({"address": "published"}, {"Ports": TWO_PORTS}, "publishes several ports (7, 9): set port"),
        ({"address": "published", "port": 7}, {"Ports": TWO_PORTS}, "http://127.0.0.1:70"),
        ({"address": "published", "port": 7, "host": "10.0.0.5"}, {"Ports": TWO_PORTS}, "http://10.0.0.5:70"),
        ({"address": "published", "port": 9, "host": "10.0.0.5"}, {"Ports": TWO_PORTS}, "http://192.0.2.1:90"),
        ({"address": "published", "port": 8}, {"Ports": TWO_PORTS}, "does not publish port 8"),
        ({"address": "published"}, {}, "publishes no port"),
        ({"address": "published"}, {"Ports": [{"IP": "::1", "PrivatePort": 7, "PublicPort": 70, "Type": "tcp"}]}, "http://[::1]:70"),
        ({"address": "published", "host": "fd00::5"}, {"Ports": [{"IP": "::", "PrivatePort": 7, "PublicPort": 70, "Type": "tcp"}]}, "http://[fd00::5]:70"),
        ({"address": "published"}, {"Ports": [{"PrivatePort": 7, "PublicPort": 70, "Type": "udp"}, {"PrivatePort": 8, "Type": "tcp"}]}, "publishes no port"),
        ({"address": "published"}, {"NetworkSettings": {"Networks": {"a": {"IPAddress": "10.0.0.2"}, "b": {"IPAddress": "10.1.0.2"}}}, "Ports": TWO_PORTS[:2]},
         "http://127.0.0.1:70"),
        ({"address": "published", "port": 7, "host": "10.0.0.5"}, {"NetworkSettings": {"Networks": {"host": {"IPAddress": ""}}}}, "http://10.0.0.5:7"),
        ({}, {"State": "paused", "Status": "Up 1 minute (Paused)"}, "is paused"),
        ({}, {"State": "restarting"}, "is restarting"),
        ({}, {"Status": "Up 1 second (health: starting)"}, "has not passed its health check yet"),
        ({}, {"Status": "Up 1 minute (unhealthy)"}, "is unhealthy"),
        ({}, {"Status": "Up 1 minute (healthy)", "NewField": {"a": [1]}}, FIRST),
    ])
    async def test_where_a_container_is_reached_or_why_not(self, tmp_path: Path, options: Any, change: Any, result: str) -> None:
        async with self.followed(tmp_path, container("backend.ai", **change), **options) as (_, reports):
            if result.startswith("http"):
                assert reports.found_last == (result,)
            else:
                assert reports.found_last == () and f"backend.ai {result}" in reports.notes[-1]

    @pytest.mark.parametrize(("action", "attributes"), [
        ("die", {"exitCode": "137"}), ("kill", {"signal": "9"}), ("kill", {"signal": "15"}), ("kill", {"signal": "SIGTERM"}),
        ("pause", {}), ("stop", {}), ("destroy", {}),
    ])
    async def test_the_end_of_a_container_removes_its_address_before_anything_is_listed(
        self, tmp_path: Path, action: str, attributes: dict[str, str]
    ) -> None:
        one = container("backend.ai")
        async with self.followed(tmp_path, one) as (engine, reports):
            engine.hold = asyncio.Event()  # the engine still lists it, and is slow
            engine.say(action, "backend.ai", one["Id"], **attributes)
            await reports.until_found()
            await engine.holding.wait()
            engine.hold.set()
            engine.hold = None
            engine.say("start", "backend.ai", "another")
            before = engine.listings
            await until(lambda: engine.listings > before)
            assert reports.found_last == (), "a listing from before its end does not bring it back"
            engine.say("start", "backend.ai", one["Id"])
            await reports.until_found(FIRST)

    async def test_a_new_container_or_start_at_the_same_address_is_another_endpoint_a_pause_is_not(self, tmp_path: Path) -> None:
        one, other = container("backend.ai"), container("backend.ai", Id="id-other")

        def known() -> tuple[str, str]:
            (address,) = reports.addresses
            return address.instance, address.run

        async with self.followed(tmp_path, one) as (engine, reports):
            first = known()
            for end, begin in (("pause", "unpause"), ("die", "start")):
                engine.say(end, "backend.ai", one["Id"])
                await reports.until_found()
                engine.say(begin, "backend.ai", one["Id"])
                await reports.until_found(FIRST)
                assert (known() == first) == (end == "pause") and known()[0] == first[0]
            engine.containers = [other]
            engine.say("die", "backend.ai", one["Id"])
            await reports.until_found()
            engine.say("start", "backend.ai", other["Id"])
            await reports.until_found(FIRST)
            assert known()[0] != first[0]

    async def test_a_container_that_dies_before_it_was_ever_reported_stays_away(self, tmp_path: Path) -> None:
        async with self.followed(tmp_path, container("backend.ai", Id="id-known")) as (engine, reports):
            one = container("backend.ai", "172.17.0.3")
            engine.containers, engine.hold = [one], asyncio.Event()
            engine.say("start", "backend.ai", one["Id"])
            await engine.holding.wait()
            engine.containers = []
            engine.say("die", "backend.ai", one["Id"])
            engine.say("die", "backend.ai", "id-known")
            await reports.until_found()  # so the event before was read, too
            seen = len(reports.seen)
            engine.hold.set()
            await reports.until_count(seen + 2)  # the listing that was held, and one after the events
            assert engine.listings == 3 and set(reports.seen) == {(FIRST,), ()}

    async def test_a_signal_that_does_not_end_a_container_changes_nothing(self, tmp_path: Path) -> None:
        one = container("backend.ai")
        async with self.followed(tmp_path, one) as (engine, reports):
            engine.say("kill", "backend.ai", one["Id"], signal="1")
            engine.say("exec_start: sh", "backend.ai", one["Id"])
            engine.say("start", "unrelated", "other")
            engine.send(b"no event\n[]\n{}\n")
            await self.listed_again(engine, reports, lambda: engine.say("health_status: healthy", "backend.ai", one["Id"]))
            assert set(reports.seen) == {(FIRST,)} and engine.listings == 2

    async def test_a_survivor_of_a_kill_returns_with_the_next_refresh(self, tmp_path: Path) -> None:
        one = container("backend.ai")
        async with self.followed(tmp_path, one, refresh=Duration(1)) as (engine, reports):
            engine.say("kill", "backend.ai", one["Id"], signal="15")
            await reports.until_found()
            await reports.until_found(FIRST)

    async def test_networks_that_come_and_go(self, tmp_path: Path) -> None:
        one = container("backend.ai")
        async with self.followed(tmp_path, one, network="blue") as (engine, reports):
            assert "no address in the network blue" in reports.notes[-1]
            one["NetworkSettings"]["Networks"]["blue"] = {"IPAddress": "10.0.0.9"}
            engine.say("connect", "blue", "network-1", kind="network", container=one["Id"])
            await reports.until_found("http://10.0.0.9:8001")
            engine.hold = asyncio.Event()
            del one["NetworkSettings"]["Networks"]["blue"]
            engine.say("disconnect", "blue", "network-1", kind="network", container=one["Id"])
            await reports.until_found()
            engine.hold.set()

    async def test_a_network_is_noticed_that_the_list_has_only_after_its_event(self, tmp_path: Path) -> None:
        one = container("backend.ai")
        async with self.followed(tmp_path, one) as (engine, reports):
            await self.listed_again(
                engine, reports, lambda: engine.say("connect", "blue", "network-1", kind="network", container=one["Id"]))
            assert reports.notes[-1] == ""
            one["NetworkSettings"]["Networks"]["blue"] = {"IPAddress": "10.1.0.2"}
            await until(lambda: "several networks (blue, bridge)" in reports.notes[-1])

    async def test_a_container_goes_on_that_the_list_shows_as_paused_after_its_event(self, tmp_path: Path) -> None:
        one = container("backend.ai", Status="Up 1 second (Paused)", State="paused")
        async with self.followed(tmp_path, one) as (engine, reports):
            await self.listed_again(engine, reports, lambda: engine.say("unpause", "backend.ai", one["Id"]))
            one |= container("backend.ai", Id=one["Id"])
            await reports.until_found(FIRST)

    async def test_a_rename_and_health_events_are_followed(self, tmp_path: Path) -> None:
        one = container("backend.ai.1.upcoming-5", Status="Up 1 second (health: starting)")
        async with self.followed(tmp_path, one) as (engine, reports):
            one["Names"] = ["/backend.ai.1"]
            await self.listed_again(
                engine, reports, lambda: engine.say("rename", "backend.ai.1", one["Id"], oldName="/backend.ai.1.upcoming-5"))
            assert reports.found_last == () and "health check" in reports.notes[-1]
            one["Status"] = "Up 2 seconds (healthy)"
            engine.say("health_status: healthy", "backend.ai.1", one["Id"])
            await reports.until_found(FIRST)
            one["Status"] = "Up 9 seconds (unhealthy)"
            engine.say("health_status: unhealthy", "backend.ai.1", one["Id"])
            await reports.until_found()

    async def test_an_address_that_is_missing_at_first_is_looked_for(self, tmp_path: Path) -> None:
        one = container("backend.ai", "")
        async with self.followed(tmp_path, one) as (_, reports):
            assert reports.notes[-1] == "backend.ai has no address yet"
            one["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] = "172.17.0.2"
            await reports.until_found(FIRST)

    async def test_events_lost_in_a_gap_are_listed_anew(self, tmp_path: Path) -> None:
        async with self.followed(tmp_path, container("backend.ai")) as (engine, reports):
            engine.containers = [container("backend.ai", "172.17.0.3")]
            engine.drop()
            assert "upstream_cut" in await reports.until_failed()
            await reports.until_found(SECOND)

    async def test_a_stream_that_is_silent_is_opened_again(self, tmp_path: Path) -> None:
        async with self.followed(tmp_path, container("backend.ai"), refresh=Duration(1)) as (engine, reports):
            engine.containers = [container("backend.ai", "172.17.0.3")]
            await reports.until_found(SECOND)
            await until(lambda: sum("/events" in one for one in engine.targets) > 1)
            assert all(isinstance(one, tuple) for one in reports.seen), "a silence is no fault"

    async def test_a_container_that_flaps_ten_times_a_second_costs_few_listings(self, tmp_path: Path) -> None:
        one = container("backend.ai")
        async with self.followed(tmp_path, one) as (engine, reports):
            began = time.monotonic()
            for number in range(300):
                engine.containers = [one] if number % 2 else []
                engine.say("start" if number % 2 else "die", "backend.ai", one["Id"])
                await asyncio.sleep(0.01)
            spans = max(1.0, (time.monotonic() - began) / 3)  # of three seconds, which the events take on an idle machine
            assert engine.listings < 60 * spans and len(reports.seen) < 120 * spans
            await reports.until_found(FIRST)

    async def test_a_hundred_thousand_events_at_once_keep_the_loop_free(self, tmp_path: Path) -> None:
        async with self.followed(tmp_path, container("backend.ai")) as (engine, _):
            event = json.dumps({"Type": "container", "Action": "start", "Actor": {"ID": "x", "Attributes": {"name": "other"}}})
            for _ in range(200):
                engine.send((event + "\n").encode() * 50)
            before, listings = time.thread_time(), engine.listings
            engine.say("start", "backend.ai", "x")  # behind all of them
            await until(lambda: engine.listings > listings)
            assert time.thread_time() - before < 2 and engine.listings == listings + 1

    @pytest.mark.parametrize(("answer", "fault"), [
        (b"{}", "not a list of containers"), (b"[", "not a list of containers"), (b"[" * 100_000, "not a list"),
        (b"[" + b" " * (8 << 20) + b"]", "larger than"),
    ])
    async def test_a_listing_that_is_none_is_a_fault(self, tmp_path: Path, answer: bytes, fault: str) -> None:
        async with self.followed(tmp_path, container("backend.ai")) as (engine, reports):
            engine.answer = answer
            engine.say("start", "backend.ai", "x")
            assert fault in await reports.until_failed()
            assert reports.found_last == (FIRST,)

    async def test_oddly_shaped_entries_are_tolerated(self, tmp_path: Path) -> None:
        odd = [None, 1, {}, {"Id": 5}, {"Id": "a", "Names": "b", "Labels": [], "Ports": {}, "NetworkSettings": [], "State": 1},
               {"Id": "c", "Names": ["/backend.ai"], "NetworkSettings": {"Networks": {"x": None}}, "State": "running"}]
        async with self.followed(tmp_path, *odd, container("backend.ai")) as (_, reports):
            assert reports.found_last == (FIRST,)

    async def test_a_large_host_is_listed_off_the_loop(self, tmp_path: Path) -> None:
        many = [container(f"backend.ai.{number}", f"172.18.{number // 250}.{number % 250}") for number in range(1000)]
        async with self.followed(tmp_path, *many) as (_, reports):
            assert len(reports.addresses) == 1000

    async def test_an_absent_socket_is_named_and_tried_again(self, tmp_path: Path) -> None:
        async with self.source(tmp_path) as source:
            source.engine.containers = [container("backend.ai")]
            there = f"unix:{tmp_path}/moved.sock"
            ((key, warning),) = self.made(source, engine=there).cautions()
            assert key == "engine" and "is Docker installed and running?" in warning
            async with self.at_work(source, engine=there) as reports:
                assert "there is no socket" in await reports.until_failed()
                os.rename(source.engine.path, tmp_path / "moved.sock")
                await reports.until_found(FIRST)
        assert LEAST_RETRY_S < 1

    async def test_the_engine_is_asked_only_for_these_containers(self, tmp_path: Path) -> None:
        async with self.followed(tmp_path, name="backend.ai*", label=("a=b c",), project="p", service="s") as (engine, _):
            assert all(target.startswith(("/events?filters=%7B", "/containers/json?filters=%7B")) for target in engine.targets)
            listing = next(target for target in engine.targets if "/containers" in target)
            for text in ("backend%5C%5C.ai", "a%3Db%20c", "com.docker.compose.project%3Dp", "com.docker.compose.service%3Ds", "running"):
                assert text in listing


def test_the_options_of_the_issue_and_their_faults() -> None:
    config, _ = accepted(upstreams="""{
      by-container: {discovery: {docker: {name: backend.ai, port: 8001, network: bridge}}},
      by-label: {discovery: {docker: {label: relayd.upstream=chat, port: 8001}}}}""")
    assert config.upstreams["by-label"].discovery.docker.label == ("relayd.upstream=chat",)  # type: ignore[union-attr]
    found = faults(upstreams="""{
      a: {discovery: {docker: {port: 1}}}, b: {discovery: {docker: {name: x, project: p}}},
      c: {discovery: {docker: {label: "=x"}}}, d: {discovery: {docker: {name: x, engine: /run/docker.sock}}},
      e: {discovery: {docker: {name: x, engine: "http://127.0.0.1:99999"}}},
      f: {discovery: {docker: {name: x, address: published, network: bridge}}}, g: {discovery: {docker: {name: x, host: 10.0.0.5}}}}""")
    assert list(found) == [
        "upstreams.a.discovery.docker", "upstreams.b.discovery.docker.project", "upstreams.c.discovery.docker.label[0]",
        "upstreams.d.discovery.docker.engine", "upstreams.e.discovery.docker.engine",
        "upstreams.f.discovery.docker.network", "upstreams.g.discovery.docker.host"]
