"""The answer caches of routes for the admin application: what they hold, and its deletion, in steps.

An answer of a request in progress is stored after a deletion.
"""

from __future__ import annotations

from urllib.parse import unquote

from relayd.proxy.cache_use import SPACE, party_of
from relayd.proxy.gateway import Gateway
from relayd.server.admin_state import StatePage, StoreAway, delete, listed
from relayd.server.admin_views import JSON, error_page, to_json
from relayd.stores import Listed

PREFIX = "/cache/"


async def act(gateway: Gateway, path: str) -> StatePage:
    """Perform `/cache/show`, `/cache/dry/ROUTE` or `/cache/purge/ROUTE`, the latter two also with `/CONSUMER` behind.
    Names are percent-encoded."""
    action, *parts = path.removeprefix(PREFIX).split("/")
    names = [unquote(part) for part in parts]
    try:
        if action == "show" and not names:
            return StatePage((200, JSON, to_json({"caches": await show(gateway)})))
        if action in ("dry", "purge") and names and names[0] and len(names) < 3:
            found = await purge(gateway, names[0], names[1] if len(names) > 1 else None, dry_run=action == "dry")
            return StatePage((200, JSON, to_json(found)))
    except StoreAway:
        return StatePage(error_page(503, "not_possible", "The server of the store cannot be reached; try again later."))
    return StatePage(error_page(404, "not_found", "There is no such action."))


async def show(gateway: Gateway) -> list[dict[str, object]]:
    """One item for each route and consumer with answers: their number and size. The consumer of a shared cache is
    empty. Routes of the configuration that have a cache without answers are listed too."""
    counted: dict[tuple[str, str], list[int]] = {}
    for entry in await listed(gateway, SPACE):
        counts = counted.setdefault((entry.space.removeprefix(SPACE), party_of(entry.key)), [0, 0])
        counts[0] += 1
        counts[1] += entry.size_bytes
    held = {route for route, _ in counted}
    for route in gateway.current().routes:
        if route.cache is not None and route.name not in held:
            counted[route.name, ""] = [0, 0]
    sizes = {route.name: route.cache.size_bytes for route in gateway.current().routes if route.cache is not None}
    return [
        {"route": route, "consumer": consumer, "entries": entries, "bytes": held_bytes, "size": sizes.get(route)}
        for (route, consumer), (entries, held_bytes) in sorted(counted.items())
    ]


async def purge(gateway: Gateway, route: str, consumer: str | None, *, dry_run: bool) -> dict[str, object]:
    """Delete the answers of a route, or those of one consumer in it. Returns their number and size."""
    entries = await of_route(gateway, route, consumer)
    if not dry_run:
        await delete(gateway, entries)
        gateway.telemetry.journal.info("cache_purged", route=route, consumer=consumer or "", entries=len(entries))
    return {
        "route": route, "consumer": consumer, "entries": len(entries), "bytes": sum(one.size_bytes for one in entries)
    }


async def of_route(gateway: Gateway, route: str, consumer: str | None) -> list[Listed]:
    """The answers of a route, all or those of one consumer. Raises StoreAway."""
    space = SPACE + route
    return [
        one for one in await listed(gateway, space)
        if one.space == space and (consumer is None or party_of(one.key) == consumer)
    ]
