"""The scripts that run inside a Redis server: rates and budgets that several relayd processes count together.

They make the decisions of `Window` and `Ledger` from the same numbers (tests/unit/limits/test_shared_scripts.py
compares both). All time is that of the server, all numbers are integers below 2^53. All keys have one hash tag, so that
one script may use them together; in a cluster they are on one node.

| key | type | contents |
|---|---|---|
| window | hash | `at` slot of the last change, `used`, `held`, `warned`; per slot `s<slot>` used, `h<slot>` held |
| open, by instance | hash | number of a reservation -> lines `slot held span window`; the last `batch`, `crossed` |
| instances | hash | instance -> the number of its last `sync` or `join` |
| master | hash | `id` of the server that has this data, `until` when it waits; `w<instance>` 1 if it waits for it |

A span is a length in milliseconds, 0 for `total`, -1 for `day`, -2 for `month`. An argument `now` is empty, except in
tests.

1. `reserve` takes all amounts or none. After `expires` it has no effect: a late one cannot follow its cancellation.
2. `settle` applies a batch once: an instance numbers its batches, and a repeated one has no effect. An operation is a
   reservation's number with the real amounts. If the reservation is not there (released because its instance did not
   run, or lost by a failover), the real amounts are added. A negative number makes a reservation, without regard to
   limits, unless it is there: one that a failover has lost, or that was decided while the server was not available.
3. A window expires after its span with a margin; that of a total never does.
4. `join` compares the id of the server's replication with the one in the data. If they differ, the data came from
   another server, which may have made decisions that did not get here: no instance is ready until each that may have
   such decisions has sent them again, or `until` has come.
"""

from __future__ import annotations

from typing import NamedTuple


class Script(NamedTuple):
    """A script and its name in logs."""

    name: str
    text: str


_TIME = """
local now
if ARGV[1] ~= '' then
  now = tonumber(ARGV[1])
else
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
"""

_WINDOW = (
    _TIME
    + """
local DAY = 86400000

local function div(a, b) return math.floor(a / b) end

local function month_of(day)
  local z = day + 719468
  local era = div(z, 146097)
  local doe = z - era * 146097
  local yoe = div(doe - div(doe, 1460) + div(doe, 36524) - div(doe, 146096), 365)
  local mp = div(5 * (doe - (365 * yoe + div(yoe, 4) - div(yoe, 100))) + 2, 153)
  local m = mp < 10 and mp + 3 or mp - 9
  return (yoe + era * 400 + (m <= 2 and 1 or 0)) * 12 + m - 1
end

local function month_begins(month)
  local y, m = div(month, 12), month % 12 + 1
  if m <= 2 then y = y - 1 end
  local era = div(y, 400)
  local yoe = y - era * 400
  local doy = div(153 * (m > 2 and m - 3 or m + 9) + 2, 5)
  return era * 146097 + yoe * 365 + div(yoe, 4) - div(yoe, 100) + doy - 719468
end

local function slot_of(span)
  if span > 0 then return div(now * 60, span) end
  if span == 0 then return 0 end
  local day = div(now, DAY)
  return span == -1 and day or month_of(day)
end

local function freed(span, slot)
  if span > 0 then return -div(-(slot + 61) * span, 60) end
  if span == 0 then return -1 end
  return (span == -1 and slot + 1 or month_begins(slot + 1)) * DAY
end

local function text(number) return string.format('%.0f', number) end

local function line(w, slot, amount)
  return text(slot) .. ' ' .. text(amount) .. ' ' .. text(w.span) .. ' ' .. w.key .. '\\n'
end

local function expire(w)
  if w.span == 0 then return end
  local ttl = w.span > 0 and math.ceil(w.span * 62 / 60) + 60000 or w.span == -1 and 2 * DAY or 33 * DAY
  redis.call('PEXPIRE', w.key, ttl)
end

local function slots_of(key, kind)
  local all, amounts, slots = redis.call('HGETALL', key), {}, {}
  for i = 1, #all, 2 do
    local slot = string.sub(all[i], 1, 1) == kind and tonumber(string.sub(all[i], 2))
    if slot then
      amounts[slot] = tonumber(all[i + 1])
      slots[#slots + 1] = slot
    end
  end
  table.sort(slots)
  return slots, amounts
end

local function drop(w, kind, total)
  local slots, amounts = slots_of(w.key, kind)
  local gone, moved = {}, 0
  for _, slot in ipairs(slots) do
    if slot < w.oldest then
      total = total - amounts[slot]
      gone[#gone + 1] = kind .. text(slot)
    elseif slot > w.slot then
      moved = moved + amounts[slot]
      gone[#gone + 1] = kind .. text(slot)
    end
  end
  if #gone > 0 then redis.call('HDEL', w.key, unpack(gone)) end
  if moved ~= 0 then redis.call('HINCRBY', w.key, kind .. text(w.slot), moved) end
  return total
end

local function advance(key, span)
  local w = {key = key, span = span, slot = slot_of(span)}
  w.oldest = span > 0 and w.slot - 60 or w.slot
  w.s, w.h = 's' .. text(w.slot), 'h' .. text(w.slot)
  local head = redis.call('HMGET', key, 'at', 'used', 'held')
  w.used, w.held, w.exists = tonumber(head[2] or 0), tonumber(head[3] or 0), head[1]
  if w.exists and tonumber(head[1]) ~= w.slot then
    w.used = drop(w, 's', w.used)
    w.held = drop(w, 'h', w.held)
    redis.call('HSET', key, 'at', text(w.slot), 'used', text(w.used), 'held', text(w.held))
    expire(w)
  end
  return w
end

local function state_of(windows)
  local states = {}
  for i, w in ipairs(windows) do states[3 * i - 2], states[3 * i - 1], states[3 * i] = w.slot, w.used, w.held end
  return states
end

local function save(w)
  redis.call('HSET', w.key, 'at', text(w.slot), 'used', text(w.used), 'held', text(w.held))
  if not w.exists then
    w.exists = true
    expire(w)
  end
end
"""
)

