"""The scripts of the Redis store, which run inside the server, and the layout of its data.

A space has three keys in one slot: a sorted set of its entries by the time at which they expire, a hash with their
texts, and a hash with their sizes and the sum of the sizes. All three expire natively after the last entry. The store
has an index: a sorted set of the spaces by size, one by the time at which their last entry expires, and the sum of the
sizes.

Times are milliseconds of the server's clock, so that instances need not agree on the time. `ahead` is added to it.
"""

from __future__ import annotations

from relayd.stores._redis_server import Script

SWEPT_AT_ONCE = 64
KEEP_LONGER_MS = 60_000

_TIME = """
local function clock(ahead)
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000) + ahead
end
"""

# Let all keys expire natively after the last entry, which expires in so many ms.
_EXPIRE = """
local function expire_keys(left)
  local text = string.format('%.0f', left + KEEP_LONGER)
  for _, name in ipairs(KEYS) do redis.call('PEXPIRE', name, text) end
end
""".replace("KEEP_LONGER", str(KEEP_LONGER_MS))

_SPACE = (
    _TIME
    + _EXPIRE
    + """
local X, V, S = KEYS[1], KEYS[2], KEYS[3]
local function drop(key)
  local size = redis.call('HGET', S, 'k' .. key)
  redis.call('ZREM', X, key)
  redis.call('HDEL', V, key)
  if size then
    redis.call('HDEL', S, 'k' .. key)
    redis.call('HINCRBY', S, 't', '-' .. size)
  end
end
local function expire(now, most)
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', X, '-inf', string.format('(%.0f', now), 'LIMIT', 0, most)) do
    drop(key)
  end
end
local function present(key, now)
  local at = redis.call('ZSCORE', X, key)
  local text = at and tonumber(at) >= now and redis.call('HGET', V, key)
  if not text then drop(key) end
  return text
end
local function keep(key, now, ttl)
  redis.call('ZADD', X, string.format('%.0f', now + ttl), key)
  local last = redis.call('ZRANGE', X, -1, -1, 'WITHSCORES')[2]
  expire_keys(last - now)
end
local function totals(now)
  local last = redis.call('ZRANGE', X, -1, -1, 'WITHSCORES')[2]
  return {redis.call('ZCARD', X), tonumber(redis.call('HGET', S, 't') or 0), last and last - now or 0}
end
local function put(key, text, size, ttl, now, most_bytes, most_entries)
  if redis.call('EXISTS', X) == 0 then redis.call('DEL', V, S) end
  expire(now, SWEPT)
  drop(key)
  while redis.call('ZCARD', X) >= most_entries or (redis.call('HGET', S, 't') or 0) + size > most_bytes do
    local first = redis.call('ZRANGE', X, 0, 0)[1]
    if not first then break end
    drop(first)
  end
  redis.call('HSET', V, key, text)
  redis.call('HSET', S, 'k' .. key, size)
  redis.call('HINCRBY', S, 't', size)
  keep(key, now, ttl)
end
"""
).replace("SWEPT", str(SWEPT_AT_ONCE))

# key, text, size, ttl, ahead, most bytes, most entries -> entries, bytes, milliseconds to the last expiry
PUT = Script(
    "put",
    _SPACE
    + """
local now = clock(ARGV[5])
put(ARGV[1], ARGV[2], ARGV[3], ARGV[4], now, tonumber(ARGV[6]), tonumber(ARGV[7]))
return totals(now)
""",
)

# key, ttl, ahead -> text or nil
GET = Script(
    "get",
    _SPACE
    + """
local now = clock(ARGV[3])
local text = present(ARGV[1], now)
if text then keep(ARGV[1], now, ARGV[2]) end
return text
""",
)

# key, ahead -> entries, bytes, milliseconds to the last expiry
DELETE = Script("delete", _SPACE + "drop(ARGV[1]) return totals(clock(ARGV[2]))")

# key, 1 and the expected text or 0, 1 and the new text or 0, size, ttl, ahead, most bytes, most entries
# -> changed, totals
SWAP = Script(
    "swap",
    _SPACE
    + """
local now = clock(ARGV[8])
local text = present(ARGV[1], now)
if (ARGV[2] == '1' and text ~= ARGV[3]) or (ARGV[2] == '0' and text) then return {0, totals(now)} end
if ARGV[4] == '1' then
  put(ARGV[1], ARGV[5], ARGV[6], ARGV[7], now, tonumber(ARGV[9]), tonumber(ARGV[10]))
else
  drop(ARGV[1])
end
return {1, totals(now)}
""",
)

# most, ahead -> (key, size, milliseconds left) ...
LIST = Script(
    "list",
    _SPACE
    + """
local now, found = clock(ARGV[2]), {}
local entries = redis.call('ZRANGEBYSCORE', X, string.format('%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[1])
for i = 1, #entries, 2 do
  found[#found + 1] = {entries[i], redis.call('HGET', S, 'k' .. entries[i]) or '0', entries[i + 1] - now}
end
return found
""",
)

# most, bytes to free, ahead -> entries, bytes, milliseconds to the last expiry
SHRINK = Script(
    "shrink",
    _SPACE
    + """
local now, left = clock(ARGV[3]), tonumber(ARGV[2])
expire(now, tonumber(ARGV[1]))
for _, key in ipairs(redis.call('ZRANGE', X, 0, tonumber(ARGV[1]) - 1)) do
  if left <= 0 then break end
  left = left - (redis.call('HGET', S, 'k' .. key) or 0)
  drop(key)
end
return totals(now)
""",
)

# KEYS: spaces by size, by expiry, sum. space, entries, bytes, milliseconds to the last expiry, ahead
# -> sum of the sizes, the largest space, its size
INDEX = Script(
    "index",
    _TIME
    + _EXPIRE
    + """
local now = clock(ARGV[5])
for _, space in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('(%.0f', now), 'LIMIT', 0, SWEPT)) do
  redis.call('INCRBY', KEYS[3], string.format('%.0f', -(redis.call('ZSCORE', KEYS[1], space) or 0)))
  redis.call('ZREM', KEYS[1], space)
  redis.call('ZREM', KEYS[2], space)
end
local old = redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('INCRBY', KEYS[3], string.format('%.0f', -old))
else
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[4]), ARGV[1])
  redis.call('INCRBY', KEYS[3], string.format('%.0f', ARGV[3] - old))
end
local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]
if last then
  expire_keys(math.max(1, last - now))
else
  redis.call('DEL', KEYS[3])
end
local largest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
return {tonumber(redis.call('GET', KEYS[3]) or 0), largest[1] or '', tonumber(largest[2] or 0)}
""".replace("SWEPT", str(SWEPT_AT_ONCE)),
)

SCRIPTS = (PUT, GET, DELETE, SWAP, LIST, SHRINK, INDEX)
