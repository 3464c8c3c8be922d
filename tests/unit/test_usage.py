"""Token counts of one AI exchange."""

from __future__ import annotations

from relayd.usage import Usage


def test_full_price_is_paid_for_what_no_cache_was_read_or_written_for() -> None:
    assert Usage(input=100, cached_read=60, cache_creation=30).uncached_input == 10
    assert Usage(input=1, cached_read=60).uncached_input == 0  # a provider that counts otherwise than it says
