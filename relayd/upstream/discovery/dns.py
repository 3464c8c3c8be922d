"""The addresses of a name in the DNS: every A or AAAA record is an endpoint, or every target of an SRV record.

The name is looked up again when its time to live is over, within min_ttl and max_ttl, and when an endpoint cannot be
reached. Names are absolute: the search list of /etc/resolv.conf is not used, nor is /etc/hosts. NXDOMAIN, SERVFAIL, an
answer without records and servers that do not answer leave the last good answer in use for `keep`; then the upstream has
no endpoint until the name resolves again. SRV gives port, weight and priority: a target of a higher priority number gets
requests only if none of a lower number is available; its name is resolved to A records, or AAAA if it has none. A
target whose name does not exist is left out if another one exists. Needs python3-dnspython.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Literal

from relayd import clock
from relayd.schema import Duration, section, setting
from relayd.upstream.discovered import Address, LookupFault, NoSuchName, Report, Tools
from relayd.upstream.discovery import _dns_query
from relayd.upstream.discovery._threads import in_thread
from relayd.upstream.discovery._urls import PATH, PATH_DOC, SCHEME_DOC, backoff_s, parts_of, url_of

LEAST_RETRY_S = 1.0
MOST_TARGETS = 64  # names of SRV targets that are resolved
MOST_WEIGHT = 1000


@section()
class Options:
    """A name in the DNS."""

    name: str = setting(doc="The name; for SRV it is _service._tcp.name.", pattern=r"[A-Za-z0-9_\-.]{1,253}", example="backend.internal")
    port: int | None = setting(default=None, doc="Port of the endpoints; required unless the type is SRV, which contains it.", minimum=1, maximum=65535, example=8001)
    type: Literal["A", "AAAA", "SRV"] = setting(default="A", doc="Type of the records.")
    servers: tuple[str, ...] = setting(default=(), doc="Name servers, as address or address:port, asked in this order. Without them those of /etc/resolv.conf.", example=["127.0.0.1:5353"])
    scheme: Literal["http", "https"] = setting(default="http", doc=SCHEME_DOC)
    path: str | None = setting(default=None, doc=PATH_DOC, pattern=PATH, example="/v1")
    min_ttl: Duration = setting(default=Duration(1), doc="A shorter time to live counts as this.", minimum=0.1, maximum=3600)
    max_ttl: Duration = setting(default=Duration(30), doc="A longer time to live counts as this.", minimum=0.1, maximum=86400)
    keep: Duration = setting(default=Duration(300), doc="How long the last good answer is used while lookups fail.", minimum=0)
    timeout: Duration = setting(default=Duration(2), doc="How long one server may take to answer.", minimum=0.1, maximum=30)

    def url_parts(self) -> tuple[str, str]:
        """Scheme and base path of all addresses."""
        return parts_of(self.scheme, self.path)

    def check(self) -> Iterable[tuple[str, str]]:
        if missing := _dns_query.missing():
            yield "", missing
        if self.port is None and self.type != "SRV":
            yield "port", "is missing: only SRV records contain a port"
        elif self.port is not None and self.type == "SRV":
            yield "port", "is part of SRV records; remove it"
        for index, text in enumerate(self.servers):
            if server_of(text) is None:
                yield f"servers[{index}]", "needs the form address or address:port, [v6]:port"
        if self.max_ttl < self.min_ttl:
            yield "max_ttl", "is less than min_ttl"


class Discovery:
    """Looks up one name. `_found_s` is the time of the last good answer."""

    def __init__(self, options: Options, tools: Tools) -> None:
        self._options, self.interval_s = options, float(options.max_ttl)
        self._servers = [server for text in options.servers if (server := server_of(text)) is not None]
        self._found_s: float | None = None
        self._failures = 0
        self.source = f"dns {options.name} {options.type}"

    def faults(self) -> Iterable[tuple[str, str]]:
        return ()

    def cautions(self) -> Iterable[tuple[str, str]]:
        if not self._servers:
            try:
                _dns_query.system_servers()
            except LookupFault as fault:
                yield "servers", f"is not set, and the system names none: {fault}"

    async def run(self, report: Report) -> None:
        options = self._options
        while True:
            try:
                addresses, ttl_s, note = await in_thread(self._look_up)
            except LookupFault as fault:
                self._failures += 1
                is_old = self._found_s is not None and clock.monotonic() - self._found_s >= options.keep
                report.failed(str(fault), expired=is_old)
                await report.pause(backoff_s(self._failures, LEAST_RETRY_S, float(options.max_ttl)))
                continue
            self._found_s, self._failures = clock.monotonic(), 0
            report.found(addresses, note)
            await report.pause(min(max(ttl_s, float(options.min_ttl)), float(options.max_ttl)))

    def _look_up(self) -> tuple[list[Address], float, str]:
        """The addresses, how long they are valid, and why a target was left out. Blocks. Raises LookupFault."""
        options = self._options
        servers = self._servers or _dns_query.system_servers()
        timeout_s = float(options.timeout)
        records = _dns_query.ask(options.name, options.type, servers, timeout_s)
        if options.type != "SRV":
            port = options.port or 0
            return [Address(url_of(options.scheme, one, port, options.path)) for one in records.texts], records.ttl_s, ""
        ttl_s, addresses, unknown = records.ttl_s, [], ""
        for target in _dns_query.targets_of(records.texts, MOST_TARGETS, MOST_WEIGHT):
            try:
                hosts = _hosts(target.host, servers, timeout_s)
            except NoSuchName as fault:
                unknown = str(fault)
                continue
            ttl_s = min(ttl_s, hosts.ttl_s)
            urls = (url_of(options.scheme, host, target.port, options.path) for host in hosts.texts)
            addresses += [Address(url, target.weight, target.priority) for url in urls]
        if unknown and not addresses:
            raise LookupFault(unknown)
        return addresses, ttl_s, unknown


def _hosts(name: str, servers: list[tuple[str, int]], timeout_s: float) -> _dns_query.Records:
    """The A records of a name, or its AAAA records if it has none. Raises NoSuchName, LookupFault."""
    try:
        return _dns_query.ask(name, "A", servers, timeout_s)
    except NoSuchName:
        return _dns_query.ask(name, "AAAA", servers, timeout_s)


def server_of(text: str) -> tuple[str, int] | None:
    """Address and port of a name server; None if the text is not one."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.startswith("[")):  # an address without a port
        host, port = text, "53"
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        address = str(ipaddress.ip_address(host))
    except ValueError:
        return None
    return (address, int(port)) if port.isascii() and port.isdigit() and 0 < int(port) <= 65535 else None
