"""URLs of the endpoint itself become paths of the route; all others are unchanged."""

from __future__ import annotations

import pytest

from relayd.proxy.location import relocate
from relayd.wire.response import parse_response
from tests.unit.proxy.fakes import UPSTREAM, plan_of

ROUTES = """
routes:
  - {name: app, match: {prefix: /app}, strip_prefix: /app, upstream: web}
  - {name: based, match: {prefix: /b/}, strip_prefix: /b, upstream: based}
  - {name: regex, match: {regex: "/r/([0-9]+)"}, rewrite: "/number/\\\\1", upstream: web}
  - {name: untouched, match: {prefix: /untouched}, upstream: untouched}
  - {name: secure, match: {prefix: /secure}, upstream: secure}
  - {name: all, upstream: web}
"""
UPSTREAMS = UPSTREAM + """
  based: {endpoints: ["http://origin.example:9001/base"]}
  untouched: {endpoints: ["http://origin.example:9001"], rewrite_location: false}
  secure: {endpoints: ["https://origin.example"]}
"""
PLAN = plan_of(UPSTREAMS.replace('\nupstreams: {web: {endpoints: ["http://origin.example:9001"]}}',
                                 '\nupstreams:\n  web: {endpoints: ["http://origin.example:9001"]}') + ROUTES)  # fmt: skip


def seen(route: str, asked: str, line: str) -> str:
    """The line that the client gets if the endpoint sends `line`."""
    planned = next(one for one in PLAN.routes if one.name == route)
    upstream = planned.targets[0].upstream
    response = parse_response(f"HTTP/1.1 302 Found\r\n{line}\r\n\r\n".encode())
    relocate(response, asked.encode(), planned, upstream.spec, upstream.endpoints[0])
    return b"".join(response.keep).decode().removesuffix("\r\n")


@pytest.mark.parametrize(("route", "asked", "line", "wanted"), [
    ("all", "/x", "Location: http://origin.example:9001/y?a=1#b", "Location: /y?a=1#b"),
    ("all", "/x", "Location: HTTP://ORIGIN.example:9001", "Location: /"),
    ("all", "/x", "Location: //origin.example:9001/y", "Location: /y"),
    ("all", "/x", "Content-Location: http://origin.example:9001/y", "Content-Location: /y"),
    ("all", "/x", "Refresh: 5; url=\"http://origin.example:9001/y\"", "Refresh: 5; url=\"/y\""),
    ("app", "/app/x", "Location: http://origin.example:9001/y", "Location: /app/y"),
    ("based", "/b/x", "Location: http://origin.example:9001/base/y", "Location: /b/y"),
    ("secure", "/secure", "Location: https://origin.example/y", "Location: /y"),
    ("app", "/app/x", "Link: <http://origin.example:9001/p?page=2>; rel=\"next\"", "Link: </app/p?page=2>; rel=\"next\""),
    ("all", "/x", "link: <http://origin.example:9001/a>; rel=prev,<//origin.example:9001/b>;rel=next , </c>; rel=up",
     "link: </a>; rel=prev,</b>;rel=next , </c>; rel=up"),
    ("all", "/x", "Link: <http://other.example/a>; title=\"x, <http://origin.example:9001/t>\", <http://origin.example:9001/b>; rel=b",
     "Link: <http://other.example/a>; title=\"x, <http://origin.example:9001/t>\", </b>; rel=b"),
    ("all", "/x", "Link: <http://origin.example:9001/a>; title=\"a \\\" <http://origin.example:9001/t>\"; Anchor = \"http://origin.example:9001/x#y\"",
     "Link: </a>; title=\"a \\\" <http://origin.example:9001/t>\"; Anchor = \"/x#y\""),
    ("all", "/x", "Link: <http://origin.example:9001/a>; title=\"open <http://origin.example:9001/b>", "Link: </a>; title=\"open <http://origin.example:9001/b>"),
])  # fmt: skip
def test_the_endpoints_own_address_becomes_a_path_of_the_route(route: str, asked: str, line: str, wanted: str) -> None:
    assert seen(route, asked, line) == wanted


@pytest.mark.parametrize(("route", "line"), [
    ("all", "Location: http://other.example/y"), ("all", "Location: http://origin.example:9002/y"), ("all", "Location: /y"),
    ("all", "Location: http://origin.example/y"), ("all", "Location: http://origin.example:9001/a/../../y"),
    ("all", "Refresh: soon"), ("all", "Link: <http://origin.example:9001/a"), ("all", "Link: http://origin.example:9001/a"),
    ("all", "Link: <http://other.example/y>; anchor=\"http://other.example/z\""), ("all", "Link: <>"), ("untouched", "Link: <http://origin.example:9001/y>"),
    ("all", "Link: </a>; rel=\"http://origin.example:9001/rels/next\""), ("all", "X-Location: http://origin.example:9001/y"),
    ("based", "Location: http://origin.example:9001/elsewhere"), ("based", "Location: http://origin.example:9001/bases"),
    ("regex", "Location: http://origin.example:9001/number/2"), ("untouched", "Location: http://origin.example:9001/y"),
    ("secure", "Location: http://origin.example/y"),
])  # fmt: skip
def test_another_server_or_a_path_outside_the_route_is_unchanged(route: str, line: str) -> None:
    assert seen(route, "/b/x" if route == "based" else "/r/1" if route == "regex" else "/x", line) == line
