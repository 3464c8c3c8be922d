"""What an upstream remembers of endpoints that were removed, in case they return.

1. The state that an operator set is remembered for as long as the upstream is configured, for the last MOST_STATES
   addresses. It belongs to an address and to what is at it: a container that runs again is still disabled, another one
   that got its address is not.
2. An endpoint with a failure on record (breaker, cool-down, health check) is remembered for REMEMBERED_S, of which the
   last MOST_ENDPOINTS are kept. Others are forgotten: they are as good as new ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relayd.upstream.endpoint import ENABLED, Endpoint
from relayd.upstream.spec import EndpointSpec, Identity

MOST_STATES = 256
MOST_ENDPOINTS = 64
REMEMBERED_S = 3600.0


class RemovedEndpoints:
    """Owned by an upstream; times are those of the monotonic clock."""

    __slots__ = ("_endpoints", "_states")

    def __init__(self) -> None:
        self._states: dict[Identity, str] = {}
        self._endpoints: dict[Identity, tuple[float, Endpoint]] = {}  # the time of removal; the oldest first

    def keep_state(self, endpoint: Endpoint) -> None:
        """Remember what an operator set for an endpoint, which may still have exchanges."""
        if endpoint.state != ENABLED:
            _put(self._states, endpoint.spec.resident, endpoint.state, MOST_STATES)

    def keep(self, endpoint: Endpoint, now_s: float) -> None:
        """Remember a closed endpoint with a failure on record."""
        if endpoint.has_record(now_s):
            _put(self._endpoints, endpoint.spec.identity, (now_s, endpoint), MOST_ENDPOINTS)

    def take(self, spec: EndpointSpec, now_s: float) -> Endpoint | None:
        """The endpoint of this address, which is forgotten here; None if it is not remembered."""
        self._forget_old(now_s)
        found = self._endpoints.pop(spec.identity, None)
        return None if found is None else found[1]

    def take_state(self, spec: EndpointSpec) -> str:
        """The state that an operator set for this address, which is forgotten here."""
        return self._states.pop(spec.resident, ENABLED)

    def inherit_state(self, other: RemovedEndpoints, copy: Callable[[Endpoint], Endpoint]) -> None:
        """Remember what another upstream remembers, with a copy of each endpoint."""
        self._states.update(other._states)
        self._endpoints.update((key, (time_s, copy(one))) for key, (time_s, one) in other._endpoints.items())

    def _forget_old(self, now_s: float) -> None:
        while self._endpoints:
            key, (removed_s, _) = next(iter(self._endpoints.items()))
            if now_s - removed_s < REMEMBERED_S:
                return
            del self._endpoints[key]

    def __len__(self) -> int:
        return len(self._states) + len(self._endpoints)


def _put(entries: dict[Identity, Any], key: Identity, value: object, most: int) -> None:
    """Add an entry as the newest, and drop the oldest beyond `most`."""
    entries.pop(key, None)
    entries[key] = value
    if len(entries) > most:
        del entries[next(iter(entries))]
