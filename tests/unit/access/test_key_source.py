"""A source of keys: when its document is to be read again, and what a fault changes."""

from __future__ import annotations

from functools import partial

from relayd.access.key_set import KeySet
from relayd.access.key_source import KeySource, SourceSpec

SPEC = SourceSpec(url="https://issuer.example/keys?tenant=secret", refresh_s=600.0)
FIRST, SECOND = KeySet(()), KeySet(())


def test_a_document_is_read_at_once_and_then_every_refresh() -> None:
    source = KeySource(SPEC)
    assert source.due_in_s(5.0) == 0.0
    source.found(FIRST, 5.0)
    assert source.due_in_s(5.0) == 600.0 and source.due_in_s(605.0) == 0.0


def test_a_fault_leaves_the_keys_in_use_and_is_tried_again_with_growing_pauses() -> None:
    source = KeySource(SPEC)
    source.found(FIRST, 0.0)
    pauses = []
    for _ in range(9):
        source.failed("is not JSON", 0.0)
        pauses.append(source.due_in_s(0.0))
    assert source.keys is FIRST and source.fault == "is not JSON" and source.read_s == 0.0
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    source.found(SECOND, 99.0)
    assert source.keys is SECOND and not source.fault
    source.failed("is not JSON", 99.0)
    assert source.due_in_s(99.0) == 1.0


def test_an_unknown_kid_asks_for_a_reading_at_most_once_a_minute() -> None:
    source = KeySource(SPEC)
    asked: list[int] = []

    def wanted() -> bool:
        asked.append(1)
        return True

    source.on_wanted = wanted
    source.found(FIRST, 0.0)
    assert source.want(1.0) and source.due_in_s(1.0) == 0.0
    source.found(FIRST, 1.0)
    assert not source.want(60.9) and source.due_in_s(60.9) > 0
    assert source.want(61.0) and len(asked) == 2


def test_requests_wait_for_the_end_of_a_reading_whatever_it_brings() -> None:
    source, woken = KeySource(SPEC), list[str]()
    source.on_wanted = lambda: True
    first, second = partial(woken.append, "first"), partial(woken.append, "second")
    source.waiting |= {first: None, second: None}
    source.want(1.0)
    assert source.is_awaited and not woken
    source.inherit(KeySource(SPEC))
    assert woken == ["first", "second"] and not source.is_awaited and not source.waiting


def test_nobody_waits_for_a_reading_that_does_not_follow() -> None:
    source = KeySource(SPEC)
    source.on_wanted = lambda: False
    assert source.want(1.0) and not source.is_awaited


def test_a_source_takes_over_keys_but_not_the_lack_of_them() -> None:
    mine, other = KeySource(SPEC), KeySource(SPEC)
    mine.found(FIRST, 0.0)
    other.failed("gone", 1.0)
    mine.inherit(other)
    assert mine.keys is FIRST and mine.fault == "gone"
    other.found(SECOND, 2.0)
    mine.inherit(other)
    assert mine.keys is SECOND and mine.read_s == 2.0 and not mine.fault


def test_the_query_of_a_url_is_not_shown() -> None:
    assert SPEC.name == "https://issuer.example/keys"
