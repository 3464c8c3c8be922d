"""The Lua scripts by which machines share certificates through Redis (daemon/shared_certificates).

KEYS, all of one group (machines with the same key): 1 texts by id, each "rank milliseconds sealed"; 2 ids by the number
of their last change; 3 state: epoch, last number, lease (holder, fence, until); 4 members, each "milliseconds number";
5 the milliseconds after which a text is not needed. KEYS[6], of all groups: when each was last seen.

1. All times are those of the server, so the clocks of machines do not matter. A lease that ends later than it can was
   granted before the server's clock was set back, and is shortened.
2. The epoch is a random text. It changes if the server has lost the data, and everything is shared again.
3. A lease has a number, the fence, that grows. A change by a holder whose lease another machine has got is refused.
"""

from __future__ import annotations

from relayd.stores._redis_server import Script

MEMBER_MS = 5_000  # a machine that has not asked for this long is not waited for

_HEAD = f"local MEMBER_MS = {MEMBER_MS}" + """
local MONTH = 2592000000
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if redis.call('HSETNX', KEYS[3], 'epoch', ARGV[1]) == 1 then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[4], KEYS[5])
end
if redis.call('PTTL', KEYS[3]) < MONTH - 86400000 then
  for place = 1, 5 do redis.call('PEXPIRE', KEYS[place], MONTH) end
end
local epoch, me = redis.call('HGET', KEYS[3], 'epoch'), ARGV[2]
local function state(field) return redis.call('HGET', KEYS[3], field) or '' end
local function is_mine(fence) return state('holder') == me and state('fence') == fence end
local function each(key) return ipairs(redis.call('HKEYS', key)) end
"""

# ARGV: epoch, machine, group, the number up to which changes are known, the most texts. Returns the epoch, the groups
# that are there as "id milliseconds ago", then number, id, rank, milliseconds since it was written, and text of each.
PULL = Script("pull_certificates", _HEAD + """
redis.call('HSET', KEYS[4], me, string.format('%.0f ', now) .. ARGV[4])
redis.call('HSET', KEYS[6], ARGV[3], string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[6], MONTH)
redis.call('PEXPIRE', KEYS[4], MONTH)
local groups = ''
for _, group in each(KEYS[6]) do
  local ago = now - tonumber(redis.call('HGET', KEYS[6], group))
  if ago > 86400000 then redis.call('HDEL', KEYS[6], group) end
  groups = groups .. group .. ' ' .. string.format('%.0f', ago) .. ' '
end
local reply = {epoch, groups}
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[4], '+inf', 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[5]))
for place = 1, #ids, 2 do
  local rank, written, text = string.match(redis.call('HGET', KEYS[1], ids[place]) or '', '^([^|]*)|(%d+)|(.*)$')
  local age = string.format('%.0f', now - (written or now))
  for _, one in ipairs({ids[place + 1], ids[place], rank or '', age, text or ''}) do reply[#reply + 1] = one end
end
return reply
""")  # fmt: skip

# ARGV: epoch, machine, fence (empty: an offer of a machine that orders nothing), id, rank, life in milliseconds, sealed
# text, which is empty to remove it; 1 to write only what nobody has. Returns its number, 0 if the text of the server is
# as new, -1 if the lease is lost.
PUT = Script("put_certificate", _HEAD + """
local fence, id, rank = ARGV[3], ARGV[4], ARGV[5]
if fence ~= '' and not is_mine(fence) then return -1 end
local known = string.match(redis.call('HGET', KEYS[1], id) or '', '^([^|]*)|')
if known and (ARGV[8] == '1' or rank < known or (rank == known and fence == '')) then return 0 end
for _, one in each(KEYS[5]) do
  if tonumber(redis.call('HGET', KEYS[5], one)) < now then
    redis.call('HDEL', KEYS[1], one)
    redis.call('HDEL', KEYS[5], one)
    redis.call('ZREM', KEYS[2], one)
  end
end
local number = redis.call('HINCRBY', KEYS[3], 'number', 1)
redis.call('HSET', KEYS[1], id, rank .. string.format('|%.0f|', now) .. ARGV[7])
redis.call('HSET', KEYS[5], id, string.format('%.0f', now + tonumber(ARGV[6])))
redis.call('ZADD', KEYS[2], number, id)
for place = 1, 5 do redis.call('PEXPIRE', KEYS[place], MONTH) end
return number
""")  # fmt: skip

# ARGV: epoch, machine, life in milliseconds. Returns the fence, or the name of the machine that has the lease.
ACQUIRE = Script("acquire_certificates", _HEAD + """
local life, ends = tonumber(ARGV[3]), tonumber(state('until')) or 0
if ends > now + life then
  ends = now + life
  redis.call('HSET', KEYS[3], 'until', string.format('%.0f', ends))
end
if ends > now and state('holder') ~= me then return state('holder') end
local fence = redis.call('HINCRBY', KEYS[3], 'fence', 1)
redis.call('HSET', KEYS[3], 'holder', me, 'until', string.format('%.0f', now + life))
return fence
""")  # fmt: skip

# ARGV: epoch, machine, fence, life in milliseconds; 0 ends the lease. Returns 0 if it is lost.
RENEW = Script("renew_certificates", _HEAD + """
if not is_mine(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[3], 'until', string.format('%.0f', now + tonumber(ARGV[4])))
return 1
""")  # fmt: skip

# ARGV: epoch, machine, number. Returns how many other machines that are there do not yet have this change.
BEHIND = Script("machines_behind", _HEAD + """
local behind = 0
for _, one in each(KEYS[4]) do
  local seen, number = string.match(redis.call('HGET', KEYS[4], one), '^(%d+) (%d+)$')
  local ago = now - tonumber(seen)
  if ago > 60000 or ago < -60000 then redis.call('HDEL', KEYS[4], one)
  elseif one ~= me and ago < MEMBER_MS and tonumber(number) < tonumber(ARGV[3]) then behind = behind + 1 end
end
return behind
""")  # fmt: skip
