"""Counts of waiting requests per consumer, with constant-time access to the consumer that has the most.

A full queue evicts a request of the consumer with the most waiting requests, so that one consumer cannot fill the queue
for all. Adding, removing and `largest` take constant time, independent of the number of consumers.
"""

from __future__ import annotations


class WaitingCounts:
    """The waiting requests of one priority, counted per consumer. Owned by a waiting queue."""

    __slots__ = ("_buckets", "_most", "by_consumer")

    def __init__(self) -> None:
        self.by_consumer: dict[str, int] = {}
        # Consumers by count. A change moves a consumer to a neighbouring count, so the maximum needs no search.
        self._buckets: dict[int, dict[str, None]] = {}
        self._most = 0

    def __bool__(self) -> bool:
        return bool(self.by_consumer)

    def add(self, consumer: str) -> None:
        """Count one more waiting request of this consumer."""
        count = self.by_consumer.get(consumer, 0)
        self._move(consumer, count, count + 1)
        self._most = max(self._most, count + 1)

    def remove(self, consumer: str) -> None:
        """Count one waiting request less of this consumer."""
        count = self.by_consumer[consumer]
        self._move(consumer, count, count - 1)
        if self._most == count and count not in self._buckets:
            self._most = count - 1

    def largest(self) -> tuple[str, int]:
        """The consumer with the most waiting requests and their number; ("", 0) if no request waits.

        Of several consumers with the same number, the one that reached it last.
        """
        bucket = self._buckets.get(self._most)
        return (next(reversed(bucket)), self._most) if bucket else ("", 0)

    def _move(self, consumer: str, before: int, after: int) -> None:
        if before:
            bucket = self._buckets[before]
            del bucket[consumer]
            if not bucket:
                del self._buckets[before]
        if after:
            self._buckets.setdefault(after, {})[consumer] = None
            self.by_consumer[consumer] = after
        else:
            del self.by_consumer[consumer]
