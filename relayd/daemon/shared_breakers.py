"""A service that shares the openings of breakers through Redis, so that an endpoint which failed for one instance is
not tried by the others.

1. Nothing of this is part of a request. Each TICK_S, one call of a script reports the changes of this
   instance and returns those of the others: an opening is known everywhere after at most two ticks.
2. When the open time of a breaker is over, one instance becomes half-open: the one that the script grants it, for
   LEASE_MS, which it prolongs. Until the grant, a breaker stays open. An instance without requests for the endpoint
   gives the grant back after a while if another one wants it.
3. A breaker that closes in one instance closes in all. What an operator has forced open concerns one instance only.
4. While Redis is not available, breakers work as in a single instance: an open time ends by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from relayd import clock
from relayd.daemon.shared_server import SharedServer
from relayd.daemon.timers import Timers
from relayd.dataclass import dataclass
from relayd.plan.plan import Plan
from relayd.stores._redis_server import RedisServer, Script
from relayd.upstream.breaker import CLOSED, OPEN, Breaker
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.upstream import Upstream

TICK_S = 0.3
HOLD_S = 3 * TICK_S  # by which an open time is prolonged until the grant; it ends by itself if Redis fails
LEASE_MS = 2000
LEAST_IDLE_S, MOST_IDLE_S = 2.0, 10.0  # how long a grant is kept without a probe; doubled each time

# KEYS: the hash of all breakers. ARGV: this instance, the lease in ms; then of each operation its name, the breaker and
# a time in ms. An entry is "number state due owner lease reporter wanted", with times of the server in ms; the number
# grows with each report, `wanted` is 1 if another instance was refused the grant. Returns all entries, with the rest of
# the open time in ms.
EXCHANGE = Script("exchange_breakers", """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, lease = ARGV[1], tonumber(ARGV[2])

local function read(text)
  local form = '^(%d+) (%a+) (%d+) (%S+) (%d+) (%S+) (%d)$'
  local number, state, due, owner, leased, reporter, wanted = string.match(text, form)
  if not number then return nil end
  return {tonumber(number), state, tonumber(due), owner, tonumber(leased), reporter, tonumber(wanted)}
end

local function write(field, entry)
  redis.call('HSET', KEYS[1], field, string.format('%.0f %s %.0f %s %.0f %s %d', unpack(entry)))
end

for place = 3, #ARGV, 3 do
  local operation, field, ms = ARGV[place], ARGV[place + 1], tonumber(ARGV[place + 2])
  local text = redis.call('HGET', KEYS[1], field)
  local entry = text and read(text) or {0, 'open', now, '-', 0, me, 0}
  if operation == 'open' or operation == 'closed' then
    write(field, {math.max(entry[1] + 1, now), operation, now + ms, '-', 0, me, 0})
  elseif entry[2] == 'open' and operation == 'claim' then
    local is_free = entry[4] == '-' or entry[5] <= now
    if entry[4] == me or (entry[3] <= now and is_free) then
      if entry[4] ~= me then entry[7] = 0 end
      entry[4], entry[5] = me, now + lease
      write(field, entry)
    elseif not is_free and entry[7] == 0 then
      entry[7] = 1
      write(field, entry)
    end
  elseif operation == 'yield' and entry[4] == me then
    entry[4], entry[5], entry[7] = '-', 0, 0
    write(field, entry)
  end
end

