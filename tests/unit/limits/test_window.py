from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.limits.window import DAY_MS, SLOTS, Span, Window

MINUTE = Span.sliding(60)


def ms(*date: int) -> int:
    return int(datetime.datetime(*date, tzinfo=datetime.UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]


def window(span: Span = MINUTE) -> Window:
    return Window("test", span)


def use(one: Window, now_ms: int, amount: int) -> None:
    one.advance(now_ms)
    one.settle(one.reserve(amount), amount, amount)


@given(
    st.integers(1000, 366 * DAY_MS),
    st.lists(st.tuples(st.floats(0, 0.4), st.integers(1, 5)), max_size=60),
    st.integers(1, 12),
)
def test_no_interval_of_the_span_admits_more_than_the_limit(
    length_ms: int, arrivals: list[tuple[float, int]], limit: int
) -> None:
    one, now_ms = window(Span("sliding", length_ms)), ms(2026, 11, 29)
    admitted: list[tuple[int, int]] = []
    for pause, amount in arrivals:
        now_ms += round(pause * length_ms)
        one.advance(now_ms)
        if one.has_room(amount, limit):
            use(one, now_ms, amount)
            admitted.append((now_ms, amount))
    for end_ms, _ in admitted:
        assert sum(amount for at_ms, amount in admitted if end_ms - length_ms < at_ms <= end_ms) <= limit


@given(st.integers(1000, 366 * DAY_MS), st.integers(0, 10**7))
def test_an_amount_is_free_again_at_the_stated_time_and_at_most_a_sixtieth_of_the_span_late(
    length_ms: int, offset_ms: int
) -> None:
    one, now_ms = window(Span("sliding", length_ms)), ms(2026, 11, 29) + offset_ms
    use(one, now_ms, 7)
    free_ms = one.available_ms(1, 7)
    assert free_ms is not None
    assert now_ms + length_ms <= free_ms <= now_ms + length_ms + length_ms / SLOTS + 1
    assert one.advance(free_ms - 1) == 7
    assert one.advance(free_ms) == 0


@given(st.sampled_from(["60000ms", "1000ms", "86400000ms", "7001ms", "day", "month"]), st.integers(0, 10**13))
def test_a_slot_begins_where_the_one_before_it_ends(text: str, now_ms: int) -> None:
    span = Span.of_text(text)
    begins_ms, ends_ms = (span.begins_ms(span.slot(now_ms) + one) for one in (0, 1))
    assert begins_ms is not None and ends_ms is not None and begins_ms <= now_ms < ends_ms
    assert span.slot(begins_ms) == span.slot(now_ms) == span.slot(ends_ms) - 1 == span.slot(ends_ms - 1)


def test_the_time_of_room_counts_what_older_slots_free() -> None:
    one, now_ms = window(), ms(2026, 11, 29)
    for second, amount in ((0, 3), (10, 5), (20, 2)):
        use(one, now_ms + second * 1000, amount)
    assert one.available_ms(1, 10) == now_ms + 61_000
    assert one.available_ms(3, 10) == now_ms + 61_000
    assert one.available_ms(4, 10) == now_ms + 71_000
    assert one.available_ms(10, 10) == now_ms + 81_000
    assert one.available_ms(11, 10) is None
    assert one.empty_ms() == now_ms + 81_000


def test_a_used_up_limit_has_no_room_even_for_nothing() -> None:
    one = window()
    use(one, ms(2026, 11, 29), 5)
    assert not one.has_room(0, 5)
    assert one.has_room(0, 6)


@pytest.mark.parametrize(
    ("span", "at", "next_at"),
    [
        ("day", (2026, 11, 29, 23, 59, 59), (2026, 11, 30)),
        ("month", (2026, 12, 31, 23, 59, 59), (2027, 1, 1)),
        ("month", (2028, 2, 29, 12), (2028, 3, 1)),
    ],
)
def test_a_calendar_span_begins_anew_at_midnight_utc(span: str, at: tuple[int, ...], next_at: tuple[int, ...]) -> None:
    one = window(Span(span))
    use(one, ms(*at), 4)
    assert one.available_ms(1, 4) == ms(*next_at)
    assert one.advance(ms(*next_at) - 1) == 4
    assert one.advance(ms(*next_at)) == 0


def test_a_total_is_never_free_again() -> None:
    one = window(Span("total"))
    use(one, ms(2026, 1, 1), 4)
    assert one.advance(ms(2096, 1, 1)) == 4
    assert one.available_ms(1, 4) is None
    assert one.empty_ms() is None


@pytest.mark.parametrize("span", ["60000ms", "day", "month"])
@pytest.mark.parametrize("days", [1, 400, 20_000])
def test_a_clock_that_is_set_back_neither_frees_nor_locks_for_longer_than_the_span(span: str, days: int) -> None:
    one, now_ms = window(Span.of_text(span)), ms(2026, 11, 29, 12)
    use(one, now_ms + days * DAY_MS, 5)
    assert one.advance(now_ms) == 5
    use(one, now_ms, 1)
    freed_ms = one.empty_ms()
    assert freed_ms is not None and freed_ms <= now_ms + 31 * DAY_MS
    assert one.advance(freed_ms - 1) == 6
    assert one.advance(freed_ms) == 0


def test_a_reservation_over_a_clock_that_is_set_back_and_forth_is_settled_once() -> None:
    one, now_ms = window(), ms(2026, 11, 29)
    one.advance(now_ms)
    slot = one.reserve(8)
    one.advance(now_ms - 30_000)
    one.advance(now_ms)
    assert (one.used, one.held) == (8, 8)
    one.settle(slot, 8, 3)
    assert (one.used, one.held, one.pending) == (3, 0, 0)
    assert one.advance(now_ms + 62_000) == 0


def test_a_reservation_that_outlives_its_span_leaves_nothing_behind() -> None:
    one, now_ms = window(), ms(2026, 11, 29)
    one.advance(now_ms)
    slot = one.reserve(8)
    assert one.advance(now_ms + 3_600_000) == 0
    assert not one.idle
    one.settle(slot, 8, 8)
    assert (one.used, one.held) == (0, 0)
    assert one.idle


def test_the_real_amount_counts_where_nothing_was_reserved() -> None:
    one = window()
    one.advance(ms(2026, 11, 29))
    slots = [one.reserve(0), one.reserve(0)]
    for slot in slots:
        one.settle(slot, 0, 3)
    assert one.used == 6


def test_saved_amounts_are_those_that_are_settled() -> None:
    one, now_ms = window(), ms(2026, 11, 29)
    use(one, now_ms, 2)
    one.reserve(8)
    other = window()
    other.load(one.state())
    assert other.advance(now_ms) == 2
    assert other.advance(now_ms + 61_000) == 0


@pytest.mark.parametrize("text", ["", "ms", "0ms", "-5ms", "week", "60000"])
def test_an_unknown_span_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        Span.of_text(text)


@pytest.mark.parametrize("text", ["60000ms", "day", "month", "total"])
def test_a_span_is_written_as_it_is_read(text: str) -> None:
    assert str(Span.of_text(text)) == text


def test_a_cleared_window_keeps_what_is_reserved() -> None:
    one, now_ms = window(), ms(2026, 11, 29)
    use(one, now_ms, 2)
    slot = one.reserve(8)
    one.clear()
    assert (one.used, one.held, one.pending, one.state()) == (8, 8, 1, ())
    one.settle(slot, 8, 5)
    assert (one.used, one.held, one.pending) == (5, 0, 0)
