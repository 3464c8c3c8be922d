"""The values of a plan."""

from __future__ import annotations

import dataclasses

import pytest

from relayd.config.model import Config
from relayd.config.route import Match, Route
from relayd.config.upstream import Endpoint, Upstream
from relayd.plan.compile import compile_plan
from relayd.plan.plan import PlannedRoute

WEB = {"web": Upstream(endpoints=(Endpoint(url="http://a"),))}


def planned(**words: object) -> PlannedRoute:
    made = Route(name="r", upstream="web", match=Match(prefix="/a/"), **words)  # type: ignore[arg-type]
    return compile_plan(Config(upstreams=WEB, routes=(made,)), 1).routes[0]


@pytest.mark.parametrize(("words", "path", "expected"), [
    ({}, b"/a/b", b"/a/b"), ({"rewrite": "/x"}, b"/a/b", b"/xb"), ({"strip_prefix": "/a"}, b"/a//b", b"/b"), ({"strip_prefix": "/a"}, b"/a//evil.example/x", b"/evil.example/x"),
])
def test_only_the_bytes_that_the_route_names_change(words: dict[str, object], path: bytes, expected: bytes) -> None:
    assert planned(**words).rewritten(path) == expected


def test_a_path_that_the_regex_does_not_take_stays() -> None:
    made = compile_plan(Config(upstreams=WEB, routes=(
        Route(name="r", upstream="web", match=Match(regex="/(x)"), rewrite=r"/\1\1"),
    )), 1).routes[0]
    assert (made.rewritten(b"/x"), made.rewritten(b"/y")) == (b"/xx", b"/y")


def test_a_planned_route_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        planned().strip_length = 1  # type: ignore[misc]
