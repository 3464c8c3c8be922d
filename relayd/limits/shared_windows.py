"""The windows of rates and budgets that instances share in a server: by consumer, and their deletion.

1. One call of the server looks at a bounded number of keys. The caller continues with the cursor of the answer.
2. What requests in progress have reserved stays, as in a window in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

from relayd.limits.shared_calls import Failed, Server, name_of
from relayd.limits.shared_scripts import Script

MOST_KEYS = 500  # of one call
MOST_CLEARED = 100  # windows of one call

LIST = Script(
    "list_windows",
    """
-- KEYS: the beginning of the names of windows. ARGV: cursor, number of keys to look at. Returns the next cursor and the
-- names of windows in which something is used, without their beginning.
local found = redis.call('SCAN', ARGV[1], 'MATCH', KEYS[1] .. '*', 'COUNT', ARGV[2])
local answer = {found[1]}
for _, key in ipairs(found[2]) do
  if tonumber(redis.call('HGET', key, 'used') or 0) > 0 then answer[#answer + 1] = string.sub(key, #KEYS[1] + 1) end
end
return answer
""",
)

CLEAR = Script(
    "clear_windows",
    """
-- KEYS: windows. Forgets what was used, without what is held: the amount of a slot includes what is held there. Returns
-- how many windows used something.
local cleared = 0
for _, key in ipairs(KEYS) do
  local all, held, gone = redis.call('HGETALL', key), 0, {'warned'}
  local kept, of = {}, {}
  for i = 1, #all, 2 do of[all[i]] = all[i + 1] end
  for field, amount in pairs(of) do
    local slot = string.match(field, '^s(%d+)$')
    if slot then
      local left = tonumber(of['h' .. slot] or 0)
      held = held + left
      if left > 0 then kept[#kept + 1], kept[#kept + 2] = field, string.format('%.0f', left)
      else gone[#gone + 1] = field end
    end
  end
  if tonumber(of.used or 0) > held then cleared = cleared + 1 end
  if held > 0 then
    redis.call('HDEL', key, unpack(gone))
    redis.call('HSET', key, 'used', string.format('%.0f', held), unpack(kept))
  else
    redis.call('DEL', key)
  end
end
return cleared
""",
)


class Page(NamedTuple):
    """A part of the windows: their keys, as in memory, and the cursor of the next part, "0" at the end."""

    cursor: str
    keys: list[str]


class SharedWindows:
    """What the server has counted. `on_done` gets the result in a later turn, or Failed."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._prefix = server.key("rates", "window", "")

    def list(self, cursor: str, on_done: Callable[[Page | Failed], None]) -> None:
        """The windows in which something is used, a page at a time; "0" begins. A window may be listed twice."""

        def done(answer: Any) -> None:
            if not isinstance(answer, Failed):
                answer = Page(answer[0].decode(), [unquote(name.decode("utf-8", "replace")) for name in answer[1:]])
            on_done(answer)

        self._server.call(LIST, [self._prefix], [cursor, MOST_KEYS], done)

    def clear(self, keys: Sequence[str], on_done: Callable[[int | Failed], None]) -> None:
        """Forget what was used in at most MOST_CLEARED windows. The result is how many of them used something."""
        names = [self._prefix + name_of(key) for key in keys[:MOST_CLEARED]]
        self._server.call(CLEAR, names, [], on_done)
