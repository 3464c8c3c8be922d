"""The gateway: exchanges on the plan of the moment, refusals, the sweep."""

from __future__ import annotations

import json
from pathlib import Path

from relayd import clock
from relayd.errors import ExchangeError
from relayd.plan.compile import compile_plan
from relayd.server.listener import RejectedPeer
from tests.unit.proxy.house import Side, get, running, status_of, until
from tests.unit.proxy.scene import Client, head_for, plan_of


async def silent(side: Side) -> None:
    await side.message()
    await side.gone()


async def test_a_refusal_is_an_answer_and_an_account(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        answer = house.gateway.refuse(RejectedPeer("public", "192.0.2.9"), ExchangeError("bad_request", "host"), clock.monotonic())
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n") and b"\r\nConnection: close" in head
        (record,) = await house.accounted(1)
        assert json.loads(body)["request_id"] == record.id and f"X-Request-ID: {record.id}".encode() in head
        assert (record.peer, record.code, record.detail, record.outcome) == ("192.0.2.9", "bad_request", "host", "client.accept")


async def test_an_exchange_keeps_the_plan_it_began_with(tmp_path: Path) -> None:
    async with running(tmp_path, silent) as house:
        side = await house.connect()
        side.write(get())
        await until(lambda: house.endpoint_sides)
        house.gateway.plan = plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
routes: [{name: new, respond: {status: 200, body: new}}]
""")
        assert (await house.ask(get()))[1] == b"new"
        (old,) = house.gateway.exchanges
        assert old.plan is house.plan
        house.endpoint_sides[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold")
        assert (await side.message())[1] == b"old"
        await house.accounted(2)


async def test_an_exchange_may_be_over_when_begin_returns(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        house.gateway.plan = compile_plan(plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
routes: [{name: none, match: {path: /a}, respond: 204}]
""").config, 7)
        client = Client()
        client.exchange = exchange = house.gateway.accept(
            client, head_for(start="GET /b HTTP/1.1"), None, clock.monotonic())
        house.gateway.begin(exchange)
        assert exchange.over and client.status == 404 and not house.gateway.exchanges
        assert (await house.accounted(1))[0].generation == 7


async def test_the_sweep_looks_at_every_exchange(tmp_path: Path) -> None:
    async with running(tmp_path, silent, upstream="timeouts: {total: 10ms}") as house:
        sides = [await house.connect() for _ in range(3)]
        for side in sides:
            side.write(get())
        await until(lambda: len(house.gateway.exchanges) == 3)
        await until(lambda: all(one.age_s() > 0.01 for one in house.gateway.exchanges))
        house.gateway.sweep()
        assert [status_of((await side.message())[0]) for side in sides] == [504] * 3
        await house.accounted(3)


async def test_without_an_admin_application_its_routes_say_so(tmp_path: Path) -> None:
    async with running(tmp_path, before="{name: inside, match: {prefix: /in/}, upstream: admin, admin_prefix: /in},") as house:
        assert status_of((await house.ask(get("/in/status")))[0]) == 503
        await house.accounted(1)


async def test_what_is_put_off_to_the_next_turn_shares_it_and_may_be_taken_back(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        done: list[str] = []
        house.gateway.client.work.put(lambda: done.append("other work"))
        house.gateway.later(0.0, lambda: done.append("first"))
        house.gateway.later(0.0, lambda: done.append("taken back"))()
        house.gateway.later(0.0, lambda: done.append("last"))
        await until(lambda: "last" in done)
        assert done == ["other work", "first", "last"]