RESERVE = Script(
    "reserve",
    _WINDOW
    + """
-- KEYS: open, windows. ARGV: now, expires, number; per window span, amount, limit, '1' if it refuses nothing.
-- Returns 1, now, per window slot, used, held: reserved.
-- Returns 0, now, refusing window, time of room or -1, per window slot, used, held. Returns 2, now: expired.
if now > tonumber(ARGV[2]) then return {2, now} end
local windows, refused = {}, false
for i = 1, #KEYS - 1 do
  local w = advance(KEYS[i + 1], tonumber(ARGV[4 * i]))
  w.amount, w.limit, w.shadow = tonumber(ARGV[4 * i + 1]), tonumber(ARGV[4 * i + 2]), ARGV[4 * i + 3] == '1'
  w.full = not w.shadow and (w.used >= w.limit or w.used + w.amount > w.limit)
  refused = refused or w.full
  windows[i] = w
end

local function available(w)
  if w.amount > w.limit then return -1 end
  local left, free = w.used, 0
  local slots, amounts = slots_of(w.key, 's')
  for _, slot in ipairs(slots) do
    if left < w.limit and left + w.amount <= w.limit then break end
    left = left - amounts[slot]
    free = freed(w.span, slot)
    if free < 0 then return -1 end
  end
  return free
end

local answer
if refused then
  local last, last_wait, last_free = 0, 0, 0
  for i, w in ipairs(windows) do
    if w.full then
      local free = available(w)
      local wait = free < 0 and math.huge or math.max(0, free - now)
      if last == 0 or wait > last_wait then last, last_wait, last_free = i, wait, free end
      if free < 0 then break end
    end
  end
  answer = {0, now, last, last_free}
else
  local record = {}
  for i, w in ipairs(windows) do
    redis.call('HINCRBY', w.key, w.s, text(w.amount))
    redis.call('HINCRBY', w.key, w.h, text(w.amount))
    w.used, w.held = w.used + w.amount, w.held + w.amount
    save(w)
    record[i] = line(w, w.slot, w.amount)
  end
  redis.call('HSET', KEYS[1], ARGV[3], table.concat(record))
  answer = {1, now}
end
for _, number in ipairs(state_of(windows)) do answer[#answer + 1] = number end
return answer
""",
)

