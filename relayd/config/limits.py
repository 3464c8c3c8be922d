"""`limits:` how much may be under way at one time, and how much may wait for it."""

from __future__ import annotations

from collections.abc import Iterable

from relayd.schema import Duration, section, setting

MOST = 1_000_000  # more exchanges than descriptors can ever be had for
HIGHEST_PRIORITY = 100


@section(shorthand="requests")
class Limits:
    """Permits and waiting places: of an upstream or an endpoint, of a route, of a consumer.

    A permit is held from admission to the last byte of the response, or to the moment when the client leaves.
    """

    requests: int = setting(default=0, doc="Exchanges at one time; 0 means no limit. Counted from admission to the last byte, retries and fallbacks within the same permit; streams and tunnels count as long as they are open.", minimum=0, maximum=MOST)
    queue: int = setting(default=0, doc="Exchanges that may wait for a permit; above it they are refused at once with Retry-After. The longest line of one consumer gives up its last place to a consumer that has fewer waiting, and a lower priority to a higher one.", minimum=0, maximum=MOST)
    queue_timeout: Duration = setting(default=Duration(30), doc="How long one may wait; then it is refused with Retry-After. What by the measured service time could not be served within it is refused on arrival. 0 means no limit.", zero_is_off=True)
    ageing: Duration = setting(default=Duration(10), doc="Waiting this long counts as one step of priority, so that nobody starves: whose priority is lower by 2 is before every newcomer after three of these spans.", minimum=0.1, maximum=3600)

    def caution(self) -> Iterable[tuple[str, str]]:
        if self.requests and self.queue > 1000 * self.requests:
            yield "queue", "more than a thousand rounds of waiting for each permit; the clients will have left by then"


def idle_queue(limits: Limits) -> Iterable[tuple[str, str]]:
    """A caution about a queue in which nobody can ever wait."""
    if limits.queue and not limits.requests:
        yield "limits.queue", "nothing waits here as long as requests is not limited"
