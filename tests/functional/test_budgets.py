"""Budgets through the real process: what many requests at the same time spend together, and what survives a restart."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.functional.harness.faults import until
from tests.functional.harness.relay import Relay

REQUESTS, BUDGET = 1000, 500
ANSWER = json.dumps({
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}).encode()
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: relay.example\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(BODY), BODY)
)


class Endpoint:
    """Answers each request after `go` is set, and counts the requests."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
                self.asked += 1
                await self.go.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def ask(relay: Relay) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    writer.write(REQUEST)
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1])


def limits(relay: Relay) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(relay.admin("/limits")[1])["limits"]
    return found


async def test_a_thousand_requests_at_once_spend_no_more_than_a_budget_for_five_hundred(tmp_path: Path) -> None:
    endpoint = Endpoint()
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0, backlog=2000)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    prices = tmp_path / "prices.yaml"
    prices.write_text('currency: USD\n"*": {request: 1}\n')
    change = {
        "prices": str(prices),
        "upstreams": {"up": {"endpoints": [url], "protocol": "openai_chat"}},
        "routes": [{"name": "llm", "match": {"prefix": "/v1/"}, "upstream": "up", "budget": [{"amount": BUDGET, "per": "day"}]}],
    }
    with Relay(tmp_path / "r", url, change, nofile=8192) as relay:
        asking = [asyncio.create_task(ask(relay)) for _ in range(REQUESTS)]
        await asyncio.to_thread(until, lambda: endpoint.asked == BUDGET)
        assert limits(relay)[0]["reserved"] == str(BUDGET)
        endpoint.go.set()
        statuses = await asyncio.gather(*asking)
        assert (statuses.count(200), statuses.count(429), endpoint.asked) == (BUDGET, REQUESTS - BUDGET, BUDGET)
        (found,) = limits(relay)
        assert (found["used"], found["reserved"], found["left"]) == (str(BUDGET), "0", "0")
        assert await ask(relay) == 429
    server.close()
