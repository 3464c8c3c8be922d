"""The keys of an upstream that has several: in turn over those in force, each with a memory of what became of it.

Laws:
1. A key that was refused is set aside for a while, one that was told to wait rests: both come back by themselves.
2. The last key is never taken away: where none is in force the one that comes back first is used, so that the endpoint
   itself says what is wrong.
3. No key is ever shown: it is named by where it was read from.
"""

from __future__ import annotations

from collections.abc import Sequence

from relayd.upstream.spec import AuthSpec

ASIDE_S = 600.0  # a refused key is tried again after this: somebody may have paid the bill
FOREVER = float("inf")


class Key:
    """One key's state; owned by its Keys."""

    __slots__ = ("aside_until_s", "auth", "refused", "rest_until_s", "used", "why")

    def __init__(self, auth: AuthSpec) -> None:
        self.auth = auth
        self.used = 0
        self.refused = 0
        self.aside_until_s = self.rest_until_s = 0.0
        self.why = ""

    def back_at_s(self) -> float:
        """When it is in force again, in the past if it is now."""
        return max(self.aside_until_s, self.rest_until_s)

    def state(self, now_s: float) -> str:
        """in_force, aside or resting."""
        if now_s < self.aside_until_s:
            return "aside"
        return "resting" if now_s < self.rest_until_s else "in_force"


class Keys:
    """Owned by an upstream. Time comes in as `now_s`; it is asked for only while some key is away (`away`)."""

    __slots__ = ("_all", "_next", "away")

    def __init__(self, keys: Sequence[AuthSpec]) -> None:
        self._all = [Key(auth) for auth in keys]
        self._next = 0
        self.away = False

    def __len__(self) -> int:
        return len(self._all)

    def next(self, now_s: float = 0.0) -> AuthSpec | None:
        """The key to send now; None for an upstream without keys."""
        keys = self._all
        count = len(keys)
        if not self.away:
            if not count:
                return None
            key = keys[self._next]
        else:
            turn = [keys[(self._next + step) % count] for step in range(count)]
            self.away = any(one.back_at_s() > now_s for one in turn)
            key = next((one for one in turn if one.back_at_s() <= now_s), min(turn, key=Key.back_at_s))
        self._next = (keys.index(key) + 1) % count if count > 1 else 0
        key.used += 1
        return key.auth

    def refused(self, auth: AuthSpec, now_s: float, why: str = "") -> bool:
        """The endpoint does not take this key; whether it was set aside by this."""
        key = self._find(auth)
        if key is None:
            return False
        key.refused += 1
        key.why = why
        if len(self._all) < 2:
            return False  # nothing to rotate to: only told
        was = now_s < key.aside_until_s
        key.aside_until_s = now_s + ASIDE_S
        self.away = True
        return not was

    def rest(self, auth: AuthSpec, until_s: float) -> bool:
        """The endpoint asked for patience with this key; False where there is no other one that could go on."""
        key = self._find(auth)
        if key is None or len(self._all) < 2:
            return False
        key.rest_until_s = max(key.rest_until_s, until_s)
        self.away = True
        return True

    def accepted(self, auth: AuthSpec) -> None:
        """A good answer: a key that had been refused is trusted again."""
        key = self._find(auth)
        if key is not None and key.refused:
            key.refused, key.why, key.aside_until_s = 0, "", 0.0

    def some_in_force(self, now_s: float) -> bool:
        """Whether a key is neither aside nor resting."""
        return any(key.back_at_s() <= now_s for key in self._all)

    def rests_until_s(self, now_s: float) -> float:
        """When the first key is in force again if every one rests now, else 0; keys set aside do not rest."""
        ready = [key.rest_until_s for key in self._all]
        return min(ready) if ready and min(ready) > now_s else 0.0

    def inherit_state(self, other: Keys) -> None:
        """Take over what is known of the same keys: same value, same place where it is read, sent in the same way."""
        for key in self._all:
            same = other._find(key.auth)
            if same is not None:
                for name in ("used", "refused", "aside_until_s", "rest_until_s", "why"):
                    setattr(key, name, getattr(same, name))
        self.away = any(key.back_at_s() > 0.0 for key in self._all)

    def describe(self, now_s: float) -> list[dict[str, object]]:
        """For status: where each key is from, never what it is."""
        return [
            {
                "source": key.auth.value.source,
                "state": key.state(now_s),
                "for_s": round(max(0.0, key.back_at_s() - now_s), 1),
                "used": key.used,
                "refused": key.refused,
                "why": key.why,
            }
            for key in self._all
        ]

    def _find(self, auth: AuthSpec) -> Key | None:
        for key in self._all:
            if key.auth is auth:
                return key
        return next((key for key in self._all if key.auth == auth), None)
