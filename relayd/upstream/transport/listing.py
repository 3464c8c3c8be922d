"""Fetches the model lists of upstreams, one request after the other, bypassing limits, queues and breakers.

Laws:
1. A request has its own pool, with the TLS options and the socket of its endpoint; it uses no permit.
2. It ends after TIMEOUT_S at the latest; the number of pages and their size are bounded.
3. No response of an endpoint raises an error: a failure is kept as the reason for the missing list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace

from relayd import clock
from relayd.protocols import registry
from relayd.protocols.dialect import ModelListSource
from relayd.protocols.model_list import MOST_MODELS, read_page
from relayd.upstream.endpoint import DISABLED, Endpoint
from relayd.upstream.model_list import ModelList
from relayd.upstream.spec import AuthSpec, Timeouts, UpstreamSpec
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.faults import code_of
from relayd.upstream.transport.pool import Pool
from relayd.upstream.transport.probe import key_lines, target_with
from relayd.upstream.transport.slot import Slot
from relayd.upstream.upstream import Upstream

TIMEOUT_S = 10.0
MOST_BYTES = 8 * 1024 * 1024
MOST_PAGES = 32
_AGENT = (b"User-Agent: relayd-models", b"Accept: application/json", b"Accept-Encoding: identity", b"Expect:",
          b"Content-Type:")  # fmt: skip

Target = Callable[[UpstreamSpec, Endpoint, str], bytes]


class ModelListFetcher:
    """Owned by the daemon, which calls `tick` several times a second and `close` at the end.

    `upstreams` returns the upstreams of the current plan; `target_of` appends a dialect's path to the base path of an
    endpoint.
    """

    def __init__(
        self, client: StreamClient, upstreams: Callable[[], Iterable[Upstream]], target_of: Target
    ) -> None:
        self._client, self._upstreams, self._target_of = client, upstreams, target_of
        self._running: set[ListRequest] = set()

    def tick(self) -> None:
        """Begin the requests that are due."""
        now_s = clock.monotonic()
        for upstream in self._upstreams():
            model_list = upstream.model_list
            if model_list is not None and model_list.due(now_s):
                self._begin(upstream, model_list)

    def _begin(self, upstream: Upstream, model_list: ModelList) -> None:
        spec = upstream.spec
        source = registry.load(spec.protocol).model_list
        assert self._client.driver is not None and source is not None
        endpoints = [one for one in upstream.endpoints if one.state != DISABLED] or list(upstream.endpoints)
        if not endpoints:
            model_list.failed("the upstream has no endpoint", clock.monotonic())
            return
        endpoint = endpoints[model_list.turn % len(endpoints)]
        auth = spec.keys[model_list.turn % len(spec.keys)] if spec.keys else None
        own = replace(spec, timeouts=Timeouts(connect_s=TIMEOUT_S), max_connections=0)
        pool = Pool(self._client.driver, own, endpoint.spec)
        path = self._target_of(spec, endpoint, source.path)
        request = ListRequest(source, model_list, pool, endpoint, path, auth, self._running.discard)
        self._running.add(request)
        model_list.begin()
        request.start()

    def close(self) -> None:
        """Cancel the running requests."""
        for request in list(self._running):
            request.cancel()
        self._running.clear()


class ListRequest:
    """Fetches one list, page by page; the sink of its slot."""

    def __init__(
        self, source: ModelListSource, model_list: ModelList, pool: Pool, endpoint: Endpoint, path: bytes,
        auth: AuthSpec | None, on_end: Callable[[ListRequest], None],
    ) -> None:
        self._source, self._model_list, self._pool, self._on_end = source, model_list, pool, on_end
        self._endpoint, self._path, self._auth = endpoint, path, auth
        self._names: dict[str, None] = {}
        self._pages = 0
        self._slot: Slot | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._body = bytearray()
        self._status = 0

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TIMEOUT_S, lambda: self._failed("timed out"))
        self._ask(self._source.query)

    def _ask(self, query: str) -> None:
        self._pages += 1
        self._body.clear()
        self._status = 0
        target = self._path + b"?" + query.encode("ascii") if query else self._path
        slot = self._slot = self._pool.acquire(b"GET", False)
        fields = [
            b"Host: " + self._endpoint.authority, *_AGENT, *self._source.fields, *key_lines(self._auth),
        ]
        self._pool.start(slot, self, b"GET", target_with(target, self._auth), fields)

    def on_progress(self, slot: Slot) -> None:
        """The response head, or a piece of the body."""
        self._collect(slot)
        if len(self._body) > MOST_BYTES:
            self._failed("the list is too large")

    def on_done(self, slot: Slot, errno: int, message: str) -> None:
        """The end of a page."""
        self._collect(slot)
        if errno or not self._status:
            self._failed(slot.protocol_error or (code_of(errno, message) if errno else "upstream_closed"))
        elif len(self._body) > MOST_BYTES:
            self._failed("the list is too large")
        elif self._status != 200:
            self._failed(f"status {self._status}")
        else:
            self._page()

    def _page(self) -> None:
        try:
            page = read_page(self._source, bytes(self._body))
        except ValueError:
            self._failed("the response is not a list of models")
            return
        self._names.update(dict.fromkeys(page.names))
        if page.next and self._pages < MOST_PAGES and len(self._names) < MOST_MODELS:
            self._release_slot()
            self._ask(page.next)
        else:
            self._model_list.update(tuple(self._names)[:MOST_MODELS], clock.monotonic())
            self._finish()

    def on_broken(self) -> None:
        """A sink raised, which is no fault of the endpoint; the list is fetched again later."""
        self._failed("internal")

    def cancel(self) -> None:
        """End without a list."""
        self._model_list.give_up()
        self._finish()

    def _collect(self, slot: Slot) -> None:
        if slot.response is not None:
            self._status = slot.response.status
        self._body += b"".join(slot.chunks)
        slot.chunks = []

    def _failed(self, why: str) -> None:
        if self._timer is not None:
            self._model_list.failed(why, clock.monotonic())
            self._finish()

    def _release_slot(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            self._pool.release(slot)

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._release_slot()
        self._pool.close()
        self._on_end(self)
