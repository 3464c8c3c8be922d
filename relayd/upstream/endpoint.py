"""An endpoint: one address of an upstream and its live state."""

from __future__ import annotations

from relayd.upstream.spec import EndpointSpec, UpstreamSpec
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.pool import Pool


class Endpoint:
    """Owned by its upstream. `in_flight` counts exchanges from pick to the last byte."""

    __slots__ = ("authority", "base_path", "in_flight", "label", "pool", "spec")

    def __init__(self, spec: EndpointSpec) -> None:
        self.spec = spec
        self.label = spec.label
        self.authority = spec.authority.encode()
        self.base_path = spec.base_path.encode()
        self.in_flight = 0
        self.pool: Pool | None = None

    def open(self, client: StreamClient, upstream: UpstreamSpec) -> None:
        """Make the pool; connects nothing yet."""
        if self.pool is None and client.driver is not None:
            self.pool = Pool(client.driver, upstream, self.spec)

    def close(self) -> None:
        """Let the pool go; opened again, the endpoint gets a new one."""
        if self.pool is not None:
            self.pool.close()
            self.pool = None
