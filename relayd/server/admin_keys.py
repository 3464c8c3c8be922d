"""The key store for the admin application, as plain data without digests."""

from __future__ import annotations

from relayd import clock
from relayd.access.key_record import KeyRecord
from relayd.plan.plan import Plan
from relayd.proxy.gateway import Gateway
from relayd.server.admin_live import DESCRIBED, first_steps
from relayd.wire.json_steps import Steps

MAX_KEYS = 1000  # keys on one page


def keys(gateway: Gateway) -> Steps[dict[str, object]]:
    """The keys of the key store: at most MAX_KEYS, the valid ones first."""
    store, plan, now_s = gateway.keys, gateway.plan, clock.wall()
    records = () if store is None else tuple(store.records())
    found = yield from first_steps(records, MAX_KEYS, lambda one: one.state(now_s) != "valid")
    entries: list[dict[str, object]] = []
    for number, one in enumerate(found, 1):
        entries.append({
            "id": one.id, "name": one.name, "start": one.start, "state": state_of(one, plan, now_s),
            "created_at": one.created_s, "expires_at": one.expires_s, **one.settings,
        })
        if not number % DESCRIBED:
            yield
    return {**summary(gateway), "omitted": len(records) - len(found), "keys": entries}


def summary(gateway: Gateway) -> dict[str, object]:
    """The number of keys that are not revoked, and the fault of the key store (empty without one)."""
    store = gateway.keys
    return {"issued": 0 if store is None else store.active, "fault": "" if store is None else store.problem}


def state_of(record: KeyRecord, plan: Plan | None, now_s: float) -> str:
    """`valid`, `revoked`, `expired`, or why the configuration in force does not accept the key."""
    state, group = record.state(now_s), record.settings.get("group")
    if state != "valid" or plan is None:
        return state
    if record.name in plan.config.consumers or record.name in plan.config.groups:
        return "its name is that of a consumer or group"
    return f"there is no group {group}" if group is not None and group not in plan.config.groups else state
