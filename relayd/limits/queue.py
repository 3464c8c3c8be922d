"""The waiting queue: fair queueing with priorities and ageing.

Laws:
1. The waiting requests of one consumer with one priority and one capacity check form a flow, first in, first out.
2. The next grant goes to the flow of the highest level; among these to the consumer with the fewest permits; among
   these to the flow that was granted least recently. A new flow queues behind all flows that already wait.
3. A flow's level is its priority plus one for each `ageing_s` since its last grant (or its creation), so no flow
   starves. After (q - p + 1) * ageing_s, a flow of priority p, competing with priorities up to q, precedes everything
   that arrived or was granted in the meantime; each other flow can precede it once more, none twice.
4. A flow without capacity (`has_capacity`) is skipped and keeps its order.

Costs: enqueue, remove and dequeue are O(log n) in the number of flows; `first` calls each distinct capacity check once.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator

from relayd.limits.permits import Permits
from relayd.limits.ticket import HasCapacity, Waiter
from relayd.limits.waiting_counts import WaitingCounts

_SLACK = 64


class Flow:
    """The waiting requests of one consumer, priority and capacity check, in order of arrival. Owned by its queue.

    `turn` is the sequence number of its last grant (or its creation), `since_s` the time of it. `stamp` identifies its
    valid heap entry; entries with another stamp are stale.
    """

    __slots__ = ("consumer", "has_capacity", "level", "priority", "since_s", "stamp", "turn", "waiters")

    def __init__(self, consumer: str, priority: int, has_capacity: HasCapacity | None) -> None:
        self.consumer, self.priority, self.has_capacity = consumer, priority, has_capacity
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self.level = priority
        self.turn = self.stamp = 0
        self.since_s = 0.0


class WaitingQueue:
    """All waiting requests of one gate. Owned by the gate, which also owns the permits that fairness compares."""

    __slots__ = (
        "_capacity_checks", "_counts_by_priority", "_due", "_flows", "_flows_of", "_number", "_order", "_permits",
        "ageing_s", "depth",
    )

    def __init__(self, permits: Permits, ageing_s: float) -> None:
        self._permits = permits
        self.ageing_s = ageing_s
        self.depth = 0
        self._number = 0
        self._flows: dict[tuple[str, int, HasCapacity | None], Flow] = {}
        self._flows_of: dict[str, list[Flow]] = {}
        self._capacity_checks: dict[HasCapacity | None, int] = {}  # the number of flows that use it
        self._counts_by_priority: dict[int, WaitingCounts] = {}
        self._order: list[tuple[int, int, int, int, Flow]] = []  # heap: -level, held, turn, stamp
        self._due: list[tuple[float, int, Flow]] = []  # heap: when the flow's level rises, its turn

    def __iter__(self) -> Iterator[Waiter]:
        for flow in self._flows.values():
            yield from flow.waiters

    def enqueue(self, waiter: Waiter, now_s: float) -> None:
        """Append a request to its flow."""
        key = (waiter.consumer, waiter.priority, waiter.has_capacity)
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = Flow(*key)
            self._flows_of.setdefault(flow.consumer, []).append(flow)
            self._capacity_checks[flow.has_capacity] = self._capacity_checks.get(flow.has_capacity, 0) + 1
            self._begin_turn(flow, now_s)
        flow.waiters[waiter] = None
        self.depth += 1
        self._counts_by_priority.setdefault(waiter.priority, WaitingCounts()).add(waiter.consumer)

    def remove(self, waiter: Waiter) -> None:
        """Remove a request from any position. Its flow keeps its order."""
        flow = self._flows[waiter.consumer, waiter.priority, waiter.has_capacity]
        del flow.waiters[waiter]
        self.depth -= 1
        counts = self._counts_by_priority[waiter.priority]
        counts.remove(waiter.consumer)
        if not counts:
            del self._counts_by_priority[waiter.priority]
        if not flow.waiters:
            self._end(flow)

    def dequeue(self, waiter: Waiter, now_s: float) -> None:
        """Remove a request that was granted a permit. Its flow moves behind the others."""
        self.remove(waiter)
        flow = self._flows.get((waiter.consumer, waiter.priority, waiter.has_capacity))
        if flow is not None:
            self._begin_turn(flow, now_s)
        self.reprioritise(waiter.consumer)

    def first(self, now_s: float) -> Waiter | None:
        """The request to grant next; None if no waiting request has capacity."""
        self._age(now_s)
        order = self._order
        closed: set[HasCapacity | None] = set()
        passed: list[tuple[int, int, int, int, Flow]] = []
        found = None
        while order and len(closed) < len(self._capacity_checks):
            flow = order[0][4]
            if order[0][3] != flow.stamp:
                heapq.heappop(order)  # stale
                continue
            has_capacity = flow.has_capacity
            if has_capacity is None or (has_capacity not in closed and has_capacity()):
                found = next(iter(flow.waiters))
                break
            closed.add(has_capacity)
            passed.append(heapq.heappop(order))
        for entry in passed:
            heapq.heappush(order, entry)
        return found

    def reprioritise(self, consumer: str) -> None:
        """Update the order after the number of this consumer's permits has changed."""
        for flow in self._flows_of.get(consumer, ()):
            self._put(flow)

    def eviction_candidate(self, priority: int, consumer: str) -> Waiter | None:
        """The waiting request to evict so that this consumer's new request can queue; None if none may be evicted.

        This is the newest request of the consumer with the most waiting requests at the lowest priority. It is evicted
        if that priority is lower than the new request's, or if its consumer still has as many waiting requests as the
        new request's consumer afterwards.
        """
        if not self._counts_by_priority:
            return None
        lowest = min(self._counts_by_priority)
        if lowest > priority:
            return None
        counts = self._counts_by_priority[lowest]
        largest, count = counts.largest()
        if lowest == priority and count < counts.by_consumer.get(consumer, 0) + 2:
            return None
        lasts = [next(reversed(flow.waiters)) for flow in self._flows_of[largest] if flow.priority == lowest]
        return max(lasts, key=lambda waiter: waiter.since_s)

    def waiting_by_consumer(self) -> dict[str, int]:
        """The number of waiting requests of each consumer."""
        reported: dict[str, int] = {}
        for counts in self._counts_by_priority.values():
            for consumer, count in counts.by_consumer.items():
                reported[consumer] = reported.get(consumer, 0) + count
        return reported

    def in_order(self, now_s: float) -> Iterator[Waiter]:
        """All waiting requests in the order of their grants, if no request arrives or leaves and all have capacity."""
        self._age(now_s)
        held, number = dict(self._permits.held), self._number
        # One entry per flow: -level, held, turn, flow, its remaining waiters.
        order = [
            (-flow.level, held.get(flow.consumer, 0), flow.turn, flow, iter(flow.waiters))
            for flow in self._flows.values()
        ]
        heapq.heapify(order)
        while order:
            level, before, turn, flow, waiters = order[0]
            holds = held.get(flow.consumer, 0)
            if holds != before:  # the consumer was granted a permit through another of its flows
                heapq.heapreplace(order, (level, holds, turn, flow, waiters))
                continue
            waiter = next(waiters, None)
            if waiter is None:
                heapq.heappop(order)
                continue
            yield waiter
            number += 1
            held[flow.consumer] = holds + 1
            heapq.heapreplace(order, (-flow.priority, holds + 1, number, flow, waiters))

    def waiting(self, consumer: str, priority: int) -> int:
        """The number of waiting requests of this consumer with this priority."""
        counts = self._counts_by_priority.get(priority)
        return 0 if counts is None else counts.by_consumer.get(consumer, 0)

    def position(self, waiter: Waiter, now_s: float) -> int:
        """The request's queue position if no request arrives or leaves; 1 is the next."""
        flow = self._flows[waiter.consumer, waiter.priority, waiter.has_capacity]
        index = 0
        for other in flow.waiters:
            if other is waiter:
                break
            index += 1
        return self._turns_before(flow, index, now_s) + index + 1

    def position_of_newcomer(self, consumer: str, priority: int, has_capacity: HasCapacity | None, now_s: float) -> int:
        """The queue position that a request enqueued now would have."""
        flow = self._flows.get((consumer, priority, has_capacity))
        if flow is not None:
            index = len(flow.waiters)
        else:
            flow, index = Flow(consumer, priority, has_capacity), 0
            flow.turn = self._number + 1
        return self._turns_before(flow, index, now_s) + index + 1

    def _turns_before(self, flow: Flow, index: int, now_s: float) -> int:
        """The number of requests of other flows that precede the request with this index in its flow."""
        self._age(now_s)
        higher = [
            counts.by_consumer for priority, counts in self._counts_by_priority.items() if priority > flow.priority
        ]

        def holds(consumer: str) -> int:
            """The permits of a consumer after all requests of higher priority have been granted."""
            return self._permits.held.get(consumer, 0) + sum(counts.get(consumer, 0) for counts in higher)

        mine = holds(flow.consumer) + index  # permits of this consumer when this request is granted
        before = 0
        for other in self._flows.values():
            if other is flow:
                continue
            count = len(other.waiters)
            if other.priority > flow.priority:
                before += count
            elif other.priority < flow.priority:
                before += (other.level, -other.turn) > (flow.level, -flow.turn)  # raised by ageing, for one grant
            else:
                fewer = mine - holds(other.consumer)  # grants of the other flow until both consumers hold the same
                # Then the flow that was granted less recently is next: the one with fewer grants up to that point.
                tie = fewer < index or (fewer == index and other.turn < flow.turn)
                before += min(count, max(int(other.level > flow.level), fewer + tie))
        return before

    def _begin_turn(self, flow: Flow, now_s: float) -> None:
        self._number += 1
        flow.turn, flow.since_s, flow.level = self._number, now_s, flow.priority
        self._put(flow)
        heapq.heappush(self._due, (now_s + self.ageing_s, flow.turn, flow))
        if len(self._due) > _SLACK + 4 * len(self._flows):
            self._due = [entry for entry in self._due if entry[1] == entry[2].turn]
            heapq.heapify(self._due)

    def _put(self, flow: Flow) -> None:
        """Insert the flow into the order by its present key."""
        flow.stamp += 1
        order = self._order
        heapq.heappush(order, (-flow.level, self._permits.held.get(flow.consumer, 0), flow.turn, flow.stamp, flow))
        if len(order) > _SLACK + 4 * len(self._flows):
            self._order = [entry for entry in order if entry[3] == entry[4].stamp]
            heapq.heapify(self._order)

    def _end(self, flow: Flow) -> None:
        del self._flows[flow.consumer, flow.priority, flow.has_capacity]
        flows = self._flows_of[flow.consumer]
        flows.remove(flow)
        if not flows:
            del self._flows_of[flow.consumer]
        left = self._capacity_checks[flow.has_capacity] - 1
        if left:
            self._capacity_checks[flow.has_capacity] = left
        else:
            del self._capacity_checks[flow.has_capacity]
        flow.stamp = flow.turn = -1  # invalidates its entries in the heaps

    def _age(self, now_s: float) -> None:
        """Raise the level of flows that are due."""
        due = self._due
        while due and due[0][0] <= now_s:
            _, turn, flow = heapq.heappop(due)
            if turn != flow.turn:
                continue
            # At least one step: rounding may make the quotient too small.
            steps = max(flow.level - flow.priority + 1, int((now_s - flow.since_s) / self.ageing_s))
            flow.level = flow.priority + steps
            self._put(flow)
            heapq.heappush(due, (flow.since_s + (steps + 1) * self.ageing_s, turn, flow))
