"""The waiting queue: whose turn is next.

Laws:
1. Waiters of one consumer, one priority and one kind of room stand in a line, first come, first served.
2. The next turn goes to the line of the highest level; then to the consumer that holds the fewest permits; then to the
   line whose turn is longest ago. A line that begins stands behind all that have been waiting for their turn.
3. A line's level is its priority plus one for each `ageing_s` since its last turn (or its beginning). So nobody
   starves: a line of priority p, while priorities up to q wait too, is after (q - p + 1) * ageing_s before everything
   that comes or has had its turn since; each other line can go before it once more, and none twice.
4. A line that has no room (see `room`) is passed over, and loses nothing by it.

Costs: joining, leaving and a turn are O(log n) in the lines; asking for room costs one call for each different room.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator

from relayd.limits.crowd import Crowd
from relayd.limits.permits import Permits
from relayd.limits.ticket import Room, Waiter

_SLACK = 64


class Line:
    """Waiters of one consumer, priority and room, in order of arrival. Owned by its queue.

    `turn` numbers the moment of its last turn (or its beginning), `since_s` is its time. `stamp` tells its one valid
    entry in the order from those that were left behind when its key changed.
    """

    __slots__ = ("level", "priority", "room", "since_s", "stamp", "turn", "waiters", "who")

    def __init__(self, who: str, priority: int, room: Room | None) -> None:
        self.who, self.priority, self.room = who, priority, room
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self.level = priority
        self.turn = self.stamp = 0
        self.since_s = 0.0


class WaitingQueue:
    """All that wait at one gate. Owned by the gate, which also owns the permits whose holders are compared."""

    __slots__ = (
        "_crowds", "_due", "_lines", "_lines_of", "_number", "_order", "_permits", "_rooms", "ageing_s", "depth",
    )

    def __init__(self, permits: Permits, ageing_s: float) -> None:
        self._permits = permits
        self.ageing_s = ageing_s
        self.depth = 0
        self._number = 0
        self._lines: dict[tuple[str, int, Room | None], Line] = {}
        self._lines_of: dict[str, list[Line]] = {}
        self._rooms: dict[Room | None, int] = {}  # how many lines ask it
        self._crowds: dict[int, Crowd] = {}  # by priority
        self._order: list[tuple[int, int, int, int, Line]] = []  # heap: -level, held, turn, stamp
        self._due: list[tuple[float, int, Line]] = []  # heap: when the line's level rises, its turn

    def __iter__(self) -> Iterator[Waiter]:
        for line in self._lines.values():
            yield from line.waiters

    def join(self, waiter: Waiter, now_s: float) -> None:
        """Put one at the end of its line."""
        key = (waiter.who, waiter.priority, waiter.room)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(*key)
            self._lines_of.setdefault(line.who, []).append(line)
            self._rooms[line.room] = self._rooms.get(line.room, 0) + 1
            self._begin_turn(line, now_s)
        line.waiters[waiter] = None
        self.depth += 1
        self._crowds.setdefault(waiter.priority, Crowd()).add(waiter.who)

    def remove(self, waiter: Waiter) -> None:
        """Take one out, wherever it stands; its line keeps its turn."""
        line = self._lines[waiter.who, waiter.priority, waiter.room]
        del line.waiters[waiter]
        self.depth -= 1
        crowd = self._crowds[waiter.priority]
        crowd.drop(waiter.who)
        if not crowd:
            del self._crowds[waiter.priority]
        if not line.waiters:
            self._end(line)

    def take(self, waiter: Waiter, now_s: float) -> None:
        """Take out the one whose turn it was, after it took its permit; its line goes behind the others."""
        self.remove(waiter)
        line = self._lines.get((waiter.who, waiter.priority, waiter.room))
        if line is not None:
            self._begin_turn(line, now_s)
        self.weigh(waiter.who)

    def first(self, now_s: float) -> Waiter | None:
        """Whose turn it is; None when nobody who waits has room."""
        self._age(now_s)
        order = self._order
        closed: set[Room | None] = set()
        passed: list[tuple[int, int, int, int, Line]] = []
        found = None
        while order and len(closed) < len(self._rooms):
            line = order[0][4]
            if order[0][3] != line.stamp:
                heapq.heappop(order)  # left behind
                continue
            room = line.room
            if room is None or (room not in closed and room()):
                found = next(iter(line.waiters))
                break
            closed.add(room)
            passed.append(heapq.heappop(order))
        for entry in passed:
            heapq.heappush(order, entry)
        return found

    def weigh(self, who: str) -> None:
        """How many permits this consumer holds has changed."""
        for line in self._lines_of.get(who, ()):
            self._put(line)

    def last_to_come(self, priority: int, who: str) -> Waiter | None:
        """Who gives up a place for one more of this consumer: the last of the largest crowd of the lowest priority,
        if that priority is lower, or if even then its consumer has as many waiting as the newcomer's."""
        if not self._crowds:
            return None
        lowest = min(self._crowds)
        if lowest > priority:
            return None
        crowd = self._crowds[lowest]
        largest, count = crowd.largest()
        if lowest == priority and count < crowd.counts.get(who, 0) + 2:
            return None
        lasts = [next(reversed(line.waiters)) for line in self._lines_of[largest] if line.priority == lowest]
        return max(lasts, key=lambda waiter: waiter.since_s)

    def waiting_of(self) -> dict[str, int]:
        """How many of each consumer wait."""
        told: dict[str, int] = {}
        for crowd in self._crowds.values():
            for who, count in crowd.counts.items():
                told[who] = told.get(who, 0) + count
        return told

    def in_order(self, now_s: float) -> Iterator[Waiter]:
        """All that wait, in the order of their turns if nobody comes or leaves and all have room."""
        self._age(now_s)
        held, number = dict(self._permits.held), self._number
        # One entry per line: -level, held, turn, line, what is left of its waiters.
        order = [
            (-line.level, held.get(line.who, 0), line.turn, line, iter(line.waiters)) for line in self._lines.values()
        ]
        heapq.heapify(order)
        while order:
            level, before, turn, line, waiters = order[0]
            holds = held.get(line.who, 0)
            if holds != before:  # it got a permit by another line of its own
                heapq.heapreplace(order, (level, holds, turn, line, waiters))
                continue
            waiter = next(waiters, None)
            if waiter is None:
                heapq.heappop(order)
                continue
            yield waiter
            number += 1
            held[line.who] = holds + 1
            heapq.heapreplace(order, (-line.priority, holds + 1, number, line, waiters))

    def waiting(self, who: str, priority: int) -> int:
        """How many of this consumer wait with this priority."""
        crowd = self._crowds.get(priority)
        return 0 if crowd is None else crowd.counts.get(who, 0)

    def place(self, waiter: Waiter, now_s: float) -> int:
        """Which turn will be this waiter's, 1 being the next, if nobody comes or leaves."""
        line = self._lines[waiter.who, waiter.priority, waiter.room]
        index = 0
        for other in line.waiters:
            if other is waiter:
                break
            index += 1
        return self._turns_before(line, index, now_s) + index + 1

    def place_of_newcomer(self, who: str, priority: int, room: Room | None, now_s: float) -> int:
        """Which turn would be that of one who joins now."""
        line = self._lines.get((who, priority, room))
        if line is not None:
            index = len(line.waiters)
        else:
            line, index = Line(who, priority, room), 0
            line.turn = self._number + 1
        return self._turns_before(line, index, now_s) + index + 1

    def _turns_before(self, line: Line, index: int, now_s: float) -> int:
        """How many of other lines go before the waiter with this index in its line."""
        self._age(now_s)
        higher = [crowd.counts for priority, crowd in self._crowds.items() if priority > line.priority]

        def holds(who: str) -> int:
            """Permits of a consumer when those of higher priority have had theirs."""
            return self._permits.held.get(who, 0) + sum(counts.get(who, 0) for counts in higher)

        mine = holds(line.who) + index  # when the turn of this waiter comes
        before = 0
        for other in self._lines.values():
            if other is line:
                continue
            count = len(other.waiters)
            if other.priority > line.priority:
                before += count
            elif other.priority < line.priority:
                before += (other.level, -other.turn) > (line.level, -line.turn)  # it has grown old; once
            else:
                fewer = mine - holds(other.who)  # its turns while it holds fewer permits than I then do
                # Then both hold as many. Whose turn is longer ago is next: who had fewer turns on the way there.
                tie = fewer < index or (fewer == index and other.turn < line.turn)
                before += min(count, max(int(other.level > line.level), fewer + tie))
        return before

    def _begin_turn(self, line: Line, now_s: float) -> None:
        self._number += 1
        line.turn, line.since_s, line.level = self._number, now_s, line.priority
        self._put(line)
        heapq.heappush(self._due, (now_s + self.ageing_s, line.turn, line))
        if len(self._due) > _SLACK + 4 * len(self._lines):
            self._due = [entry for entry in self._due if entry[1] == entry[2].turn]
            heapq.heapify(self._due)

    def _put(self, line: Line) -> None:
        """Give the line its place in the order by its present key."""
        line.stamp += 1
        order = self._order
        heapq.heappush(order, (-line.level, self._permits.held.get(line.who, 0), line.turn, line.stamp, line))
        if len(order) > _SLACK + 4 * len(self._lines):
            self._order = [entry for entry in order if entry[3] == entry[4].stamp]
            heapq.heapify(self._order)

    def _end(self, line: Line) -> None:
        del self._lines[line.who, line.priority, line.room]
        lines = self._lines_of[line.who]
        lines.remove(line)
        if not lines:
            del self._lines_of[line.who]
        left = self._rooms[line.room] - 1
        if left:
            self._rooms[line.room] = left
        else:
            del self._rooms[line.room]
        line.stamp = line.turn = -1  # what is left of it in the heaps is void

    def _age(self, now_s: float) -> None:
        """Raise the level of lines whose time has come."""
        due = self._due
        while due and due[0][0] <= now_s:
            _, turn, line = heapq.heappop(due)
            if turn != line.turn:
                continue
            # At least one step: the quotient of two roundings may fall short of the time that has come.
            steps = max(line.level - line.priority + 1, int((now_s - line.since_s) / self.ageing_s))
            line.level = line.priority + steps
            self._put(line)
            heapq.heappush(due, (line.since_s + (steps + 1) * self.ageing_s, turn, line))
