"""The response head for the client."""

from __future__ import annotations

import pytest

from relayd import clock
from relayd.plan.plan import PlannedRoute
from relayd.proxy.response_head import (
    CHUNKED,
    LENGTH,
    NONE,
    UNTIL_CLOSE,
    framing_of,
    interim_head,
    render_head,
    status_line,
    trailer_lines,
)
from relayd.wire.response import ResponseHead, parse_response
from tests.unit.proxy.fakes import PLAIN, UPSTREAM, plan_of

HOUSE = plan_of(PLAIN).header_names


def response(*lines: str, status: str = "200 OK") -> ResponseHead:
    return parse_response("".join([f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *lines, "")]).encode("latin-1"))


def written(
    answer: ResponseHead, framing: int = LENGTH, version: int = 11, keep: bool = True, route: PlannedRoute | None = None,
    cors: list[tuple[str, str]] | None = None, headers: str = "",
) -> list[bytes]:
    header_names = plan_of(PLAIN + headers).header_names if headers else HOUSE
    head = render_head(answer, framing, version, keep, route, header_names, b"id-1", 0.25, cors)
    assert head.endswith(b"\r\n\r\n") and head.count(b"\r\n\r\n") == 1
    return head[:-4].split(b"\r\n")


@pytest.mark.parametrize(("method", "status", "length", "version", "framing"), [
    (b"GET", 200, 5, 11, LENGTH), (b"GET", 200, 5, 10, LENGTH), (b"GET", 200, 0, 11, LENGTH),
    (b"GET", 200, None, 11, CHUNKED), (b"GET", 200, None, 10, UNTIL_CLOSE),
    (b"HEAD", 200, 5, 11, NONE), (b"HEAD", 200, None, 10, NONE),
    (b"GET", 204, None, 11, NONE), (b"GET", 304, 7, 11, NONE), (b"POST", 304, None, 10, NONE),
])
def test_the_end_of_a_body_is_marked_as_the_client_can_read_it(
    method: bytes, status: int, length: int | None, version: int, framing: int
) -> None:
    answer = ResponseHead(status, b" X")
    answer.length = length
    assert framing_of(answer, method, version) == framing


def test_framing_is_written_anew() -> None:
    chunked = response("Transfer-Encoding: chunked", "Content-Length: 9")
    assert b"Transfer-Encoding: chunked" in written(chunked, CHUNKED)
    assert not any(line.lower().startswith(b"content-length") for line in written(chunked, CHUNKED))
    assert b"Content-Length: 9" in written(response("content-length: 9"))
    assert b"Content-Length: 9" in written(response("Content-Length: 9"), NONE)  # HEAD and 304 keep it
    assert not any(line.startswith(b"Transfer") for line in written(response("Transfer-Encoding: chunked"), UNTIL_CLOSE, 10))


@pytest.mark.parametrize(("version", "keep", "line"), [
    (11, True, None), (11, False, b"Connection: close"), (10, True, b"Connection: keep-alive"), (10, False, b"Connection: close"),
])
def test_the_head_announces_whether_the_connection_persists(version: int, keep: bool, line: bytes | None) -> None:
    found = [one for one in written(response("Content-Length: 0"), version=version, keep=keep) if one.startswith(b"Conn")]
    assert found == ([line] if line else [])


def test_fields_of_the_upstream_pass_and_those_of_its_hop_do_not() -> None:
    lines = written(response("Set-Cookie: a", "Set-Cookie: b", "x-ratelimit-Left: 3", "Server: s", "Connection: X-Hop",
                             "X-Hop: 1", "Keep-Alive: 1", "Content-Length: 0"))
    assert lines[1:5] == [b"Set-Cookie: a", b"Set-Cookie: b", b"x-ratelimit-Left: 3", b"Server: s"]
    assert not any(line.startswith((b"X-Hop", b"Keep-Alive", b"Connection")) for line in lines)


