"""A lease: the resources of an upstream that one attempt holds, from the choice of its endpoint to its end.

1. A lease counts in its endpoint's `in_flight` until it is released.
2. `release` takes effect once; a later call changes nothing. It returns the breaker's permit, if the lease has one.
"""

from __future__ import annotations

from typing import Protocol

from relayd.upstream.classify import Classification, classify
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import AuthSpec, UpstreamSpec


class Lessor(Protocol):
    """The upstream that granted the lease."""

    @property
    def name(self) -> str: ...
    @property
    def spec(self) -> UpstreamSpec: ...
    def is_available(self, label: str) -> bool: ...
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

    def classify(
        self, code: str, status: int, *, client_key: bool = False, in_stream: bool = False,
        retry_after_s: float | None = None, error_code: str = "", error_type: str = "", error_message: str = "",
    ) -> Classification:
        """Classify the outcome of this attempt. `client_key` is true if the route forwards the client's own key.
        An upstream of protocol `plain` without a key of relayd's forwards any key of the client."""
        own_key = self.key is not None
        return classify(
            code, status, own_key=own_key, client_key=client_key or self.upstream.spec.protocol == "plain",
            in_stream=in_stream, retry_after_s=retry_after_s, error_code=error_code, error_type=error_type,
            error_message=error_message,
        )

    @property
    def is_withdrawn(self) -> bool:
        """True if the discovery has removed the address: a connection that is made now may reach another server."""
        return self.endpoint.leaving and self.upstream.spec.discovery is not None

    def answered(self) -> None:
        """A good response head has arrived. It settles a probe: the body may take hours."""
        if not self.released:
            self.upstream.lease_answered(self)

    def release(self, classification: Classification | None) -> None:
        """End the attempt; `classification` is None if its outcome is unknown."""
        if not self.released:
            self.released = True
            self.upstream.lease_released(self, classification)
