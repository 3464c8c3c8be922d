"""One result per route."""

from __future__ import annotations

from relayd.routing.explain import explain
from relayd.routing.matchers import matcher
from relayd.routing.table import Table
from relayd.wire.http1 import parse_head

TABLE = Table([
    (matcher(path="/x", method=["POST"]), "post"),
    (matcher(prefix="/x"), "x"),
    (matcher(host=["other.example"]), "other"),
    (matcher(), "all"),
])
HEAD = parse_head(b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n")


def test_every_route_has_a_result_and_a_reason() -> None:
    matches = explain(TABLE, HEAD)
    assert [(one.route, one.outcome, one.condition) for one in matches] == [
        ("post", "passed", "method"), ("x", "taken", ""), ("other", "passed", "host"), ("all", "shadowed", ""),
    ]


def test_the_route_taken_is_the_one_that_the_table_returns() -> None:
    for path in (b"/", b"/x", b"/y"):
        taken = [one.route for one in explain(TABLE, HEAD, path) if one.outcome == "taken"]
        assert taken == [TABLE.match(HEAD, path)]
