"""Routes behind a route that matches all their requests are found, at a cost that grows with the number of routes."""

from __future__ import annotations

import pytest

from relayd.config.route import Match, Route
from relayd.config.unreachable import unreachable
from tests.aids.growth import linear


def found(*matches: Match) -> list[int]:
    return [number for number, _ in unreachable([Route(name=f"r{i}", match=one) for i, one in enumerate(matches)])]


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (Match(path="/a"), Match(path="/a")),
        (Match(path="/a"), Match(path="/a", method=("GET",))),
        (Match(prefix="/a/"), Match(path="/a/b")),
        (Match(prefix="/a/"), Match(prefix="/a/b/")),
        (Match(prefix="/"), Match(prefix="/a", host=("a.test",))),
        (Match(prefix="/caf%c3%a9/"), Match(path="/café/x")),
        (Match(regex="/a+"), Match(regex="/a+", model=("m",))),
        (Match(host=("a.test", "b.test")), Match(host=("b.test",), prefix="/x")),
        (Match(method=("GET", "POST")), Match(method=("POST",), path="/a")),
        (Match(header={"X-A": "1"}), Match(header={"X-A": "1", "X-B": "2"}, regex="/b")),
    ],
)
def test_a_route_behind_a_wider_one_is_unreachable(earlier: Match, later: Match) -> None:
    assert found(earlier, later) == [1]
    assert found(Match(path="/other"), Match(path="/third"), earlier, later) == [3]


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (Match(path="/a"), Match(prefix="/a")),
        (Match(path="/a"), Match(path="/b")),
        (Match(prefix="/a/b/"), Match(prefix="/a/")),
        (Match(prefix="/a/"), Match(regex="/a/.*")),
        (Match(regex="/a"), Match(path="/a")),
        (Match(path="/a", method=("GET",)), Match(path="/a")),
        (Match(host=("a.test",)), Match(host=("a.test", "b.test"))),
        (Match(host=("a.test",)), Match(path="/a")),
        (Match(header={"X-A": "1"}), Match(header={"X-A": "2"})),
        (Match(model=("m*",)), Match(model=("m1",))),
    ],
)
def test_a_route_that_some_request_reaches_is_not_reported(earlier: Match, later: Match) -> None:
    assert found(earlier, later) == []


def test_each_unreachable_route_names_the_first_route_that_takes_its_requests() -> None:
    routes = [Route(name=name, match=Match(prefix=prefix)) for name, prefix in (("a", "/a/"), ("b", "/a/b/"), ("c", "/a/b/c/"))]
    assert list(unreachable(routes)) == [
        (1, "is never reached: a matches every request that it could match"),
        (2, "is never reached: a matches every request that it could match"),
    ]


def test_a_route_for_every_request_is_reported_once_for_all_routes_behind_it() -> None:
    assert list(unreachable([Route(name="a"), *(Route(name=f"r{i}", match=Match(path="/x")) for i in range(9))])) == [
        (0, "matches every request; no later route is ever reached")
    ]
    assert found(Match(path="/a"), Match()) == []


@pytest.mark.parametrize("kind", ["path", "prefix", "host"])
def test_the_cost_grows_with_the_number_of_routes(kind: str) -> None:
    def routes(size: int) -> list[Route]:
        matches = {
            "path": lambda i: Match(path=f"/r{i}"), "prefix": lambda i: Match(prefix=f"/r{i}/"),
            "host": lambda i: Match(host=(f"h{i}.test",), prefix="/"),
        }
        return [Route(name=f"r{i}", match=matches[kind](i)) for i in range(size)]

    made = {size: routes(size) for size in (60, 60 * 16)}
    assert linear(lambda size: list(unreachable(made[size])), 60)
