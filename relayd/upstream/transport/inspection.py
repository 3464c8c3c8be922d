"""Inspects endpoints for `relayd probe` and `relayd doctor`: lookup, connection, TLS, one request, list of models.

Laws:
1. The request is sent as relayd sends requests: by a Pool of the upstream's spec, with its key. It is a GET, never a
   prompt: the dialect's list of models, else the path of the health check, else the base path.
2. If the certificate is not accepted, a second connection reads it. It is not verified, so nothing is sent on it.
3. An inspection ends at its time limit, is bounded in size and never raises: a failure is part of the result.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace

import pycurl

from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex
from relayd.protocols import registry
from relayd.protocols.dialect import ModelListSource
from relayd.protocols.model_list import MOST_MODELS, read_page
from relayd.upstream.endpoint import filter_of
from relayd.upstream.spec import AuthSpec, EndpointSpec, UpstreamSpec
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.faults import code_of
from relayd.upstream.transport.names import lookup
from relayd.upstream.transport.pool import Pool
from relayd.upstream.transport.probe import key_lines, target_with
from relayd.upstream.transport.slot import Slot
from relayd.wire.response import ResponseHead

MOST_BYTES = 8 * 1024 * 1024
MOST_PAGES = 32
LONGEST_FAULT = 300
_AGENT = (b"User-Agent: relayd-probe", b"Accept: */*", b"Accept-Encoding: identity", b"Expect:", b"Content-Type:")
_TLS_VERSION = lazy_regex(rb"SSL connection using (TLS)v?(1\.[0-9])")  # the texts of OpenSSL and GnuTLS
_INFOTYPE_TEXT = 0

PathOf = Callable[[str, bytes, bytes], bytes]


@dataclass(slots=True)
class Inspection:
    """The results of one endpoint. Times are in seconds; None means that the step was not reached.

    `code` is a code of the catalogue of errors, empty if a response arrived. `certificates` are in PEM form, the
    endpoint's own first. `models` is None without a list; `models_fault` is the reason. `key` is the source of the key
    that was sent, empty without one. `target` has no query, which could contain a key.
    """

    endpoint: str
    url: str
    host: str
    unix: bool = False
    key: str = ""
    addresses: tuple[str, ...] = ()
    lookup_s: float | None = None
    address: str = ""
    connect_s: float | None = None
    tls_s: float | None = None
    tls_version: str = ""
    certificates: tuple[bytes, ...] = ()
    target: str = ""
    first_byte_s: float | None = None
    status: int = 0
    location: str = ""
    date: str = ""
    models: tuple[str, ...] | None = None
    models_fault: str = ""
    lists_models: bool = False
    code: str = ""
    fault: str = ""


async def inspect(
    client: StreamClient, spec: UpstreamSpec, endpoint: EndpointSpec, auth: AuthSpec | None, path_of: PathOf,
    timeout_s: float,
) -> Inspection:
    """Inspect one endpoint with one key. `path_of` appends a dialect's path to the base path of an endpoint."""
    host, port = endpoint.address
    url = f"unix:{endpoint.unix}" if endpoint.unix is not None else endpoint.origin
    found = Inspection(endpoint.label, url + endpoint.base_path, host, endpoint.unix is not None)
    found.key = "" if auth is None else auth.value.source
    try:
        async with asyncio.timeout(timeout_s):
            if endpoint.unix is None:
                await _look_up(found, host, port)
            if not found.code:
                await _request(client, spec, endpoint, auth, path_of, found)
    except TimeoutError:
        if found.status:
            found.models_fault = f"the response is not complete after {timeout_s:g} s"
        elif not found.code:
            found.code = "connect_timeout" if found.connect_s is None else "first_byte_timeout"
            found.fault = f"no response within {timeout_s:g} s"
    if found.code == "tls_failed" and not found.certificates:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await _read_certificates(client, spec, endpoint, found)
    return found


