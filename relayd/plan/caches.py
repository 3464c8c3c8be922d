"""`cache:` of routes in the form that the path uses."""

from __future__ import annotations

import hashlib

from relayd.config.route import Route
from relayd.plan.plan import CachePolicy


def cache_policy(route: Route) -> CachePolicy | None:
    """The policy of a route, None without a cache."""
    cache = route.cache
    if cache is None:
        return None
    edits = route.request_headers
    changes = (
        edits.remove, sorted(edits.set.items()), sorted(edits.add.items()), route.strip_prefix, route.rewrite,
        route.protocol,
    )
    return CachePolicy(
        ttl_s=float(cache.ttl), size_bytes=int(cache.size), largest_bytes=cache.largest, shared=cache.shared,
        when=cache.when, vary=tuple(sorted({name.lower().encode() for name in cache.vary})),
        version=hashlib.sha256(repr(changes).encode()).hexdigest()[:16],
    )
