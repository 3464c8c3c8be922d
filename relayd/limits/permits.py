"""Permits: the number of exchanges in progress, in total and per consumer.

1. Each `acquire` is followed by exactly one `release`. The gate's tickets ensure this.
2. No permit is revoked. If the limit is lowered below the number of permits in use, no permit is granted until enough
   have been released.
"""

from __future__ import annotations

NO_PERMITS = -1


class Permits:
    """Permit counters. Owned by one gate. A `limit` of 0 means unlimited, NO_PERMITS that none is granted. `held` maps
    consumers to their permits; a consumer without permits has no entry."""

    __slots__ = ("held", "limit", "taken")

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.taken = 0
        self.held: dict[str, int] = {}

    @property
    def free(self) -> bool:
        """True if a permit can be acquired."""
        limit = self.limit
        return not limit or self.taken < limit

    @property
    def over(self) -> int:
        """The number of permits in use above the limit."""
        return max(0, self.taken - max(0, self.limit)) if self.limit else 0

    def acquire(self, consumer: str) -> None:
        """Acquire a permit for this consumer."""
        self.taken += 1
        held = self.held
        held[consumer] = held.get(consumer, 0) + 1

    def release(self, consumer: str) -> None:
        """Release a permit of this consumer."""
        self.taken -= 1
        held = self.held
        left = held[consumer] - 1
        if left:
            held[consumer] = left
        else:
            del held[consumer]
