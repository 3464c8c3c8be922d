"""POST requests of sinks to their servers (telemetry/outlet.py), by the requests of the daemon's coroutines.

1. Each request is a task. `on_done` is called once, unless the request was cancelled.
2. A status that has arrived counts, also if the rest of the response is missing or too long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from relayd.telemetry.outlet import Reply
from relayd.upstream.spec import TlsSpec
from relayd.upstream.transport.api_client import ApiRequests
from relayd.upstream.transport.client import StreamClient

RESPONSE_BYTES = 16 * 1024


class Posts:
    """The running requests. Owned by the daemon."""

    def __init__(self, client: StreamClient) -> None:
        self._requests = ApiRequests(client)
        self._tasks: set[asyncio.Task[None]] = set()

    def post(
        self, url: str, ca: str | None, fields: Sequence[bytes], body: bytes, timeout_s: float,
        on_done: Callable[[Reply], None],
    ) -> Callable[[], object]:
        """Send a JSON document to an absolute URL. `fields` are additional lines of the head, `ca` is a PEM file of
        authorities, None for those of the system. The returned function cancels the request."""
        task = asyncio.get_running_loop().create_task(self._send(url, ca, tuple(fields), body, timeout_s, on_done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task.cancel

    async def _send(
        self, url: str, ca: str | None, fields: tuple[bytes, ...], body: bytes, timeout_s: float,
        on_done: Callable[[Reply], None],
    ) -> None:
        request = self._requests.begin_url(url, TlsSpec(ca=ca), RESPONSE_BYTES, body, fields)
        fault = ""
        try:
            async with asyncio.timeout(timeout_s):
                while not request.is_over:
                    await request.wait()
            fault = request.fault
        except TimeoutError:
            fault = f"no response for {timeout_s:g} s"
        finally:
            request.end()
        status = request.status
        on_done(Reply(status, request.pop()[:RESPONSE_BYTES], request.retry_after, "" if status else fault))

    def close(self) -> None:
        """Cancel all requests."""
        for task in list(self._tasks):
            task.cancel()
        self._requests.close()
