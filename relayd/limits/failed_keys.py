"""Limits wrong keys per client address, so that nobody can try many of them; other addresses are not affected.

1. Different wrong keys from one address are counted in a window that begins with the first. At the limit, keys from
   this address are not looked at until the window ends, so a right one is refused as well and the answer tells
   nothing.
2. The same wrong key counts once, because it is a misconfigured client and no attack: only this key is refused when
   it was repeated as often as the limit, and others behind the same address are served.
3. Of a key only a hash with a random seed of the process is held, for the length of a window.
4. Memory is bounded: `MAX_ADDRESSES` addresses and `MAX_HASHES` hashes; the oldest windows are dropped first.
   Addresses of IPv6 count by their /64, which one client owns.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

MAX_ADDRESSES = 10_000
MAX_HASHES = 50_000
MAX_REPORTED = 20


class FailedKeys:
    """One per process. Times are monotonic seconds. `limit` 0 disables it."""

    __slots__ = ("_hashes", "_limited", "_windows", "failures", "limit", "window_s")

    def __init__(self, limit: int = 100, window_s: float = 60.0) -> None:
        self.limit, self.window_s = limit, window_s
        self._windows: dict[str, Window] = {}  # in the order of their begin
        self._hashes = 0
        self._limited: list[str] = []
        self.failures = 0  # since the process has started

    def __bool__(self) -> bool:
        """True if an address has failed recently. False costs no further look."""
        return bool(self._windows)

    def __len__(self) -> int:
        return len(self._windows)

    def configure(self, limit: int, window_s: float) -> None:
        """Change the limits. Open windows stay."""
        self.limit, self.window_s = limit, window_s
        if not limit:
            self._windows.clear()
            self._hashes = 0

    def retry_after_s(self, address: str, keys: Sequence[bytes], now_s: float) -> float:
        """Seconds until keys of this address are looked at again; 0 if they are now. `keys` are all presented ones."""
        window = self._windows.get(network_of(address))
        if window is None or not self.limit:
            return 0.0
        left_s = window.begun_s + self.window_s - now_s
        if left_s <= 0:
            return 0.0
        is_full = len(window.counts) >= self.limit
        return left_s if is_full or window.counts.get(_hash(keys), 0) >= self.limit else 0.0

    def add(self, address: str, keys: Sequence[bytes], now_s: float) -> None:
        """Count a failure."""
        self.failures += 1
        if not self.limit:
            return
        self._expire(now_s)
        name = network_of(address)
        window = self._windows.get(name)
        if window is None:
            window = self._windows[name] = Window(now_s)
        key = _hash(keys)
        count = window.counts.get(key, 0)
        window.counts[key] = count + 1
        self._hashes += not count
        is_limited = count + 1 == self.limit or (not count and len(window.counts) == self.limit)
        if is_limited and len(self._limited) < MAX_REPORTED:
            self._limited.append(name)
        self._shrink()

    def pop_limited(self) -> list[str]:
        """The addresses and networks that have reached the limit since the last call, for the log; at most
        MAX_REPORTED."""
        found, self._limited = self._limited, []
        return found

    def _expire(self, now_s: float) -> None:
        """Drop windows that have ended: they are in the order of their begin."""
        while self._windows:
            name, window = next(iter(self._windows.items()))
            if now_s - window.begun_s < self.window_s:
                return
            self._drop(name)

    def _shrink(self) -> None:
        while len(self._windows) > MAX_ADDRESSES or (self._hashes > MAX_HASHES and len(self._windows) > 1):
            self._drop(next(iter(self._windows)))

    def _drop(self, name: str) -> None:
        self._hashes -= len(self._windows.pop(name).counts)


class Window:
    """The failures of one address: how often each wrong key was presented."""

    __slots__ = ("begun_s", "counts")

    def __init__(self, begun_s: float) -> None:
        self.begun_s = begun_s
        self.counts: dict[int, int] = {}


def network_of(address: str) -> str:
    """The part of an address that one client owns: an IPv4 address, the /64 of an IPv6 address."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(parsed) >> 64 << 64))


def _hash(keys: Sequence[bytes]) -> int:
    return hash(tuple(keys))
