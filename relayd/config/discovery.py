"""`discovery:` how the addresses of an upstream become known, instead of `endpoints:`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from relayd.schema import section, setting
from relayd.schema.plugins import members, members_of

DISCOVERY = "relayd.upstream.discovery"


@section()
@members(DISCOVERY, entries=True)
class Discovery:
    """Where the addresses of an upstream come from; exactly one kind.

    A change applies at once, without a reload, and cuts no stream: a removed address gets no new request and finishes
    its exchanges (one that is still connecting is given up, because the address may belong to another server by now),
    an address that stays keeps its breaker, its health and its connections. One that returns within an hour keeps an
    open breaker, a cool-down and a failed health check (of the last 64 addresses with such a failure), and what an
    operator set for it (draining, disabled) also later. With docker another container at the same address is a new
    endpoint. Each change is one line in the log; `relayd upstreams` shows source, age and last fault. If the source of a
    running upstream changes, its addresses stay in use until the first successful lookup of the new source. While no
    address is known, requests get 503 no_endpoint with the reason; with `limits: {queue: N}` of the upstream they wait
    for an address instead, up to queue_timeout. A start and a reload wait up to 2 seconds for the first answer of a new
    source, and never fail because it cannot be reached: relayd tries again.
    """

    max_endpoints: int = setting(default=64, doc="The most addresses that are used; further ones are left out with a warning.", minimum=1, maximum=1000)

    def check(self) -> Iterable[tuple[str, str]]:
        kinds = [kind for kind, options in members_of(self, DISCOVERY) if options is not None]
        if len(kinds) != 1:
            known = ", ".join(kind for kind, _ in members_of(self, DISCOVERY))
            yield "", f"needs exactly one of {known}"


def chosen(discovery: Discovery) -> tuple[str, Any]:
    """The kind of a valid section, and its Options."""
    return next((kind, options) for kind, options in members_of(discovery, DISCOVERY) if options is not None)
