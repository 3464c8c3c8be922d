"""An upstream: a named group of endpoints, chosen in turn."""

from __future__ import annotations

from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import UpstreamSpec
from relayd.upstream.transport.client import StreamClient


class Upstream:
    """Live state of one `upstreams:` entry; shared by all plans whose spec for it is equal.

    Life: construct (no side effects), open (pools), retire (no plan names it any more), close (by itself, with the
    last exchange). Owned by the plan, carried over by a reload.
    """

    __slots__ = ("_next", "_retired", "endpoints", "name", "opened", "spec")

    def __init__(self, spec: UpstreamSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.endpoints = tuple(Endpoint(one) for one in spec.endpoints)
        self.opened = False
        self._next = 0
        self._retired = False

    @property
    def in_flight(self) -> int:
        return sum(endpoint.in_flight for endpoint in self.endpoints)

    def open(self, client: StreamClient) -> None:
        """Make the pools of the endpoints. Calling it again changes nothing."""
        for endpoint in self.endpoints:
            endpoint.open(client, self.spec)
        self.opened = True
        self._retired = False

    def pick(self) -> Endpoint | None:
        """The next endpoint in turn that has room; None when all are full."""
        count = len(self.endpoints)
        limit = self.spec.max_connections
        for step in range(count):
            endpoint = self.endpoints[(self._next + step) % count]
            if not limit or endpoint.in_flight < limit:
                self._next = (self._next + step + 1) % count
                endpoint.in_flight += 1
                return endpoint
        return None

    def leave(self, endpoint: Endpoint) -> None:
        """An exchange that `pick` counted has ended."""
        endpoint.in_flight -= 1
        if self._retired and not self.in_flight:
            self.close()

    def retire(self) -> None:
        """No plan names it any more: close as soon as nobody uses it."""
        self._retired = True
        if not self.in_flight:
            self.close()

    def close(self) -> None:
        """Let pools and slots go."""
        for endpoint in self.endpoints:
            endpoint.close()
        self.opened = False
