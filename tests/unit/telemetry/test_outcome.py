"""The outcome names the party that ended an exchange, and the phase."""

from __future__ import annotations

from relayd.telemetry.outcome import Record
from tests.unit.telemetry.record import record


def test_an_exchange_without_an_error_code_is_complete() -> None:
    assert record().outcome == "complete"
    assert record().complete


def test_a_broken_exchange_tells_who_and_where() -> None:
    left = record(code="client_gone", ended_by="client", phase="transfer", status=499)
    assert left.outcome == "client.transfer"
    assert not left.complete


def test_an_error_answer_of_relayd_is_a_whole_answer() -> None:
    assert record(code="no_route", ended_by="client", phase="match", status=404).complete


def test_points_that_were_never_reached_are_below_zero() -> None:
    fresh = Record()
    assert (fresh.connect_s, fresh.first_byte_s, fresh.total_s) == (-1.0, -1.0, -1.0)
