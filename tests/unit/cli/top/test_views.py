"""The views: every column exists in the state, actions name their targets, availability has one reason."""

from __future__ import annotations

import pytest

from relayd.cli.top.views import STREAMS, UPSTREAMS, VIEWS, availability, availability_style, rate
from relayd.server.dashboard_state import COLUMNS
from tests.unit.cli.top.states import NOW_S, live


class Touched(dict[str, object]):
    """A row that notes which cells were read."""

    def __init__(self) -> None:
        super().__init__(key="k")
        self.names: set[str] = set()

    def get(self, name: str, default: object = None) -> object:
        self.names.add(name)
        return default

    def __missing__(self, name: str) -> object:
        self.names.add(name)
        raise KeyError(name)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_every_cell_that_a_view_reads_is_sent_by_relayd(view: object) -> None:
    one = next(each for each in VIEWS if each is view)
    for column in one.columns:
        row = Touched()
        column.text(row, NOW_S)
        column.sort(row, NOW_S)
        column.style(row)
        assert row.names <= {"key", *COLUMNS[one.table]}, column.title
    ranks = [column.rank for column in one.columns]
    assert sorted(ranks) == sorted(set(ranks)) and one.sort in {column.title for column in one.columns}


def test_paths_of_actions_are_percent_encoded_and_depend_on_the_row() -> None:
    (cancel,) = STREAMS.actions
    assert cancel.path({"key": "a/b ?"}) == "/streams/a%2Fb%20%3F/cancel"
    row = {"key": "x", "upstream": "up", "endpoint": "http://h:1/v1", "state": "enabled", "breaker": "closed"}
    base = "/upstreams/up/endpoints/http%3A%2F%2Fh%3A1%2Fv1"
    found = {one.label: one.path for one in UPSTREAMS.actions}
    assert found["drain"](row) == f"{base}/drain" and found["disable"](row) == f"{base}/disable"
    assert found["enable"](row) is None and found["reset breaker"](row) is None
    assert found["enable"]({**row, "state": "draining"}) == f"{base}/enable"
    assert found["drain"]({**row, "state": "leaving"}) is None
    assert found["reset breaker"]({**row, "breaker": "open"}) == f"{base}/breaker/reset"


def test_an_endpoint_that_is_not_available_has_one_reason() -> None:
    row = {"available": False, "state": "enabled", "health": "unknown", "breaker": "closed"}
    reasons = [availability({**row, **change}) for change in ({"available": True}, {"state": "draining"}, {"health": "failing"}, {"breaker": "open"}, {})]
    assert reasons == ["available", "draining", "failing", "breaker open", "cooling down"]
    assert [availability_style({**row, **change}) for change in ({"available": True}, {"state": "draining"}, {})] == ["green", "yellow", "red"]


def test_the_rate_is_that_since_the_beginning() -> None:
    rows = {row["key"]: row for row in live().rows("streams")}
    assert rate(rows["b"], NOW_S) == 80 and rate({"tokens": 0, "started": 1}, 5.0) is None