SETTLE = Script(
    "settle",
    _WINDOW
    + """
-- KEYS: open, windows. ARGV: now, batch or '', number of windows; per window span, count of thresholds, thresholds;
-- then operations: number of the reservation, negative to make it, or 0, and count of entries; per entry window, slot,
-- amount.
-- Returns now, crossed thresholds (window, from, to, ...), per window slot, used, held (none for a repeated batch).
if ARGV[2] ~= '' then
  local last = redis.call('HMGET', KEYS[1], 'batch', 'crossed')
  if last[1] and tonumber(last[1]) >= tonumber(ARGV[2]) then return {now, cjson.decode(last[2]), {}} end
end

local windows, at = {}, 4
for i = 1, tonumber(ARGV[3]) do
  local count = tonumber(ARGV[at + 1])
  windows[i] = {key = KEYS[i + 1], span = tonumber(ARGV[at]), warn = {}}
  for j = 1, count do windows[i].warn[j] = tonumber(ARGV[at + 1 + j]) end
  at = at + 2 + count
end

-- The reservations are removed first: a server without memory refuses the first command that may need some, but no
-- later one of a script that has changed something.
local operations = {}
while at <= #ARGV do
  local number, count = ARGV[at], tonumber(ARGV[at + 1])
  local operation = {record = false, entries = {}}
  if string.sub(number, 1, 1) == '-' then
    operation.made = string.sub(number, 2)
  elseif number ~= '0' then
    operation.record = redis.call('HGET', KEYS[1], number)
    if operation.record then redis.call('HDEL', KEYS[1], number) end
  end
  for j = 1, count do
    local base = at + 3 * j - 1
    operation.entries[j] = {tonumber(ARGV[base]), tonumber(ARGV[base + 1]), tonumber(ARGV[base + 2])}
  end
  operations[#operations + 1] = operation
  at = at + 2 + 3 * count
end

for i, w in ipairs(windows) do
  local now_w = advance(w.key, w.span)
  now_w.warn = w.warn
  windows[i] = now_w
end

local function add(w, kind, slot, amount)
  if amount ~= 0 then redis.call('HINCRBY', w.key, kind .. text(slot), text(amount)) end
end

local function settle(w, slot, held, amount)
  if slot > w.slot then
    slot = w.slot
  elseif slot < w.oldest then
    return
  end
  if held > 0 and tonumber(redis.call('HGET', w.key, 'h' .. text(slot)) or 0) < held then
    -- The clock was set back and forth: the reservation was moved to another slot, or has been dropped with it.
    local slots, amounts = slots_of(w.key, 'h')
    for i = #slots, 1, -1 do
      local part = math.min(held, amounts[slots[i]])
      add(w, 'h', slots[i], -part)
      add(w, 's', slots[i], -part)
      w.held, w.used, held = w.held - part, w.used - part, held - part
    end
    held = 0
  end
  add(w, 'h', slot, -held)
  add(w, 's', slot, amount - held)
  w.held, w.used, w.changed = w.held - held, w.used + amount - held, true
end

local function hold(number, entries)
  if redis.call('HEXISTS', KEYS[1], number) == 1 then return end
  local record = {}
  for j, entry in ipairs(entries) do
    local w, amount = windows[entry[1]], entry[3]
    local slot = math.min(entry[2], w.slot)
    if slot >= w.oldest then
      add(w, 'h', slot, amount)
      add(w, 's', slot, amount)
      w.held, w.used, w.changed = w.held + amount, w.used + amount, true
    end
    record[j] = line(w, slot, amount)
  end
  redis.call('HSET', KEYS[1], number, table.concat(record))
end

for _, operation in ipairs(operations) do
  local held = {}
  if operation.made then
    hold(operation.made, operation.entries)
    operation.entries = {}
  elseif operation.record then
    for slot, amount in string.gmatch(operation.record, '(%d+) (%d+) [^\\n]*\\n') do
      held[#held + 1] = {tonumber(slot), tonumber(amount)}
    end
  end
  for j, entry in ipairs(operation.entries) do
    local w, reserved = windows[entry[1]], held[j]
    if reserved then
      settle(w, reserved[1], reserved[2], entry[3])
    elseif entry[3] > 0 then
      settle(w, entry[2], 0, entry[3])
    end
  end
end

local crossed = {}
for i, w in ipairs(windows) do
  if w.changed then
    save(w)
    if #w.warn > 0 then
      local settled, reached = w.used - w.held, 0
      for _, threshold in ipairs(w.warn) do
        if settled >= threshold then reached = reached + 1 end
      end
      local before = tonumber(redis.call('HGET', w.key, 'warned') or 0)
      if reached ~= before then redis.call('HSET', w.key, 'warned', reached) end
      if reached > before then
        crossed[#crossed + 1] = i
        crossed[#crossed + 1] = before
        crossed[#crossed + 1] = reached
      end
    end
  end
end
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'batch', ARGV[2], 'crossed', cjson.encode(crossed)) end
return {now, crossed, state_of(windows)}
""",
)

