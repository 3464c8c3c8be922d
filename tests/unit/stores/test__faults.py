"""Causes in words, counted."""

from __future__ import annotations

import sqlite3

import pytest

from relayd.stores._faults import FAILED, FULL, LOCKED, READ_ONLY, REMEMBERED, TOO_LARGE, Fault, Losses, fault_of


@pytest.mark.parametrize(("text", "fault"), [
    ("database is locked", LOCKED), ("database table is locked", LOCKED), ("database or disk is full", FULL),
    ("attempt to write a readonly database", READ_ONLY), ("unable to open database file", READ_ONLY), ("disk I/O error", FAILED),
])
def test_an_error_of_the_library_becomes_a_cause(text: str, fault: Fault) -> None:
    assert fault_of(sqlite3.OperationalError(text)) is fault


def test_losses_are_told_by_place_and_taken_by_cause() -> None:
    losses = Losses()
    losses.lose(("team", "a"), FULL, "one")
    losses.lose(("team", "b"), FULL, "two")
    losses.count(LOCKED, "three")
    assert losses.client_message(("team", "a")) == FULL.client_message and losses.client_message(("other", "a")) == ""
    assert losses.pop_failures() == [(FULL, 2, "two"), (LOCKED, 1, "three")] and losses.pop_failures() == [] and losses.total == 3
    losses.found(("team", "a"))
    assert losses.client_message(("team", "a")) == ""


def test_what_is_remembered_is_bounded() -> None:
    losses = Losses()
    for number in range(REMEMBERED + 10):
        losses.lose(("team", str(number)), TOO_LARGE, "")
    assert not losses.client_message(("team", "9")) and losses.client_message(("team", "10"))


def test_what_clients_read_names_no_path() -> None:
    for fault in (FAILED, FULL, LOCKED, READ_ONLY, TOO_LARGE):
        assert "{path}" not in fault.client_message and fault.cure.endswith(".")
