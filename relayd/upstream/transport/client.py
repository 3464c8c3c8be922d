"""StreamClient: Tornado's curl client on top of relayd's driver.

Ordinary `fetch()` calls (probes, webhooks) and the streaming slots share one CurlMulti, one connection pool and one
epoll. Create it with force_instance=True, because Tornado caches clients per loop. The hooks overridden here have the
same names and signatures from Tornado 6.1 to 6.6. libcurl calls the driver directly; the hooks serve Tornado's calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pycurl
from tornado.curl_httpclient import CurlAsyncHTTPClient
from tornado.httpclient import HTTPRequest, HTTPResponse

from relayd.upstream.spec import EndpointSpec, UpstreamSpec
from relayd.upstream.transport.driver import Driver
from relayd.upstream.transport.pool import Pool
from relayd.wire.key_filter import KeyFilter
from relayd.work_queue import WorkQueue


class StreamClient(CurlAsyncHTTPClient):
    """One per process. `driver` moves the slots; `fetch()` works as in Tornado. `work` is the loop's work queue."""

    driver: Driver | None
    work: WorkQueue

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        self.driver = None
        super().initialize(*args, **kwargs)
        scan = getattr(self, "_force_timeout_callback", None)
        if scan is not None:  # Tornado 6.1 to 6.5: socket_all() every second, bypassing the driver
            scan.stop()
        self.work = WorkQueue(self.io_loop.add_callback)
        self.driver = Driver(self.io_loop, self._multi, self._fetch_done, self.work)

    def _handle_socket(self, event: int, fd: int, multi: Any, data: Any) -> None:
        if self.driver is not None:
            self.driver.on_socket(event, fd)

    def _set_timeout(self, msecs: int) -> None:
        if self.driver is not None:
            self.driver.on_timer(msecs)

    def begin(self) -> None:
        """Begin the transfers requested in this turn now; otherwise they begin in the next turn."""
        if self.driver is not None:
            self.driver.begin()

    def connect(self, upstream: UpstreamSpec, endpoint: EndpointSpec, keys: KeyFilter | None = None) -> Pool:
        """Create the pool of one endpoint; passed to `Upstream.open`."""
        assert self.driver is not None
        return Pool(self.driver, upstream, endpoint, keys)

    def _handle_force_timeout(self) -> None:
        """Never called: the scan is stopped."""

    def _count(self, call: Callable[..., Any], *args: Any) -> None:
        """Call a function of Tornado's client, and update the driver's count of active transfers."""
        driver, free = self.driver, len(self._free_list)
        assert driver is not None
        was, driver.in_libcurl = driver.in_libcurl, True
        try:
            call(*args)
        finally:
            driver.in_libcurl = was
            driver.active += free - len(self._free_list)

    def close(self) -> None:
        if self.driver is not None:
            self.driver.close()
            self.driver = None
        super().close()

    def fetch_impl(self, request: HTTPRequest, callback: Callable[[HTTPResponse], None]) -> None:
        self._requests.append((request, callback, self.io_loop.time()))
        self.io_loop.add_callback(self._pump)

    def _pump(self) -> None:
        if self.driver is not None:
            self._count(self._process_queue)
            self.driver.drive(((pycurl.SOCKET_TIMEOUT, 0),))

    def _fetch_done(self, curl: Any, errno: int, message: str) -> None:
        self._count(self._finish, curl, *((errno, message) if errno else ()))
        if self._requests:
            self.io_loop.add_callback(self._pump)
