"""The gateway: exchanges on the current plan, refusals, the sweep."""

from __future__ import annotations

import json
from pathlib import Path

from relayd import clock
from relayd.errors import ExchangeError
from relayd.plan.compile import compile_plan
from relayd.server.listener import RejectedPeer
from tests.unit.proxy.fakes import Client, head_for, plan_of
from tests.unit.proxy.harness import Side, get, running, status_of, until


async def silent(side: Side) -> None:
    await side.message()
    await side.gone()


async def test_a_refusal_is_an_answer_and_an_account(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        answer = harness.gateway.refuse(RejectedPeer("public", "192.0.2.9"), ExchangeError("bad_request", "host"), clock.monotonic())
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n") and b"\r\nConnection: close" in head
        (record,) = await harness.accounted(1)
        assert json.loads(body)["request_id"] == record.id and f"X-Request-ID: {record.id}".encode() in head
        assert (record.peer, record.code, record.detail, record.outcome) == ("192.0.2.9", "bad_request", "host", "client.accept")


async def test_an_exchange_keeps_the_plan_it_began_with(tmp_path: Path) -> None:
    async with running(tmp_path, silent) as harness:
        side = await harness.connect()
        side.write(get())
        await until(lambda: harness.endpoint_sides)
        harness.gateway.plan = plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
routes: [{name: new, respond: {status: 200, body: new}}]
""")
        assert (await harness.ask(get()))[1] == b"new"
        (old,) = harness.gateway.exchanges
        assert old.plan is harness.plan
        harness.endpoint_sides[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold")
        assert (await side.message())[1] == b"old"
        await harness.accounted(2)


async def test_an_exchange_may_be_over_when_begin_returns(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        harness.gateway.plan = compile_plan(plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
routes: [{name: none, match: {path: /a}, respond: 204}]
""").config, 7)
        client = Client()
        client.exchange = exchange = harness.gateway.accept(
            client, head_for(start="GET /b HTTP/1.1"), None, clock.monotonic())
        harness.gateway.begin(exchange)
        assert exchange.is_over and client.status == 404 and not harness.gateway.exchanges
        assert (await harness.accounted(1))[0].generation == 7


async def test_the_sweep_looks_at_every_exchange(tmp_path: Path) -> None:
    async with running(tmp_path, silent, upstream="timeouts: {total: 10ms}") as harness:
        sides = [await harness.connect() for _ in range(3)]
        for side in sides:
            side.write(get())
        await until(lambda: len(harness.gateway.exchanges) == 3)
        await until(lambda: all(one.age_s() > 0.01 for one in harness.gateway.exchanges))
        harness.gateway.sweep()
        assert [status_of((await side.message())[0]) for side in sides] == [504] * 3
        await harness.accounted(3)


async def test_without_an_admin_application_its_routes_say_so(tmp_path: Path) -> None:
    async with running(tmp_path, before="{name: inside, match: {prefix: /in/}, upstream: admin, admin_prefix: /in},") as harness:
        assert status_of((await harness.ask(get("/in/status")))[0]) == 503
        await harness.accounted(1)


async def test_what_is_put_off_to_the_next_turn_shares_it_and_may_be_taken_back(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        done: list[str] = []
        harness.gateway.client.work.put(lambda: done.append("other work"))
        harness.gateway.call_later(0.0, lambda: done.append("first"))
        harness.gateway.call_later(0.0, lambda: done.append("taken back"))()
        harness.gateway.call_later(0.0, lambda: done.append("last"))
        await until(lambda: "last" in done)
        assert done == ["other work", "first", "last"]
