"""The state of the event stream: applied differences equal the state that they lead to."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from relayd.cli.top.live_state import LiveState
from relayd.protocols.dialect import run_steps
from relayd.server.dashboard_state import difference

COLUMNS = {"streams": ["started", "model"], "process": ["value"], "history": ["requests"]}
TABLES = st.fixed_dictionaries({
    "streams": st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 3), min_size=2, max_size=2)),
    "process": st.just({"in_flight": [1]}),
})  # fmt: skip


def whole(tables: dict[str, Any]) -> LiveState:
    state = LiveState()
    state.replace({"columns": COLUMNS, "tables": tables})
    return state


def shown(state: LiveState) -> dict[str, Any]:
    return {str(row["key"]): row for row in state.rows("streams")}


@given(TABLES, TABLES)
def test_a_difference_leads_to_the_new_state(old: dict[str, Any], new: dict[str, Any]) -> None:
    state = whole(old)
    before = state.copy()
    state.change(json.loads(json.dumps(run_steps(difference(old, new)))))
    assert shown(state) == shown(whole(new))
    assert shown(before) == shown(whole(old))  # a copy keeps the state of its time


def test_an_unknown_table_has_no_rows_and_an_unknown_value_is_none() -> None:
    state = LiveState()
    assert not state.is_known and state.rows("streams") == [] and state.process("phase") is None
    state = whole({"process": {"phase": ["serving"]}})
    assert state.is_known and state.process("phase") == "serving" and state.rows("failures") == []


def test_recent_sums_are_those_of_finished_intervals() -> None:
    state = whole({"process": {"interval_s": [10]}, "history": {str(number): [number] for number in range(90, 101)}})
    assert state.recent("requests", 60, 1005.0) == sum(range(94, 100))
    assert state.recent("requests", 3600, 1005.0) == sum(range(90, 100))
    assert state.recent("requests", 60, 9999.0) == 0
