"""A lease: what one attempt holds of an upstream, from the choice of its endpoint to the end of the attempt.

1. A lease counts in its endpoint's `in_flight` until it is released.
2. `release` takes effect once; a later call changes nothing. It returns the breaker's permit, if the lease has one.
"""

from __future__ import annotations

from typing import Protocol

from relayd.upstream.classify import Classification
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import AuthSpec, UpstreamSpec


class Lessor(Protocol):
    """The upstream that granted the lease."""

    @property
    def name(self) -> str: ...
    @property
    def spec(self) -> UpstreamSpec: ...
    def lease_answered(self, lease: Lease) -> None: ...
    def lease_released(self, lease: Lease, classification: Classification | None) -> None: ...


class Lease:
    """Owned by one attempt. `key` is the key to send, None for an upstream without keys; `permit` is the breaker's
    permit that the attempt holds while the breaker is half open, 0 for none."""

    __slots__ = ("endpoint", "key", "permit", "released", "upstream")

    def __init__(self, upstream: Lessor, endpoint: Endpoint, key: AuthSpec | None, permit: int) -> None:
        self.upstream = upstream
        self.endpoint = endpoint
        self.key = key
        self.permit = permit
        self.released = False

    def answered(self) -> None:
        """A good response head has arrived. It settles a probe: the body may take hours."""
        if not self.released:
            self.upstream.lease_answered(self)

    def release(self, classification: Classification | None) -> None:
        """The attempt has ended; None if nothing can be said about its outcome."""
        if not self.released:
            self.released = True
            self.upstream.lease_released(self, classification)
