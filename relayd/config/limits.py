"""`limits:` the concurrent exchanges, and the queue for them."""

from __future__ import annotations

from collections.abc import Iterable

from relayd.schema import Duration, section, setting

MOST = 1_000_000  # more exchanges than available descriptors
HIGHEST_PRIORITY = 100


@section(shorthand="requests")
class Limits:
    """Permits and queue entries: of an upstream or an endpoint, of a route, of a consumer.

    A permit is held from admission to the last byte of the response, or to the moment when the client leaves.
    """

    requests: int = setting(default=0, doc="Concurrent exchanges; 0 means no limit. Counted from admission to the last byte, retries and fallbacks within the same permit; streams and tunnels count as long as they are open.", minimum=0, maximum=MOST)
    queue: int = setting(default=0, doc="Exchanges that may wait for a permit; above it they are refused at once with Retry-After. If the queue is full, the newest request of the consumer with the most waiting requests is evicted for a consumer with fewer, and a request of lower priority for one of higher priority.", minimum=0, maximum=MOST)
    queue_timeout: Duration = setting(default=Duration(30), doc="How long an exchange may wait; then it is refused with Retry-After. An exchange that, by the measured service time, cannot be served within this time is refused on arrival. 0 means no limit.", zero_is_off=True)
    ageing: Duration = setting(default=Duration(10), doc="Each interval spent waiting raises the priority of a request by one, so that low priorities are never starved. Example: with 10s, a request two priorities lower overtakes new arrivals after 30s.", minimum=0.1, maximum=3600)

    shared: bool = setting(default=False, doc="Count `requests` over all instances that share a store (`store: redis`), instead of each for itself; they never exceed it together. Several times per second each instance gets a share, by the requests that it processes and that wait, so a request may wait in the queue for up to a second although another instance has a free permit; without `queue` it is refused. The share of an instance that ended is free after 5 seconds. While Redis is not available, each instance keeps its share. relayd-scaling(7) has the details.")

    def check(self) -> Iterable[tuple[str, str]]:
        if self.shared and not self.requests:
            yield "shared", "needs requests"

    def caution(self) -> Iterable[tuple[str, str]]:
        if self.requests and self.queue > 1000 * self.requests:
            yield "queue", "is more than 1000 times requests; most clients will disconnect before their turn"


def idle_queue(limits: Limits) -> Iterable[tuple[str, str]]:
    """A caution about a queue in which no exchange can ever wait."""
    if limits.queue and not limits.requests:
        yield "limits.queue", "nothing waits here as long as requests is not limited"
