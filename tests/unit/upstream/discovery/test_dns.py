"""`discovery: {dns: ...}`: the contract, and answers of every kind from a real name server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("dns", reason="dnspython is not installed")

from relayd import clock
from relayd.schema import Duration
from relayd.upstream.discovered import Address
from relayd.upstream.discovery.dns import Options, server_of
from tests.aids.name_server import NameServer, unused_udp_port
from tests.unit.config.section_case import accepted, faults
from tests.unit.upstream.discovery.contract import Contract, Source

NAME = "backend.internal"


class Name(Source):
    urls = ("http://127.0.0.1:8001", "http://127.0.0.2:8001")

    def __init__(self, server: NameServer) -> None:
        self.server = server

    def options(self) -> dict[str, Any]:
        short = Duration(0.05)
        return {
            "name": NAME, "port": 8001, "servers": (self.server.address,), "min_ttl": short, "max_ttl": short,
            "timeout": Duration(0.5),
        }

    async def set(self, *urls: str) -> None:
        self.server.set(NAME, "A", *(url.split("/")[2].split(":")[0] for url in urls))

    async def fail(self) -> None:
        self.server.records[NAME, "A"] = "SERVFAIL"


class TestDns(Contract):
    kind = "dns"

    @contextlib.asynccontextmanager
    async def source(self, folder: Any) -> AsyncIterator[Name]:
        with NameServer() as server:
            yield Name(server)

    async def test_aaaa_and_a_base_path(self, tmp_path: Any) -> None:
        async with self.source(tmp_path) as source:
            source.server.set(NAME, "AAAA", "fd00::2", "fd00::1")
            async with self.at_work(source, type="AAAA", scheme="https", path="/v1") as reports:
                await reports.until_count(1)
                assert reports.seen[0] == ("https://[fd00::1]:8001/v1", "https://[fd00::2]:8001/v1")

    async def test_srv_has_ports_weights_and_priorities(self, tmp_path: Any) -> None:
        async with self.source(tmp_path) as source:
            server = source.server
            server.set("_ai._tcp." + NAME, "SRV", "10 60 8001 one.internal.", "10 0 8002 two.internal.", "20 5 9 six.internal.")
            server.set("one.internal", "A", "10.0.0.1", "10.0.0.11")
            server.set("two.internal", "A", "10.0.0.2")
            server.set("six.internal", "AAAA", "fd00::6")
            async with self.at_work(source, name="_ai._tcp." + NAME, type="SRV", port=None) as reports:
                await reports.until_count(1)
                assert reports.addresses == (
                    Address("http://10.0.0.2:8002", 1, 0), Address("http://10.0.0.1:8001", 60, 0),
                    Address("http://10.0.0.11:8001", 60, 0), Address("http://[fd00::6]:9", 5, 1),
                )
                server.set("_ai._tcp." + NAME, "SRV", "0 0 0 .")
                await reports.until_found()
                server.set("_ai._tcp." + NAME, "SRV", "1 65535 1 one.internal.", "1 1 1 two.internal.")
                await reports.until_found("http://10.0.0.1:1", "http://10.0.0.11:1", "http://10.0.0.2:1")
                assert max(one.weight for one in reports.addresses) == 1000

    async def test_a_target_without_a_name_is_left_out_and_named(self, tmp_path: Any) -> None:
        async with self.source(tmp_path) as source:
            server = source.server
            server.set("_ai._tcp." + NAME, "SRV", "1 1 1 one.internal.", "1 1 1 gone.internal.")
            server.set("one.internal", "A", "10.0.0.1")
            async with self.at_work(source, name="_ai._tcp." + NAME, type="SRV", port=None) as reports:
                await reports.until_found("http://10.0.0.1:1")
                assert "NXDOMAIN for gone.internal" in reports.notes[-1]
                del server.records["one.internal", "A"]
                await reports.until_failed("NXDOMAIN")
                assert reports.found_last == ("http://10.0.0.1:1",)

    async def test_an_alias_is_followed(self, tmp_path: Any) -> None:
        async with self.source(tmp_path) as source:
            source.server.cnames[NAME] = "real.internal"
            source.server.set("real.internal", "A", "127.0.0.9")
            async with self.at_work(source) as reports:
                await reports.until_found("http://127.0.0.9:8001")

    async def test_a_thousand_records_come_by_tcp(self, tmp_path: Any) -> None:
        async with self.source(tmp_path) as source:
            source.server.set(NAME, "A", *(f"10.0.{one // 250}.{one % 250}" for one in range(1000)))
            async with self.at_work(source) as reports:
                while isinstance(reports.seen[-1], str) if reports.seen else True:  # a busy machine may answer late at first
                    await reports.until_count(len(reports.seen) + 1)
                hosts = [url.split("/")[2] for url in reports.seen[-1]]
                assert len(set(hosts)) == 1000 and [one.partition(":")[0] for one in hosts] == sorted(
                    one.partition(":")[0] for one in hosts)

    @pytest.mark.parametrize(("answer", "reason"), [
        ("NXDOMAIN", "answers NXDOMAIN for backend.internal A"), ("SERVFAIL", "answers SERVFAIL"),
        ("REFUSED", "answers REFUSED"), ("", "answers no record for"),
    ])
    async def test_each_failure_is_named_and_expires_after_keep(
        self, tmp_path: Any, answer: str, reason: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with self.source(tmp_path) as source:
            await source.set(source.urls[0])
            async with self.at_work(source, keep=Duration(300)) as reports:
                await reports.until_found(source.urls[0])
                source.server.records[NAME, "A"] = answer or []
                assert reason in await reports.until_failed()
                assert reports.found_last == (source.urls[0],)
                now_s = clock.monotonic()
                monkeypatch.setattr(clock, "monotonic", lambda: now_s + 301)
                await reports.until_found()

    async def test_a_silent_and_a_dead_server_are_passed_over(self, tmp_path: Any) -> None:
        async with self.source(tmp_path) as source:
            await source.set(source.urls[0])
            with NameServer() as silent, NameServer() as confused:
                silent.silent = confused.garbage = True
                dead = f"127.0.0.1:{unused_udp_port()}"
                servers = (dead, silent.address, confused.address)
                async with self.at_work(source, servers=(*servers, source.server.address)) as reports:
                    await reports.until_found(source.urls[0])
                async with self.at_work(source, servers=servers) as reports:
                    why = await reports.until_failed()
                    assert f"{silent.address} has not answered for 0.5 s" in why
                    assert f"{dead} " in why and f"{confused.address} cannot be asked" in why

    async def test_the_time_to_live_counts_within_its_bounds(self, tmp_path: Any) -> None:
        async with self.source(tmp_path) as source:
            await source.set(source.urls[0])
            for ttl, pause in ((0, 2.0), (5, 5.0), (600, 7.0)):
                source.server.ttl = ttl
                async with self.at_work(source, min_ttl=Duration(2), max_ttl=Duration(7)) as reports:
                    await reports.until_count(1)
                    assert reports.pauses == [pause]

    async def test_a_name_is_absolute(self, tmp_path: Any) -> None:
        async with self.source(tmp_path) as source:
            source.server.set("backend", "A", "127.0.0.7")
            async with self.at_work(source, name="backend") as reports:
                await reports.until_found("http://127.0.0.7:8001")
            assert set(source.server.asked) == {"backend A"}


@pytest.mark.parametrize(("text", "server"), [
    ("127.0.0.1:5353", ("127.0.0.1", 5353)), ("10.0.0.1", ("10.0.0.1", 53)), ("::1", ("::1", 53)),
    ("[::1]", ("::1", 53)), ("[::1]:5353", ("::1", 5353)), ("ns.example", None), ("10.0.0.1:0", None),
    ("10.0.0.1:99999", None), ("", None), ("10.0.0.1:x", None),
])
def test_servers_are_addresses(text: str, server: tuple[str, int] | None) -> None:
    assert server_of(text) == server


def test_the_options_of_the_issue_and_their_faults() -> None:
    config, _ = accepted(upstreams="""{
      by-name: {discovery: {dns: {name: backend.internal, port: 8001}}},
      by-service: {discovery: {dns: {name: _ai._tcp.backend.internal, type: SRV, servers: ["127.0.0.1:5353"]}}}}""")
    assert config.upstreams["by-name"].discovery.dns == Options(name="backend.internal", port=8001)  # type: ignore[union-attr]
    found = faults(upstreams="""{
      a: {discovery: {dns: {name: a.b}}}, b: {discovery: {dns: {name: a.b, type: SRV, port: 1}}},
      c: {discovery: {dns: {name: "a b", port: 1}}}, d: {discovery: {dns: {name: a, port: 1, servers: [ns.example]}}},
      e: {discovery: {dns: {name: a, port: 1, min_ttl: 10s, max_ttl: 5s}}}}""")
    assert list(found) == [
        "upstreams.a.discovery.dns.port", "upstreams.b.discovery.dns.port", "upstreams.c.discovery.dns.name",
        "upstreams.d.discovery.dns.servers[0]", "upstreams.e.discovery.dns.max_ttl"]
