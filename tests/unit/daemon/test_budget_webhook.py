"""Warnings of budgets as HTTP requests, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relayd.config.load import load_text
from relayd.daemon import budget_webhook
from relayd.daemon.budget_webhook import BudgetWebhook
from relayd.plan.compile import compile_plan
from relayd.plan.plan import Plan
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient
from tests.unit.proxy.harness import until

OK = b"HTTP/1.1 204 No Content\r\n\r\n"
WARNING = {"model": "", "value": "", "scope": "consumer team", "measure": "cost", "per": "day", "used": "4.1", "limit": "5", "share": 0.8}
TOKEN = "bearer-of-the-webhook"


class Scene:
    """A webhook, and a server that answers each request with the next of `answers`, then with 204; None closes the
    connection without an answer. `got` has what it received; `head` is the last head."""

    def __init__(self) -> None:
        self.log = io.StringIO()
        self.telemetry = Telemetry.build(TelemetrySettings(access_format="off", log_format="json"), self.log)
        self.client: StreamClient = StreamClient(force_instance=True)
        self.webhook = BudgetWebhook(self.client, self.telemetry)
        self.answers: list[bytes | None] = []
        self.got: asyncio.Queue[Any] = asyncio.Queue()
        self.head = b""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.head = await reader.readuntil(b"\r\n\r\n")
                length = int(self.head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                answer = self.answers.pop(0) if self.answers else OK
                self.got.put_nowait(json.loads(body))
                if answer is None:
                    break
                writer.write(answer)
        writer.close()

    def results(self) -> tuple[float, ...]:
        return tuple(self.telemetry.metrics.value("relayd.limits.webhooks", result=one) for one in ("delivered", "failed", "dropped"))

    async def until_idle(self) -> None:
        assert self.webhook._tasks
        await asyncio.wait_for(asyncio.gather(*self.webhook._tasks), 60)


def plan(webhook: str) -> Plan:
    text = f"""listeners: {{p: {{address: "127.0.0.1:1"}}}}
upstreams: {{u: {{endpoints: ["http://127.0.0.1:2"]}}}}
routes: [{{name: all, upstream: u}}]
prices: {{currency: EUR, models: {{m: {{input: 1}}}}}}
telemetry: {{{webhook}}}"""
    return compile_plan(load_text(text, "relayd.yaml").config, 1)


@contextlib.asynccontextmanager
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(budget_webhook, "FIRST_PAUSE_S", 0.0)
    found = Scene()
    server = await asyncio.start_server(found.answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook/abcsecret?k=1"
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "url").write_text(url)
    keys = f"{{secret_url: {{file: {tmp_path}/url}}, bearer: {{file: {tmp_path}/token}}}}"
    found.webhook.commit(plan(f"budget_webhook: {keys}"))
    try:
        yield found
    finally:
        found.webhook.close()
        found.client.close()
        found.telemetry.close()
        server.close()


async def test_a_warning_is_posted_with_its_amounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(tmp_path, monkeypatch) as one:
        one.webhook.send(WARNING)
        got = await asyncio.wait_for(one.got.get(), 30)
        await one.until_idle()
    assert got.items() >= (WARNING | {"event": "budget_warning", "currency": "EUR"}).items()
    assert got["text"] == "relayd: 80% of the budget of consumer team is used (4.1 of 5 EUR, per day)."
    assert got["time"].endswith("Z")
    assert got["host"]
    assert one.head.startswith(b"POST /hook/abcsecret?k=1 HTTP/1.1\r\n")
    assert f"Authorization: Bearer {TOKEN}\r\n".encode() in one.head
    assert b"Content-Type: application/json\r\n" in one.head
    assert one.results() == (1, 0, 0)


async def test_a_temporary_fault_is_repeated_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(tmp_path, monkeypatch) as one:
        one.answers = [
            b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", None, b"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\n\r\n"
        ]
        one.webhook.send(WARNING)
        one.webhook.send(WARNING | {"share": 0.9})
        await one.until_idle()
        shares = [one.got.get_nowait()["share"] for _ in range(one.got.qsize())]
    assert sorted(set(shares)) == [0.8, 0.9] and len(shares) == 5
    assert one.results() == (2, 0, 0)


async def test_a_refusal_is_final_and_reported_without_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(tmp_path, monkeypatch) as one:
        one.answers = [b"HTTP/1.1 403 Never\r\nContent-Length: 9\r\n\r\nabcsecret"]
        one.webhook.send(WARNING)
        await one.until_idle()
        assert one.got.qsize() == 1
    assert one.results() == (0, 1, 0)
    assert "answered status 403" in one.log.getvalue()
    assert "abcsecret" not in one.log.getvalue()
    assert TOKEN not in one.log.getvalue()


async def test_a_receiver_that_stays_broken_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(tmp_path, monkeypatch) as one:
        one.answers = [None] * budget_webhook.ATTEMPTS
        one.webhook.send(WARNING)
        await one.until_idle()
        assert one.got.qsize() == budget_webhook.ATTEMPTS
    assert one.results() == (0, 1, 0)
    assert "upstream_closed" in one.log.getvalue()


async def test_the_queue_is_bounded_and_its_loss_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_webhook, "MOST_WAITING", 2)
    async with scene(tmp_path, monkeypatch) as one:
        for _ in range(3):
            one.webhook.send(WARNING)
    assert one.results() == (0, 1, 1)
    assert "2 warnings wait already" in one.log.getvalue()
    assert "2 warnings were not delivered" in one.log.getvalue()


async def test_without_a_webhook_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(tmp_path, monkeypatch) as one:
        one.webhook.commit(plan(""))
        one.webhook.send(WARNING)
        assert not one.webhook._tasks


async def test_a_warning_that_is_not_accepted_does_not_hold_up_later_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(tmp_path, monkeypatch) as one:
        monkeypatch.setattr(budget_webhook, "FIRST_PAUSE_S", 3600.0)
        one.answers = [b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"]
        one.webhook.send(WARNING)
        assert (await asyncio.wait_for(one.got.get(), 30))["share"] == 0.8
        one.webhook.send(WARNING | {"share": 0.9})
        assert (await asyncio.wait_for(one.got.get(), 30))["share"] == 0.9
        await until(lambda: one.results() == (1, 0, 0))
    assert one.results() == (1, 1, 0)


async def test_nothing_is_sent_after_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(tmp_path, monkeypatch) as one:
        one.webhook.close()
        one.webhook.send(WARNING)
        assert not one.webhook._tasks
    assert one.results() == (0, 0, 1) and not one.got.qsize()
