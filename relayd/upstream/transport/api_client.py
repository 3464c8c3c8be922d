"""Requests of coroutines of the daemon, as to Docker's API, to an issuer of tokens or to a webhook: whole bodies and
endless ones.

Laws:
1. A request has its own pool and connection, and no permit. Cancelling its coroutine cancels it.
2. Bodies, lines and the waiting times are bounded by the caller; every failure is a LookupFault with the reason.
3. `ApiRequests.close` ends all requests at once, before the driver is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

from relayd.upstream.discovered import LookupFault
from relayd.upstream.spec import EndpointSpec, Timeouts, TlsSpec, UpstreamSpec
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.faults import code_of
from relayd.upstream.transport.pool import Pool
from relayd.upstream.transport.slot import Slot

CONNECT_S = 5.0
ERROR_BYTES = 4096
DEFAULT_TLS = TlsSpec()
_AGENT = (b"User-Agent: relayd", b"Accept: application/json", b"Accept-Encoding: identity", b"Expect:")


class ApiRequests:
    """The running requests of all clients. Owned by the daemon."""

    def __init__(self, client: StreamClient) -> None:
        self._client = client
        self._running: set[ApiRequest] = set()

    def connect(self, endpoint: EndpointSpec, tls: TlsSpec = DEFAULT_TLS) -> ApiEndpoint:
        """A client for one server."""
        return ApiEndpoint(self, endpoint, tls)

    def server_of(self, url: str, tls: TlsSpec = DEFAULT_TLS) -> tuple[ApiEndpoint, str]:
        """A client for the server of a URL, and the target of the URL."""
        endpoint, target = server_and_target(url)
        return self.connect(endpoint, tls), target

    def begin_url(
        self, url: str, tls: TlsSpec, most_bytes: int, document: bytes | None = None, fields: tuple[bytes, ...] = ()
    ) -> ApiRequest:
        """Send a request to a URL, as `begin` does."""
        endpoint, target = server_and_target(url)
        return self.begin(endpoint, tls, target, most_bytes, document, fields)

    def begin(
        self, endpoint: EndpointSpec, tls: TlsSpec, target: str, most_bytes: int, document: bytes | None = None,
        fields: tuple[bytes, ...] = (),
    ) -> ApiRequest:
        """Send a GET request, or a POST request with a JSON document. At most `most_bytes` of the response body are
        held. `fields` are additional lines of the head."""
        assert self._client.driver is not None
        spec = UpstreamSpec("api", (endpoint,), timeouts=Timeouts(connect_s=CONNECT_S), tls=tls)
        request = ApiRequest(Pool(self._client.driver, spec, endpoint), endpoint, most_bytes, self._running)
        request.start((endpoint.base_path + target).encode("ascii"), document, fields)
        return request

    def close(self) -> None:
        """End all requests."""
        for request in list(self._running):
            request.end("relayd is stopping")


def server_and_target(url: str) -> tuple[EndpointSpec, str]:
    """The server of a URL, and its request target."""
    parts = urlsplit(url)
    endpoint = EndpointSpec(f"{parts.scheme}://{parts.netloc}", "", parts.netloc)
    return endpoint, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


class ApiEndpoint:
    """An ApiClient (discovered.py). `label` is its address in logs."""

    def __init__(self, requests: ApiRequests, endpoint: EndpointSpec, tls: TlsSpec) -> None:
        self._requests, self._endpoint, self._tls = requests, endpoint, tls
        self.label = endpoint.label

    async def get(self, target: str, most_bytes: int, timeout_s: float) -> bytes:
        """The body of a response with status 200. Raises LookupFault."""
        request = self._requests.begin(self._endpoint, self._tls, target, most_bytes)
        try:
            async with asyncio.timeout(timeout_s):
                while not request.is_over:
                    await request.wait()
            request.check()
            return request.pop()
        except TimeoutError:
            raise LookupFault(f"{self._endpoint.label} has not answered for {timeout_s:g} s") from None
        finally:
            request.end()

    async def post(
        self, target: str, document: bytes, fields: tuple[bytes, ...], most_bytes: int, timeout_s: float
    ) -> tuple[int, str]:
        """Send a JSON document. Returns the status of the response, and the beginning of its body. Raises LookupFault
        without a complete response."""
        request = self._requests.begin(self._endpoint, self._tls, target, most_bytes, document, fields)
        try:
            async with asyncio.timeout(timeout_s):
                while not request.is_over:
                    await request.wait()
            request.check_complete()
            return request.status, request.pop_text()
        except TimeoutError:
            raise LookupFault(f"{self._endpoint.label} has not answered for {timeout_s:g} s") from None
        finally:
            request.end()

    async def lines(self, target: str, most_bytes: int, silence_s: float) -> AsyncGenerator[bytes, None]:
        """The lines of an endless response; the first item is empty. Ends after `silence_s` without a byte. Raises
        LookupFault if the response ends, or is no success."""
        request = self._requests.begin(self._endpoint, self._tls, target, most_bytes)
        rest, has_begun = b"", False
        try:
            while True:
                async with asyncio.timeout(silence_s if has_begun else CONNECT_S):
                    await request.wait()
                if request.is_over or request.status not in (0, 200):
                    while not request.is_over:  # the rest of an error's body
                        async with asyncio.timeout(CONNECT_S):
                            await request.wait()
                    request.check()
                if request.status and not has_begun:
                    has_begun = True
                    yield b""
                *complete, rest = (rest + request.pop()).split(b"\n")
                if len(rest) > most_bytes:
                    raise LookupFault(f"{self._endpoint.label} sent a line of more than {most_bytes} bytes")
                for line in complete:
                    yield line
                if request.is_over:
                    request.check()
                    raise LookupFault(f"{self._endpoint.label} ended the stream")
        except TimeoutError:
            if not has_begun:
                raise LookupFault(f"{self._endpoint.label} has not answered for {CONNECT_S:g} s") from None
        finally:
            request.end()


class ApiRequest:
    """One request; the sink of its slot. `status` is 0 and `retry_after` empty before the head has arrived. `fault` is
    the reason of a failure, empty without one."""

    def __init__(self, pool: Pool, endpoint: EndpointSpec, most_bytes: int, running: set[ApiRequest]) -> None:
        self._pool, self._endpoint, self._most_bytes, self._running = pool, endpoint, most_bytes, running
        self._pieces: list[bytes] = []
        self._size = 0
        self._news = asyncio.Event()
        self._slot: Slot | None = None
        self.fault = ""
        self.status = 0
        self.retry_after = ""
        self.is_over = False

    def start(self, target: bytes, document: bytes | None, fields: tuple[bytes, ...]) -> None:
        """Send it."""
        self._running.add(self)
        lines = [b"Host: " + self._endpoint.authority.encode(), *_AGENT, *fields]
        if document is None:
            slot = self._slot = self._pool.acquire(b"GET", False)
            self._pool.start(slot, self, b"GET", target, [*lines, b"Content-Type:"])
        else:
            slot = self._slot = self._pool.acquire(b"POST", True)
            lines.append(b"Content-Type: application/json")
            self._pool.start(slot, self, b"POST", target, lines, len(document), document)

    async def wait(self) -> None:
        """Wait for the next piece, or the end."""
        await self._news.wait()
        if not self.is_over:
            self._news.clear()

    def pop(self) -> bytes:
        """The bytes received since the last call."""
        data, self._pieces, self._size = b"".join(self._pieces), [], 0
        return data

    def pop_text(self) -> str:
        """The beginning of the bytes received since the last call, as one line."""
        return " ".join(self.pop()[:ERROR_BYTES].decode("utf-8", "replace").split())[:200]

    def check_complete(self) -> None:
        """Raise LookupFault if there is no complete response."""
        if self.fault:
            raise LookupFault(f"{self._endpoint.label}: {self.fault}")

    def check(self) -> None:
        """Raise LookupFault if the request has failed."""
        self.check_complete()
        if self.status != 200:
            raise LookupFault(f"{self._endpoint.label} answered status {self.status} {self.pop_text()}".rstrip())

    def on_progress(self, slot: Slot) -> None:
        """The response head, or a piece of the body."""
        self._collect(slot)
        if self._size > self._most_bytes:
            self.end(f"the answer is larger than {self._most_bytes} bytes")
        self._news.set()

    def on_done(self, slot: Slot, errno: int, message: str) -> None:
        """The end of the response."""
        self._collect(slot)
        if self._size > self._most_bytes:
            self.end(f"the answer is larger than {self._most_bytes} bytes")
        elif errno or not self.status:
            code = code_of(errno, message) if errno else "upstream_closed"
            self.end(slot.protocol_error or f"{code}: {message}" if message else code)
        else:
            self.end()

    def on_broken(self) -> None:
        """A sink raised, which is no fault of the server."""
        self.end("internal")

    def end(self, fault: str = "") -> None:
        """Release everything. Calling it again changes nothing."""
        self.fault = self.fault or fault
        self.is_over = True
        self._news.set()
        slot, self._slot = self._slot, None
        if slot is not None:
            self._pool.release(slot)
            self._pool.close()
            self._running.discard(self)

    def _collect(self, slot: Slot) -> None:
        if slot.response is not None and not self.status:
            self.status, self.retry_after = slot.response.status, slot.response.get(b"retry-after")
        for chunk in slot.chunks:
            self._pieces.append(chunk)
            self._size += len(chunk)
        slot.chunks = []