def test_own_fields_stand_once() -> None:
    lines = written(response("X-Process-Time: 99", "x-proxy-by: other", "Content-Length: 0"))
    assert lines[-3:] == [b"X-Request-ID: id-1", b"X-Process-Time: 0.2500", b"X-Proxy-By: relayd"]
    assert sum(b"process-time" in line.lower() for line in lines) == sum(b"proxy-by" in line.lower() for line in lines) == 1


def test_an_upstreams_request_id_is_kept_for_the_client() -> None:
    lines = written(response("x-request-id: theirs", "Content-Length: 0"))
    assert [line for line in lines if line.lower().startswith(b"x-request-id")] == [b"x-request-id: theirs"]


def test_own_fields_can_be_renamed_and_switched_off() -> None:
    lines = written(response("X-Took: 9", "Content-Length: 0"), headers="headers: {request_id: off, process_time: X-Took, proxy_by: off}\n")
    assert lines[-1] == b"X-Took: 0.2500"
    assert not any(line.startswith((b"X-Request-ID", b"X-Proxy-By", b"X-Took: 9")) for line in lines)


def test_edits_of_the_route_change_the_head_but_not_its_framing() -> None:
    route = plan_of(UPSTREAM + """
routes:
  - {name: all, upstream: web, response_headers: {remove: [Server], set: {X-Frame: deny}, add: {Set-Cookie: c}}}
""").routes[0]
    lines = written(response("Server: s", "x-frame: ok", "Set-Cookie: a", "Content-Length: 3"), route=route)
    assert not any(line.startswith(b"Server") for line in lines) and b"x-frame: ok" not in lines
    assert {b"X-Frame: deny", b"Set-Cookie: a", b"Set-Cookie: c", b"Content-Length: 3"} <= set(lines)


def test_cross_origin_fields_replace_the_upstreams() -> None:
    answer = response("Access-Control-Allow-Origin: evil", "access-control-max-age: 1", "Content-Length: 0")
    lines = written(answer, cors=[("Access-Control-Allow-Origin", "https://app")])
    assert [line for line in lines if line.lower().startswith(b"access-control")] == [b"Access-Control-Allow-Origin: https://app"]
    assert any(b"evil" in line for line in written(answer))


@pytest.mark.parametrize(("status", "reason", "line"), [
    (200, b" OK", b"HTTP/1.1 200 OK"), (200, b" Fine by me", b"HTTP/1.1 200 Fine by me"), (404, b"", b"HTTP/1.1 404 Not Found"),
    (404, b" ", b"HTTP/1.1 404 Not Found"), (599, b"", b"HTTP/1.1 599 "),
])
def test_the_status_line_keeps_the_reason(status: int, reason: bytes, line: bytes) -> None:
    assert status_line(status, reason) == line + b"\r\n"


def test_an_interim_head_passes_with_its_fields() -> None:
    assert interim_head(response("Link: </a>", status="103 Early Hints")) == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


def test_trailers_that_could_steer_somebody_stay_here() -> None:
    lines = [b"X-Sum: 1\r\n", b"Content-Length: 5\r\n", b"Host: a\r\n", b"Authorization: b\r\n", b"Bad\r\n", b"X-Bad: a\x01\r\n",
             b"Transfer-Encoding: chunked\r\n", b"X-Last: 2\n"]
    assert trailer_lines(lines) == b"X-Sum: 1\r\nX-Last: 2\r\n"


@pytest.mark.parametrize(("sent", "count"), [([], 1), ([b"DATE: Sun, 06 Nov 1994 08:49:37 GMT\r\n"], 0)])
def test_an_answer_without_a_date_gets_one_and_any_other_keeps_its_own(
    sent: list[bytes], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "wall", lambda: 784111778.5)
    response = ResponseHead(200, b" OK")
    response.keep = list(sent)
    head = render_head(response, LENGTH, 11, True, None, HOUSE, b"id", 0.1, None)
    assert head.count(b"\r\nDate: Sun, 06 Nov 1994 08:49:38 GMT\r\n") == count
    assert head.lower().count(b"\r\ndate:") == 1
