"""The keys of an upstream: rotation over the usable keys, with the state of each.

Laws:
1. A refused key is set aside for some time, a rate-limited key cools down. Both return to rotation by themselves.
2. One key is always used: if no key is in force, the one that returns first is sent, so that the client gets the
   endpoint's own error.
3. A key is never shown: it is identified by its source.
"""

from __future__ import annotations

from collections.abc import Sequence

from relayd.upstream.spec import AuthSpec

ASIDE_S = 600.0  # a refused key is tried again after this: its bill may have been paid
FOREVER = float("inf")


class Key:
    """The state of one key; owned by Keys."""

    __slots__ = ("aside_until_s", "auth", "cooldown_until_s", "refused", "used", "why")

    def __init__(self, auth: AuthSpec) -> None:
        self.auth = auth
        self.used = 0
        self.refused = 0
        self.aside_until_s = self.cooldown_until_s = 0.0
        self.why = ""

    def available_at_s(self) -> float:
        """The time from which the key is in force; in the past if it is in force now."""
        return max(self.aside_until_s, self.cooldown_until_s)

    def state(self, now_s: float) -> str:
        """in_force, aside or resting."""
        if now_s < self.aside_until_s:
            return "aside"
        return "resting" if now_s < self.cooldown_until_s else "in_force"


class Keys:
    """Owned by an upstream. Time is passed in as `now_s`; it is needed only while `away` (a key is not in force)."""

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
            self.away = any(one.available_at_s() > now_s for one in turn)
            key = next((one for one in turn if one.available_at_s() <= now_s), min(turn, key=Key.available_at_s))
        self._next = (keys.index(key) + 1) % count if count > 1 else 0
        key.used += 1
        return key.auth

    def refused(self, auth: AuthSpec, now_s: float, why: str = "") -> bool:
        """The endpoint refused this key. Returns True if the key was set aside by this call."""
        key = self._find(auth)
        if key is None:
            return False
        key.refused += 1
        key.why = why
        if len(self._all) < 2:
            return False  # no other key to rotate to: only counted
        was = now_s < key.aside_until_s
        key.aside_until_s = now_s + ASIDE_S
        self.away = True
        return not was

    def cool_down(self, auth: AuthSpec, until_s: float) -> bool:
        """The endpoint asked for a delay with this key. Returns False if the upstream has no other key."""
        key = self._find(auth)
        if key is None or len(self._all) < 2:
            return False
        key.cooldown_until_s = max(key.cooldown_until_s, until_s)
        self.away = True
        return True

    def accepted(self, auth: AuthSpec) -> None:
        """A good response: a refused key returns to rotation."""
        key = self._find(auth)
        if key is not None and key.refused:
            key.refused, key.why, key.aside_until_s = 0, "", 0.0

    def any_available(self, now_s: float) -> bool:
        """True if some key is neither set aside nor cooling down."""
        return any(key.available_at_s() <= now_s for key in self._all)

    def all_cooling_until_s(self, now_s: float) -> float:
        """The time at which the first key is in force again if all cool down now, else 0. A key that is only set aside
        does not cool down."""
        ready = [key.cooldown_until_s for key in self._all]
        return min(ready) if ready and min(ready) > now_s else 0.0

    def inherit_state(self, other: Keys) -> None:
        """Copy the state of equal keys: same value, same source, sent in the same way."""
        for key in self._all:
            same = other._find(key.auth)
            if same is not None:
                for name in ("used", "refused", "aside_until_s", "cooldown_until_s", "why"):
                    setattr(key, name, getattr(same, name))
        self.away = any(key.available_at_s() > 0.0 for key in self._all)

    def describe(self, now_s: float) -> list[dict[str, object]]:
        """For status: the source of each key, never its value."""
        return [
            {
                "source": key.auth.value.source,
                "state": key.state(now_s),
                "for_s": round(max(0.0, key.available_at_s() - now_s), 1),
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