local found = redis.call('HGETALL', KEYS[1])
local reply = {}
for place = 1, #found, 2 do
  local entry = read(found[place + 1])
  if not entry or (entry[2] == 'closed' and entry[1] < now - 60000) or entry[3] < now - 3600000 then
    redis.call('HDEL', KEYS[1], found[place])
  else
    reply[#reply + 1] = {found[place], entry[1], entry[2], math.max(0, entry[3] - now), entry[4], entry[6], entry[7]}
  end
end
if #ARGV > 2 then redis.call('PEXPIRE', KEYS[1], 7200000) end
return reply
""")  # fmt: skip


@dataclass(slots=True)
class Known:
    """What this instance has reported of a breaker, and learned of it: the number of the last report, and whether
    another instance wants the grant. Since `idle_from_s` the grant was not used; until `not_before_s` it is not asked
    for."""

    state: str = CLOSED
    openings: int = 0
    number: int = 0
    is_wanted: bool = False
    idle_from_s: float = 0.0
    idle_s: float = LEAST_IDLE_S
    not_before_s: float = 0.0


class SharedBreakers:
    """The service. Owned by the lifecycle."""

    def __init__(self, server: Callable[[], RedisServer | None]) -> None:
        """`server` returns the server of the store that is in force, None if the store is not shared."""
        self._server = SharedServer(server)
        self._known: dict[str, Known] = {}
        self._upstreams: tuple[Upstream, ...] = ()

    # ---- the service

    def commit(self, plan: Plan) -> None:
        self._upstreams = tuple(plan.upstreams.values())
        if self._server.follow():
            self._known = {}

    def start(self, timers: Timers) -> None:
        timers.every("shared_breakers", TICK_S, self.tick)

    def gauges(self) -> None:
        """It has none."""

    def close(self) -> None:
        """Nothing to do: a grant of this instance ends by itself."""
        self._server.close()

    # ---- a tick

    def tick(self) -> None:
        """Report changes and ask for those of others, unless the last call is still waiting for its reply."""
        if self._server.is_ready:
            operations = [word for operation in self._operations(clock.monotonic()) for word in operation]
            self._server.call(EXCHANGE, "breakers", [self._server.instance, LEASE_MS, *operations], self._on_reply)

    def _breakers(self) -> Iterator[tuple[str, Upstream, Endpoint, Breaker]]:
        for upstream in self._upstreams:
            for endpoint in upstream.endpoints:
                if (breaker := endpoint.breaker) is not None and not breaker.forced:
                    yield f"{upstream.name} {endpoint.label}", upstream, endpoint, breaker

    def _operations(self, now_s: float) -> Iterator[tuple[str, str, int]]:
        for name, upstream, _, breaker in self._breakers():
            known = self._known.get(name)
            if known is None:
                if breaker.state == CLOSED:
                    continue
                known = self._known[name] = Known()
            state, openings = known.state, known.openings
            known.state, known.openings = breaker.state, breaker.openings
            if breaker.state == CLOSED:
                if state != CLOSED:
                    yield "closed", name, 0
            elif breaker.state == OPEN and (state == CLOSED or openings != breaker.openings):
                yield "open", name, max(0, round((breaker.until_s - now_s) * 1000))
            elif breaker.state == OPEN:
                if breaker.until_s - now_s <= HOLD_S:
                    breaker.until_s = now_s + HOLD_S
                    if now_s >= known.not_before_s:
                        yield "claim", name, 0
            elif self._keeps_grant(known, breaker, now_s):
                yield "claim", name, 0
            else:
                known.state, known.not_before_s = OPEN, now_s + known.idle_s
                known.idle_s = min(MOST_IDLE_S, known.idle_s * 2)
                breaker.join_opening(now_s, now_s + HOLD_S)
                upstream.recompute(now_s)
                yield "yield", name, 0

    def _keeps_grant(self, known: Known, breaker: Breaker, now_s: float) -> bool:
        """True if this instance probes, or if no other one wants to."""
        if breaker.is_probing:
            known.idle_from_s, known.idle_s = now_s, LEAST_IDLE_S
        return not known.is_wanted or now_s - known.idle_from_s < known.idle_s

    def _on_reply(self, reply: Any) -> None:
        now_s, instance = clock.monotonic(), self._server.instance.encode()
        found = {entry[0]: entry[1:] for entry in reply}
        for name, upstream, endpoint, breaker in self._breakers():
            if (entry := found.get(name.encode())) is not None:
                number, state, rest_ms, owner, reporter, wanted = entry
                known = self._known.setdefault(name, Known())
                is_new, known.number, known.is_wanted = number != known.number, number, bool(wanted)
                if is_new and reporter != instance:
                    self._apply(upstream, endpoint, state.decode(), rest_ms / 1000, now_s)
                    known.state, known.openings = breaker.state, breaker.openings
                elif owner == instance and breaker.state == OPEN == known.state:
                    known.idle_from_s = breaker.until_s = now_s
                    upstream.recompute(now_s)

    def _apply(self, upstream: Upstream, endpoint: Endpoint, state: str, rest_s: float, now_s: float) -> None:
        """Follow a report of another instance."""
        breaker = endpoint.breaker
        assert breaker is not None
        if state == CLOSED:
            if breaker.join_closing(now_s):
                upstream.notify(endpoint, "breaker_closed", "a probe of another instance succeeded", now_s)
        elif breaker.join_opening(now_s, now_s + max(HOLD_S, rest_s)):
            upstream.notify(endpoint, "breaker_opened", "it failed for another instance", now_s)
