"""Wrong keys are limited per address, and cost nobody else anything."""

from __future__ import annotations

import pytest

from relayd.limits import failed_keys
from relayd.limits.failed_keys import FailedKeys, network_of

A, B = "192.0.2.1", "192.0.2.2"


def key(number: int) -> tuple[bytes, ...]:
    return (b"Bearer wrong-%d" % number,)


def limited(limit: int = 3) -> FailedKeys:
    """With the limit reached by A at 0 s."""
    failed = FailedKeys(limit, 60.0)
    for number in range(limit):
        assert not failed.retry_after_s(A, key(99), 0.0)
        failed.add(A, key(number), 0.0)
    return failed


def test_an_address_with_many_different_wrong_keys_is_refused_until_its_window_ends_and_others_are_not() -> None:
    failed = limited()
    assert failed.retry_after_s(A, key(99), 10.0) == 50.0
    assert failed.retry_after_s(B, key(99), 10.0) == 0.0
    assert failed.retry_after_s(A, key(99), 60.0) == 0.0
    failed.add(A, key(1), 60.0)
    assert failed.retry_after_s(A, key(99), 60.0) == 0.0, "a new window begins"


def test_one_wrong_key_that_is_repeated_refuses_only_itself() -> None:
    failed = FailedKeys(3, 60.0)
    for _ in range(50):
        failed.add(A, key(1), 0.0)
    assert failed.retry_after_s(A, key(1), 1.0) == 59.0
    assert failed.retry_after_s(A, key(2), 1.0) == 0.0


def test_without_a_limit_nothing_is_counted_or_refused() -> None:
    failed = FailedKeys(0, 60.0)
    for number in range(9):
        failed.add(A, key(number), 0.0)
    assert not failed and not failed.retry_after_s(A, key(1), 0.0) and failed.failures == 9
    closed = limited()
    closed.configure(0, 60.0)
    assert not closed and not closed.retry_after_s(A, key(99), 0.0)


def test_memory_is_bounded_in_addresses_and_in_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_keys, "MAX_ADDRESSES", 5)
    monkeypatch.setattr(failed_keys, "MAX_HASHES", 12)
    failed = FailedKeys(4, 60.0)
    for number in range(40):
        failed.add(f"10.0.0.{number}", key(number), 0.0)
        assert len(failed) <= 5
    for address in range(5):
        for number in range(4):
            failed.add(f"10.1.0.{address}", key(number), 1.0)
    assert sum(len(one.counts) for one in failed._windows.values()) == failed._hashes <= 12
    assert failed.retry_after_s("10.1.0.4", key(9), 1.0), "the latest are kept"


def test_windows_that_have_ended_leave_nothing() -> None:
    failed = limited()
    failed.add(B, key(1), 100.0)
    assert len(failed) == 1 and failed._hashes == 1


def test_each_address_that_reaches_the_limit_is_reported_once_and_boundedly() -> None:
    failed = limited()
    failed.add(A, key(7), 1.0)
    assert failed.pop_limited() == [A] and failed.pop_limited() == []
    many = FailedKeys(1, 60.0)
    for number in range(1000):
        many.add(f"10.0.{number // 250}.{number % 250}", key(1), 0.0)
    assert len(many.pop_limited()) == failed_keys.MAX_REPORTED


def test_a_client_owns_an_address_of_ipv4_and_a_64_of_ipv6() -> None:
    assert network_of("192.0.2.1") == "192.0.2.1" and network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("2001:db8:1:2:3::4") == network_of("2001:db8:1:2:ffff::") == "2001:db8:1:2::"
    assert network_of("2001:db8:1:3::") != network_of("2001:db8:1:2::")
    assert network_of("fe80::1%eth0") == "fe80::" and network_of("odd:text") == "odd:text"