SYNC = Script(
    "sync",
    _TIME
    + """
-- KEYS: instances, open, windows. ARGV: now, instance, number of this call.
-- Returns now, instances and their numbers, the last batch of this instance or 0, and the fields of each window.
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('PEXPIRE', KEYS[1], 604800000)
redis.call('PEXPIRE', KEYS[2], 604800000)
local answer = {now, redis.call('HGETALL', KEYS[1]), tonumber(redis.call('HGET', KEYS[2], 'batch') or 0)}
for i = 3, #KEYS do answer[i + 1] = redis.call('HGETALL', KEYS[i]) end
return answer
""",
)

JOIN = Script(
    "join",
    _TIME
    + """
-- KEYS: instances, open, master. ARGV: now, id or '', instance, number of this call, '1' if the server has everything
-- of this instance, ms to wait for others, other instances that run.
-- Returns now, the last batch of this instance or 0, the numbers of its reservations (none if the server has
-- everything), and the instances that are waited for.
local id, me, is_complete = ARGV[2], ARGV[3], ARGV[5] == '1'
if id == '' then
  local info = redis.pcall('INFO', 'replication')
  id = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or '-'
end
redis.call('HSET', KEYS[1], me, ARGV[4])
if redis.call('HGET', KEYS[3], 'id') ~= id then
  redis.call('DEL', KEYS[3])
  redis.call('HSET', KEYS[3], 'id', id, 'until', string.format('%.0f', now + ARGV[6]))
  for _, instance in ipairs(redis.call('HKEYS', KEYS[1])) do redis.call('HSET', KEYS[3], 'w' .. instance, 1) end
end
local ends = redis.call('HGET', KEYS[3], 'until')
local waits = now < tonumber(ends)
if waits then
  for i = 7, #ARGV do redis.call('HSETNX', KEYS[3], 'w' .. ARGV[i], 1) end
  if is_complete then redis.call('HSET', KEYS[3], 'w' .. me, 0) end
elseif redis.call('HLEN', KEYS[3]) > 2 then
  redis.call('DEL', KEYS[3])
  redis.call('HSET', KEYS[3], 'id', id, 'until', ends)
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 604800000) end

local missing, open = {}, {}
if waits then
  local fields = redis.call('HGETALL', KEYS[3])
  for i = 1, #fields, 2 do
    local instance = string.match(fields[i], '^w(%x+)$')
    if instance and instance ~= me and fields[i + 1] == '1' then missing[#missing + 1] = instance end
  end
end
if not is_complete then
  for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
    if string.match(field, '^%d+$') then open[#open + 1] = tonumber(field) end
  end
end
return {now, tonumber(redis.call('HGET', KEYS[2], 'batch') or 0), open, missing}
""",
)

LEAVE = Script(
    "leave",
    """
-- KEYS: instances, open, master. ARGV: instance, its number. Returns some reservations of an instance that is gone
-- (number, record, ...). Without any it is forgotten. Returns false if it runs.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return false end
local found, open = redis.call('HSCAN', KEYS[2], 0, 'COUNT', 100), {}
local fields, cursor = found[2], found[1]
repeat
  for i = 1, #fields, 2 do
    local field = fields[i]
    if field ~= 'batch' and field ~= 'crossed' then
      if not string.match(field, '^[1-9]%d*$') or #field > 15 then
        redis.call('HDEL', KEYS[2], field)
      elseif #open < 200 then
        open[#open + 1] = field
        open[#open + 1] = fields[i + 1]
      end
    end
  end
  if #open > 0 or cursor == '0' then break end
  found = redis.call('HSCAN', KEYS[2], cursor, 'COUNT', 100)
  fields, cursor = found[2], found[1]
until false
if #open == 0 then
  redis.call('HDEL', KEYS[1], ARGV[1])
  if redis.call('HEXISTS', KEYS[3], 'id') == 1 then redis.call('HSET', KEYS[3], 'w' .. ARGV[1], 0) end
  redis.call('PEXPIRE', KEYS[2], 86400000)
end
return open
""",
)
