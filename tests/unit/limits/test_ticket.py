"""Tickets and refusals."""

from __future__ import annotations

import pytest

from relayd.limits.ticket import GRANTED, QUEUE_FULL, WAITING, Refused, Ticket, Waiter, retry_after


@pytest.mark.parametrize(("seconds", "field"), [(0, "1"), (0.2, "1"), (1, "1"), (1.01, "2"), (75.3, "76"), (1e9, "86400")])
def test_retry_after_is_whole_seconds_and_neither_nothing_nor_forever(seconds: float, field: str) -> None:
    assert retry_after(seconds) == field


def test_a_refusal_has_a_reason_and_retry_after() -> None:
    refused = Refused(QUEUE_FULL, 2.5)
    assert (refused.reason, refused.retry_after_s) == ("queue_full", 2.5)
    assert "queue_full" in str(refused)


def test_a_ticket_begins_granted_and_a_waiter_waiting() -> None:
    assert Ticket("a", 1.0).state == GRANTED
    waiter = Waiter("a", 3, 1.0, None, lambda ticket: None, lambda ticket, reason, seconds: None, None)
    assert (waiter.state, waiter.priority, waiter.since_s) == (WAITING, 3, 1.0)
