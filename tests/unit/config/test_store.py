"""`store:`"""

from __future__ import annotations

from relayd.config.store import STORES
from relayd.schema import Duration, Size
from relayd.schema.plugins import options_of
from tests.unit.config.section_case import accepted, faults


def test_a_store_has_a_kind_if_one_is_written() -> None:
    config, _ = accepted()
    assert (config.store.kind, config.store.ttl) == (None, Duration(86400))
    assert options_of(config.store, STORES, "sqlite").path is None
    config, _ = accepted(store="sqlite")
    assert config.store.kind == "sqlite"
    config, _ = accepted(store="{kind: sqlite, path: /var/lib/relayd/a.sqlite, ttl: 2h, size: 1GiB}")
    assert (config.store.ttl, config.store.size) == (Duration(7200), Size(1 << 30))


def test_what_cannot_be_meant_is_a_fault() -> None:
    assert list(faults(store="memcached")) == ["store.kind"]
    assert list(faults(store="{kind: memory, path: /a}")) == ["store.path"]
    assert list(faults(store="{kind: sqlite, path: a}")) == ["store.path"]
    assert list(faults(store="{ttl: 0s}")) == ["store.ttl"]
