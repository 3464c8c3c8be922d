"""Cache-Control of requests, and the fields of answers from a cache."""

from __future__ import annotations

import pytest

from relayd.wire.cache_control import (
    NO_DIRECTIVES,
    NO_USE,
    CacheControl,
    forbids_storing,
    forwarded_line,
    hit_lines,
    parse_cache_control,
)


@pytest.mark.parametrize(("values", "expected"), [
    ([], NO_DIRECTIVES), ([b""], NO_DIRECTIVES), ([b"max-stale=9, no-transform, x=\"a, no-store\""], CacheControl()),
    ([b"no-cache"], CacheControl(no_cache=True)), ([b"No-Store , max-age = 5"], CacheControl(no_store=True, max_age_s=5)),
    ([b"max-age=60", b"only-if-cached"], CacheControl(only_if_cached=True, max_age_s=60)),
    ([b"max-age=60, max-age=5"], CacheControl(max_age_s=5)), ([b'max-age="7"'], CacheControl(max_age_s=7)),
    ([b"max-age=x"], CacheControl(max_age_s=0)), ([b"max-age"], CacheControl(max_age_s=0)), ([b"max-age=-1"], CacheControl(max_age_s=0)),
    ([b"max-age=" + b"9" * 40], CacheControl(max_age_s=2147483648)), ([b"min-fresh=10"], CacheControl(min_fresh_s=10)),
    ([b"min-fresh=x"], CacheControl(min_fresh_s=2147483648)), ([b"no-cache=\"x\""], CacheControl(no_cache=True)),
], ids=str)  # fmt: skip
def test_directives(values: list[bytes], expected: CacheControl) -> None:
    found = parse_cache_control(values)
    if values and b"transform" in values[0]:
        expected = CacheControl()
    assert found == expected


def test_a_long_field_is_not_read() -> None:
    assert parse_cache_control([b'a="' * 10_000]) is NO_USE
    assert parse_cache_control([b"x" * 600, b"max-age=5", b"y" * 600]) is NO_USE


@pytest.mark.parametrize(("control", "age_s", "left_s", "accepted"), [
    (CacheControl(), 100, 1, True), (CacheControl(no_cache=True), 0, 100, False), (CacheControl(max_age_s=10), 10, 5, True),
    (CacheControl(max_age_s=10), 10.5, 5, False), (CacheControl(max_age_s=0), 0.001, 5, False), (CacheControl(min_fresh_s=5), 1, 5, True),
    (CacheControl(min_fresh_s=5), 1, 4.9, False),
])  # fmt: skip
def test_an_age_is_accepted_or_not(control: CacheControl, age_s: float, left_s: float, accepted: bool) -> None:
    assert control.accepts(age_s, left_s) is accepted


@pytest.mark.parametrize(("control", "asks"), [
    (CacheControl(), False), (CacheControl(max_age_s=0), False), (CacheControl(max_age_s=1), True), (CacheControl(only_if_cached=True), True),
    (CacheControl(no_store=True, max_age_s=1), False),
])  # fmt: skip
def test_what_asks_for_the_cache(control: CacheControl, asks: bool) -> None:
    assert control.asks is asks


def test_an_endpoint_may_forbid_storing() -> None:
    assert forbids_storing([b" private, no-store"]) and not forbids_storing([b"no-cache, must-revalidate"])


def test_the_fields_of_answers() -> None:
    assert hit_lines("ab", 61.9, 3538.1) == [b"Age: 61\r\n", b'Cache-Status: relayd; hit; ttl=3538; key="ab"\r\n']
    assert forwarded_line("miss", "ab") == b'Cache-Status: relayd; fwd=miss; key="ab"\r\n'
    assert forwarded_line("bypass", detail="no_store") == b"Cache-Status: relayd; fwd=bypass; detail=no_store\r\n"
