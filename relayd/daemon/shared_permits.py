"""A service that shares limits of concurrent requests (`limits.shared`): each instance has a share of the permits, and
the shares together never exceed the limit.

1. Nothing of this is part of a request: a gate grants permits up to its share, as it does with a limit of its own. Each
   TICK_S, one call of a script reports what the gates of this instance use and need, and returns their shares.
2. A share grows only by permits that no other instance holds. It shrinks in two steps: this instance stops granting,
   and its next report frees what is no longer in use.
3. Instances that need more than there is get equal parts. What nobody needs is divided equally, so that a request
   seldom waits for a share.
4. What an instance holds is free LIFE_MS after its last report. While Redis is not available, shares stay as they are:
   an instance that alone is cut off from Redis may exceed the limit by its share after this time. An instance that
   starts has all permits until it has reached Redis. After Redis has lost its data, shares do not grow for LIFE_MS, so
   that those of instances which have not reported yet are not given to others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from relayd.daemon.shared_server import SharedServer
from relayd.daemon.timers import Timers
from relayd.limits.gate import Gate
from relayd.limits.gates import Gates
from relayd.plan.plan import Plan
from relayd.stores._redis_server import RedisServer, Script

TICK_S = 0.3
LIFE_MS = 5000

# KEYS: the hash of all gates and instances, "held needed seen" by "gate instance". ARGV: this instance, its life in ms;
# then of each gate its name, its limit, the permits in use, those needed (with waiting requests), and its share so far,
# -1 for none. A share that the hash does not know shows that data were lost: others may not have reported theirs yet,
# so that no share grows for the life. Returns the new share of each gate.
SHARE = Script("share_permits", """
local TURN = 2000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, life = ARGV[1], tonumber(ARGV[2])

local others, known, lost = {}, {}, 0
local found = redis.call('HGETALL', KEYS[1])
for place = 1, #found, 2 do
  local gate, instance = string.match(found[place], '^(.*) (%S+)$')
  local held, needed, seen = string.match(found[place + 1], '^(%d+) (%d+) (%d+)$')
  if found[place] == 'lost' then
    lost = tonumber(found[place + 1])
  elseif not seen or tonumber(seen) < now - life then
    redis.call('HDEL', KEYS[1], found[place])
  elseif instance == me then
    known[gate] = true
  else
    local list = others[gate] or {held = 0}
    others[gate] = list
    list.held = list.held + tonumber(held)
    list[#list + 1] = {instance, tonumber(needed)}
  end
end

-- The part of this instance, equal to that of others as far as they need it. Of equals, another one is last each turn.
local function part_of(limit, needed, list)
  local all = {{me, needed}}
  for _, one in ipairs(list) do all[#all + 1] = one end
  table.sort(all, function(a, b) return a[1] < b[1] end)
  for place, one in ipairs(all) do one[3] = (place + math.floor(now / TURN)) % #all end
  table.sort(all, function(a, b)
    if a[2] ~= b[2] then return a[2] < b[2] end
    return a[3] < b[3]
  end)
  local left, mine, at = limit, 0, 0
  for place, one in ipairs(all) do
    local part = math.min(one[2], math.floor(left / (#all - place + 1)))
    left = left - part
    if one[1] == me then mine, at = part, place end
  end
  mine = mine + math.floor(left / #all)
  if at > #all - left % #all then mine = mine + 1 end
  return mine
end

local reply = {}
for place = 3, #ARGV, 5 do
  local gate, limit, used = ARGV[place], tonumber(ARGV[place + 1]), tonumber(ARGV[place + 2])
  local needed, share = tonumber(ARGV[place + 3]), tonumber(ARGV[place + 4])
  local list = others[gate] or {held = 0}
  local granted = math.min(part_of(limit, needed, list), math.max(0, limit - list.held))
  if share >= 0 and not known[gate] then
    lost = now
    redis.call('HSET', KEYS[1], 'lost', string.format('%.0f', now))
  end
  if share >= 0 and now - lost < life then granted = math.min(granted, share) end
  local held = math.max(used, share, granted)
  redis.call('HSET', KEYS[1], gate .. ' ' .. me, string.format('%d %d %.0f', held, needed, now))
  reply[#reply + 1] = granted
end
redis.call('PEXPIRE', KEYS[1], 60000)
return reply
""")  # fmt: skip


class SharedPermits:
    """The service. Owned by the lifecycle."""

    def __init__(self, server: Callable[[], RedisServer | None], gates: Gates) -> None:
        """`server` returns the server of the store that is in force, None if the store is not shared."""
        self._server, self._gates = SharedServer(server), gates

    # ---- the service

    def commit(self, plan: Plan) -> None:
        if self._server.follow():
            for gate in self._gates:
                gate.set_share(None)
            self._server.on_available(self.tick)

    def start(self, timers: Timers) -> None:
        timers.every("shared_permits", TICK_S, self.tick)

    def gauges(self) -> None:
        """It has none."""

    def close(self) -> None:
        """Nothing to do: the shares of this instance end by themselves."""
        self._server.close()

    # ---- a tick

    def tick(self) -> None:
        """Report the permits in use and those needed, unless the last call is still waiting for its reply."""
        if not self._server.is_ready:
            return
        gates = [gate for gate in self._gates if gate.limits.shared and gate.limits.requests]
        if not gates:
            return
        arguments: list[str | int] = [self._server.instance, LIFE_MS]
        for gate in gates:
            arguments += [gate.name, gate.limits.requests, gate.in_flight, gate.in_flight + gate.depth]
            arguments.append(-1 if gate.share is None else gate.share)
        self._server.call(SHARE, "permits", arguments, partial(self._on_reply, gates))

    def _on_reply(self, gates: list[Gate], reply: Any) -> None:
        for gate, share in zip(gates, reply, strict=True):
            gate.set_share(share)
