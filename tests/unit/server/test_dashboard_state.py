"""The state that the dashboard shows, and the difference between two states."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from relayd.protocols.dialect import run_steps
from relayd.proxy.exchange import Exchange
from relayd.server import dashboard_state
from relayd.server.dashboard_state import COLUMNS, DashboardState, State, difference
from relayd.telemetry.recent import LONGEST_TEXT
from tests.unit.server.test_admin_live import address, planned
from tests.unit.server.test_admin_views import admin_views
from tests.unit.telemetry.record import record


class InFlight:
    """An exchange as far as the state reads it."""

    def __init__(self, **members: Any) -> None:
        self.__dict__ |= members


ONE: State = {"a": {"x": [1, "p"], "y": [2, "q"]}, "b": {}}


@pytest.mark.parametrize(("new", "found"), [
    ({"a": {"x": [1, "p"], "y": [2, "q"]}, "b": {}}, {}),
    ({"a": {"x": [1, "p"], "y": [2, "z"]}, "b": {}}, {"a": {"set": {"y": {"1": "z"}}}}),
    ({"a": {"x": [1, "p"]}, "b": {}}, {"a": {"gone": ["y"]}}),
    ({"a": {"x": [1, "p"], "z": [3, "r"]}, "b": {}}, {"a": {"rows": {"z": [3, "r"]}, "gone": ["y"]}}),
    ({"a": ONE["a"], "b": {"k": [1]}}, {"b": {"rows": {"k": [1]}}}),
])
def test_a_difference_names_new_changed_and_removed_rows(new: State, found: dict[str, Any]) -> None:
    assert run_steps(difference(ONE, new)) == found


def test_from_nothing_all_rows_are_new() -> None:
    assert run_steps(difference({}, ONE)) == {"a": {"rows": ONE["a"]}}


async def test_the_state_has_a_cell_for_each_column_and_shows_what_happens() -> None:
    async with admin_views() as views:
        planned(views)
        views.state.accept(7, ("a warning",), ("routes.all: changed",))
        views.state.certificates = lambda: [
            {"of": "listener", "name": "public", "file": "a.pem", "left_s": 86400, "warning": ""}
        ]
        gateway, telemetry = views.gateway, views.telemetry
        label = address(views)
        served = record(upstream="first", endpoint=label, total_s=0.2, first_byte_s=0.1)
        failed = record(
            upstream="first", endpoint=label, code="connect_failed", ended_by="upstream", status=502, detail="<b>", first_byte_s=-1.0,
        )
        for one in (served, failed):
            telemetry.account(one)
        exchange = InFlight(
            record=record(id="one", path="/x"), ai_request=SimpleNamespace(model="m", output_characters=40), phase="transfer",
            buffered=lambda: 7,
        )
        gateway.exchanges.add(cast(Exchange, exchange))
        state = run_steps(DashboardState(gateway, telemetry, views.state).read())
        (number,) = state["streams"]
        gateway.exchanges.clear()
        assert set(state) == set(COLUMNS)
        for name, rows in state.items():
            assert all(len(row) == len(COLUMNS[name]) for row in rows.values()), name
        json.dumps(state)

        def cell(table: str, key: str, column: str) -> Any:
            return state[table][key][COLUMNS[table].index(column)]

        assert cell("process", "generation", "value") == 7 and cell("process", "warnings", "value") == ["a warning"]
        assert (cell("streams", number, "model"), cell("streams", number, "tokens"), cell("streams", number, "buffered")) == ("m", 10, 7)
        assert cell("streams", number, "id") == "one"
        key = f"first {label}"
        assert (cell("endpoints", key, "p50"), cell("endpoints", key, "breaker")) == (200, "closed")
        assert cell("endpoints", key, "outcomes") == {"complete": 1, "connect_failed": 1}
        assert cell("failures", "1", "detail") == "<b>" and len(state["failures"]) == 1
        assert cell("generations", "7", "changes") == ["routes.all: changed"]
        assert cell("certificates", "listener public a.pem", "name") == "public"
        (bucket,) = state["history"].values()
        assert bucket[:2] == [2, 1]


async def test_long_texts_of_clients_are_cut() -> None:
    async with admin_views() as views:
        exchange = InFlight(
            record=record(id="one", path="/" + "p" * 16_000), ai_request=SimpleNamespace(model="m" * 16_000, output_characters=0),
            phase="body", buffered=lambda: 0,
        )
        views.gateway.exchanges.add(cast(Exchange, exchange))
        state = run_steps(DashboardState(views.gateway, views.telemetry, views.state).read())
        views.gateway.exchanges.clear()
        (row,) = state["streams"].values()
        assert row[COLUMNS["streams"].index("path")] == "/" + "p" * (LONGEST_TEXT - 1)
        assert row[COLUMNS["streams"].index("model")] == "m" * LONGEST_TEXT


async def test_the_oldest_streams_are_shown_if_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard_state, "MAX_STREAMS", 2)
    async with admin_views() as views:
        for number in range(4):
            exchange = InFlight(
                record=record(id=str(number), started=float(number)), ai_request=None, phase="queue", buffered=lambda: 0,
            )
            views.gateway.exchanges.add(cast(Exchange, exchange))
        state = run_steps(DashboardState(views.gateway, views.telemetry, views.state).read())
        views.gateway.exchanges.clear()
        assert {row[COLUMNS["streams"].index("id")] for row in state["streams"].values()} == {"0", "1"}


async def test_two_exchanges_with_the_same_request_id_are_two_rows_which_keep_their_keys() -> None:
    async with admin_views() as views:
        for path in ("/one", "/two"):
            exchange = InFlight(record=record(id="same", path=path), ai_request=None, phase="queue", buffered=lambda: 0)
            views.gateway.exchanges.add(cast(Exchange, exchange))
        reader = DashboardState(views.gateway, views.telemetry, views.state)
        state, later = run_steps(reader.read())["streams"], run_steps(reader.read())["streams"]
        views.gateway.exchanges.clear()
        assert sorted(row[COLUMNS["streams"].index("path")] for row in state.values()) == ["/one", "/two"]
        assert later == state