async def _look_up(found: Inspection, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    began_s, result = loop.time(), loop.create_future()

    def deliver(addresses: tuple[str, ...], fault: str) -> None:
        if not result.done():
            result.set_result((addresses, fault))

    def work() -> None:
        answer = lookup(host, port)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(deliver, *answer)

    threading.Thread(target=work, name="lookup", daemon=True).start()
    try:
        found.addresses, fault = await result
    except asyncio.CancelledError:
        found.code, found.fault = "connect_failed", "the resolver does not respond"
        raise
    found.lookup_s = loop.time() - began_s
    if fault:
        found.code, found.fault = "connect_failed", fault


async def _request(
    client: StreamClient, spec: UpstreamSpec, endpoint: EndpointSpec, auth: AuthSpec | None, path_of: PathOf,
    found: Inspection,
) -> None:
    dialect, base = registry.dialect(spec.protocol), endpoint.base_path.encode()
    source = None if dialect is None else dialect.model_list
    if source is not None:
        target, fields = path_of(spec.protocol, base, source.path.encode("ascii")), list(source.fields)
    elif spec.health is not None and spec.health.kind == "http":
        target, fields = spec.health.target.encode(), []
        auth = auth if spec.health.auth else None
        found.key = found.key if auth else ""
    else:
        target, fields = base or b"/", []
    found.lists_models = source is not None
    found.target = target.decode("latin-1").partition("?")[0]
    pool = _pool(client, spec, endpoint)
    fields = [b"Host: " + endpoint.authority.encode(), *_AGENT, *fields, *key_lines(auth)]
    try:
        query = source.query if source is not None else ""
        transfer = await _get(pool, found, _with_query(target, query, auth), fields, source is not None)
        if source is not None and transfer.head is not None and transfer.head.status == 200:
            await _models(pool, found, source, transfer, target, fields, auth)
    finally:
        pool.close()


async def _models(
    pool: Pool, found: Inspection, source: ModelListSource, transfer: _Transfer, target: bytes, fields: list[bytes],
    auth: AuthSpec | None,
) -> None:
    """Read the list of models, page by page."""
    names: dict[str, None] = {}
    for _ in range(MOST_PAGES):
        if transfer.code or len(transfer.body) > MOST_BYTES:
            found.models_fault = f"the response is not complete: {transfer.code or 'it is too large'}"
            return
        try:
            page = read_page(source, bytes(transfer.body))
        except ValueError:
            found.models_fault = "the response is not a list of models"
            return
        names.update(dict.fromkeys(page.names))
        if not page.next or len(names) >= MOST_MODELS:
            break
        transfer = _Transfer(pool, True)
        await transfer.run(_with_query(target, page.next, auth), fields)
        if transfer.head is None or transfer.head.status != 200:
            found.models_fault = "a further page of the list could not be read"
            break
    found.models = tuple(names)[:MOST_MODELS]


def _with_query(target: bytes, query: str, auth: AuthSpec | None) -> bytes:
    return target_with(target + b"?" + query.encode("ascii") if query else target, auth)


def _pool(client: StreamClient, spec: UpstreamSpec, endpoint: EndpointSpec) -> Pool:
    assert client.driver is not None
    return Pool(client.driver, spec, endpoint, filter_of(spec))


async def _get(pool: Pool, found: Inspection, target: bytes, fields: list[bytes], wants_body: bool) -> _Transfer:
    """Send the request, and store what it shows in `found`, also when it is cancelled."""
    pool.options.append((pycurl.OPT_CERTINFO, 1))
    transfer = _Transfer(pool, wants_body)
    try:
        await transfer.run(target, fields)
    finally:
        transfer.describe(found)
    return transfer


async def _read_certificates(
    client: StreamClient, spec: UpstreamSpec, endpoint: EndpointSpec, found: Inspection
) -> None:
    """Read the certificates that the endpoint presents, on a connection on which nothing is sent."""
    pool = _pool(client, replace(spec, tls=replace(spec.tls, verify=False)), endpoint)
    pool.options += [(pycurl.OPT_CERTINFO, 1), (pycurl.CONNECT_ONLY, 1)]
    transfer = _Transfer(pool, False)
    try:
        await transfer.run(b"/", [])
    finally:
        found.certificates, found.tls_version = transfer.certificates, transfer.tls_version
        pool.close()


class _Transfer:
    """One request; the sink of its slot. Its times are None until the step was reached."""

    def __init__(self, pool: Pool, wants_body: bool) -> None:
        self._pool, self._wants_body = pool, wants_body
        self._slot: Slot | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.body = bytearray()
        self.head: ResponseHead | None = None
        self.code = self.fault = self.address = self.tls_version = ""
        self.certificates: tuple[bytes, ...] = ()
        self.connect_s: float | None = None
        self.tls_s: float | None = None
        self.first_byte_s: float | None = None

    async def run(self, target: bytes, fields: list[bytes]) -> None:
        """Send the request and wait for its end."""
        slot = self._slot = self._pool.acquire(b"GET", False)
        slot.curl.setopt(pycurl.VERBOSE, 1)
        slot.curl.setopt(pycurl.DEBUGFUNCTION, self._on_debug)
        self._pool.start(slot, self, b"GET", target, fields, new_connection=True)
        try:
            await self._ended
        finally:
            self._release()

    def describe(self, found: Inspection) -> None:
        """Store the results in an inspection."""
        found.address, found.connect_s, found.tls_s = self.address, self.connect_s, self.tls_s
        found.tls_version, found.certificates = self.tls_version, self.certificates
        found.first_byte_s, found.code, found.fault = self.first_byte_s, self.code, self.fault
        if self.head is not None:
            fields = {name.lower(): value for name, value in _fields(self.head)}
            found.status, found.code, found.fault = self.head.status, "", ""
            found.date, found.location = fields.get("date", ""), fields.get("location", "").partition("?")[0]

    def on_progress(self, slot: Slot) -> None:
        """The response head, or a piece of the body."""
        self._collect(slot)
        if slot.response is not None and (not self._wants_body or len(self.body) > MOST_BYTES):
            self._end()

    def on_done(self, slot: Slot, errno: int, message: str) -> None:
        """The end of the transfer."""
        self._collect(slot)
        if errno:
            self.code = code_of(errno, message)
            self.fault = (slot.protocol_error or message)[:LONGEST_FAULT]
        elif slot.response is None:
            self.code, self.fault = "upstream_closed", "the connection was closed before a response"
        self._end()

    def on_broken(self) -> None:
        """A sink raised, which is no fault of the endpoint."""
        self.code, self.fault = "internal", "internal fault"
        self._end()

    def _collect(self, slot: Slot) -> None:
        self.head = slot.response
        self.body += b"".join(slot.chunks)
        slot.chunks = []

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _on_debug(self, kind: int, data: bytes) -> None:
        """libcurl's log: only its own texts are read, which contain neither header fields nor bodies."""
        if kind == _INFOTYPE_TEXT and not self.tls_version and (version := _TLS_VERSION.search(data)):
            self.tls_version = b" ".join(version.groups()).decode("ascii")

    def _release(self) -> None:
        """Read the times and the certificates from libcurl, and release the slot."""
        slot, self._slot = self._slot, None
        if slot is None:
            return
        number = slot.curl.getinfo
        lookup_s, connect_s = number(pycurl.NAMELOOKUP_TIME), number(pycurl.CONNECT_TIME)
        tls_s, first_s = number(pycurl.APPCONNECT_TIME), number(pycurl.STARTTRANSFER_TIME)
        if connect_s > 0.0:
            self.connect_s = max(0.0, connect_s - lookup_s)
            self.address = str(number(pycurl.PRIMARY_IP) or "")
        if tls_s > 0.0:
            self.tls_s = max(0.0, tls_s - connect_s)
        if first_s > 0.0 and self.head is not None:
            self.first_byte_s = max(0.0, first_s - max(connect_s, tls_s))
        self.certificates = tuple(
            value.encode("ascii", "replace")
            for certificate in number(pycurl.INFO_CERTINFO) or () for name, value in certificate if name == "Cert"
        )
        self._pool.release(slot)


def _fields(head: ResponseHead) -> list[tuple[str, str]]:
    lines = (line.decode("latin-1").partition(":") for line in head.keep)
    return [(name, value.strip()) for name, _, value in lines]
