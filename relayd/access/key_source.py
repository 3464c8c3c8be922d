"""Where an issuer's keys come from, and their present state: a file, a URL, or a shared secret.

1. A source decides when its document is to be read again; the daemon reads it (daemon/key_sources). Nothing here waits.
2. A fault leaves the keys in use that were read last, however old they are: an issuer that is down, or answers with
   something else, locks nobody out.
3. An unknown kid asks for one reading, at most every UNKNOWN_S: tokens with invented kids cause no traffic. While that
   reading runs, `is_awaited` is true, and requests may wait for its end in `waiting`.
"""

from __future__ import annotations

from collections.abc import Callable

from relayd.access.key_set import KeySet
from relayd.dataclass import dataclass

UNKNOWN_S = 60.0  # between two readings because of an unknown kid
FIRST_RETRY_S, MAX_RETRY_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A document with keys: `file` is a path, or `url` an http or https URL; the other one is empty. `ca` is the file
    of the authorities for https, None for those of the system. A document is read again every `refresh_s` seconds,
    and may take `timeout_s` to arrive. Keys of a URL are used after a restart if they are not older than `keep_s`."""

    file: str = ""
    url: str = ""
    ca: str | None = None
    refresh_s: float = 600.0
    timeout_s: float = 5.0
    keep_s: float = 86400.0

    @property
    def name(self) -> str:
        """The source in logs and status; without the query of a URL, which may contain a key."""
        return self.file or self.url.partition("?")[0]


class KeySource:
    """The keys of one document. Owned by its authenticator; all with an equal spec in one process are kept equal.

    `keys` is None before the first reading. `read_s` is the monotonic time of the last successful reading, None before.
    `fault` is the reason of a failure since then. `on_wanted` is called if a token needs a newer set, and returns true
    if a reading follows. `waiting` are called when it has ended. Times that are passed in are monotonic seconds.
    """

    __slots__ = (
        "_due_s", "_failures", "_unknown_s", "fault", "is_awaited", "keys", "on_wanted", "read_s", "spec", "waiting",
    )

    def __init__(self, spec: SourceSpec, keys: KeySet | None = None) -> None:
        self.spec = spec
        self.keys = keys
        self.read_s: float | None = None
        self.fault = ""
        self.on_wanted: Callable[[], bool] | None = None
        self.is_awaited = False
        self.waiting: dict[Callable[[], None], None] = {}  # in order of arrival
        self._due_s = float("-inf")
        self._unknown_s = float("-inf")
        self._failures = 0

    def due_in_s(self, now_s: float) -> float:
        """Seconds until the document is to be read again; 0 if that is due."""
        return max(0.0, self._due_s - now_s)

    def want(self, now_s: float) -> bool:
        """A token has a kid that is not in the set: read the document soon. Returns False if it was read for such a
        reason a short time ago."""
        if now_s - self._unknown_s < UNKNOWN_S:
            return False
        self._unknown_s = now_s
        self._due_s = now_s
        if self.on_wanted is not None:
            self.is_awaited = self.on_wanted()
        return True

    def settle(self) -> None:
        """The reading that was awaited has ended, or no reading follows."""
        self.is_awaited = False
        waiting, self.waiting = self.waiting, {}
        for wake in waiting:
            wake()

    def found(self, keys: KeySet, now_s: float) -> None:
        """Use the keys of a document that was read."""
        self.keys, self.read_s, self.fault, self._failures = keys, now_s, "", 0
        self._due_s = now_s + self.spec.refresh_s

    def failed(self, reason: str, now_s: float) -> None:
        """A reading failed. The next one follows after a pause, which grows while no key is known."""
        self.fault = reason
        self._failures += 1
        pause_s = min(FIRST_RETRY_S * 2 ** min(self._failures - 1, 10), MAX_RETRY_S)
        self._due_s = now_s + min(pause_s, self.spec.refresh_s)

    def inherit(self, other: KeySource) -> None:
        """Use the keys of a source with an equal spec; a fault of it does not take away those that are known."""
        self.read_s, self.fault = other.read_s, other.fault
        if other.keys is not None:
            self.keys = other.keys
        self.settle()
