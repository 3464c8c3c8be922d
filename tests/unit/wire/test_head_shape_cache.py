"""Shapes: what they take, what they leave to the full parsers, and how many there may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.errors import ExchangeError
from relayd.wire import head_shape_cache, http1, response
from relayd.wire.head_shape_cache import (
    MAX_LOOKUPS,
    MAX_SHAPES,
    MAX_TRIED,
    MIN_COUNT,
    ShapeCache,
    digits,
    field,
    ignored,
    literal,
)
from relayd.wire.http1 import HeadLimits, RequestHead, parse_head
from relayd.wire.response import STATUS_BYTES, BadResponse, ResponseHead, parse_response

BROWSER = [b"Host: a.example", b"User-Agent: t/1", b"Accept: */*", b"Connection: keep-alive"]
SDK = [b"Host: a.example:81", b"Authorization: Bearer k", b"Content-Type: application/json", b"X-Forwarded-For: 1.2.3.4",
       b"TE: trailers", b"Content-Length: 12"]
STREAM = [b"host: a.example", b"x-api-key: k", b"transfer-encoding: chunked", b"connection: close"]
ANSWER = [b"Server: n", b"Date: today", b"Content-Type: text/plain", b"Content-Length: 5", b"X-Model: m"]
CHUNKED = [b"Content-Type: text/event-stream", b"Transfer-Encoding: chunked", b"X-Request-Id: 7", b"Connection: close"]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "_SHAPES", ShapeCache())
    monkeypatch.setattr(response, "_SHAPES", ShapeCache())


def request_of(lines: list[bytes], method: bytes = b"POST", target: bytes = b"/v1/x?q=1") -> bytes:
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", *lines, b"", b""])


def answer_of(lines: list[bytes], first: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([first, *lines, b"", b""])


def properties(head: RequestHead) -> dict[str, object]:
    return {name: getattr(head, name) for name in RequestHead.__slots__}


def said(head: ResponseHead) -> dict[str, object]:
    return {name: getattr(head, name) for name in ResponseHead.__slots__}


def teach() -> None:
    for _ in range(MIN_COUNT):
        for lines in (BROWSER, SDK, STREAM):
            parse_head(request_of(lines))
            parse_head(request_of(lines, b"GET"))
        for lines in (ANSWER, CHUNKED):
            parse_response(answer_of(lines))


@pytest.mark.parametrize("lines", [BROWSER, SDK, STREAM])
@pytest.mark.parametrize("method", [b"POST", b"GET"])
def test_a_request_of_a_known_form_is_what_the_full_parser_makes_of_it(method: bytes, lines: list[bytes]) -> None:
    teach()
    head = request_of(lines, method, b"/other/path?x=2&y")
    assert http1._SHAPES.find((head[:4], head.count(b"\n")), head) is not None
    assert properties(parse_head(head)) == properties(http1._parse(head, http1.DEFAULT_LIMITS))


@pytest.mark.parametrize("lines", [ANSWER, CHUNKED])
def test_an_answer_of_a_known_form_is_what_the_full_parser_makes_of_it(lines: list[bytes]) -> None:
    teach()
    head = answer_of(lines)
    assert response._SHAPES.find((head[:STATUS_BYTES], head.count(b"\n")), head) is not None
    assert said(parse_response(head)) == said(response._parse(head))


VALUES = st.one_of(
    st.sampled_from([b"", b" ", b"\t", b"12", b"+1", b"1,2", b"1, 1", b"chunked", b"close", b"x-api-key", b"a\tb", b"\xff",
                     b"a\rb", b"a\0", b"content-type, x-model", b"9" * 19, b"\t12", b"12 "]),
    st.binary(max_size=6),
)


@given(st.data())
def test_whatever_stands_in_a_known_form_is_judged_as_the_full_parser_judges_it(data: st.DataObject) -> None:
    http1._SHAPES, response._SHAPES = ShapeCache(), ShapeCache()
    teach()
    lines = list(data.draw(st.sampled_from([BROWSER, SDK, STREAM])))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(lines) - 1))
        lines[place] = lines[place].partition(b":")[0] + data.draw(st.sampled_from([b":", b": ", b" : "])) + data.draw(VALUES)
    head = request_of(lines, target=data.draw(st.sampled_from([b"/", b"/a?b", b"*", b"http://h/p", b"x", b"/\x7f"])))
    outcomes = []
    for parse in (parse_head, lambda one: http1._parse(one, http1.DEFAULT_LIMITS)):
        try:
            outcomes.append(properties(parse(head)))
        except ExchangeError as refused:
            outcomes.append({"refused": (refused.kind.code, refused.detail)})
    if not outcomes[0].get("empty"):  # of the full parser it may say so where a value only ends in a colon
        outcomes[1].pop("empty", None)
        outcomes[0].pop("empty", None)
    assert outcomes[0] == outcomes[1]


@given(st.data())
def test_whatever_an_upstream_puts_into_a_known_form_is_judged_alike(data: st.DataObject) -> None:
    http1._SHAPES, response._SHAPES = ShapeCache(), ShapeCache()
    teach()
    lines = list(data.draw(st.sampled_from([ANSWER, CHUNKED])))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(lines) - 1))
        lines[place] = lines[place].partition(b":")[0] + data.draw(st.sampled_from([b":", b": ", b" : "])) + data.draw(VALUES)
    head = answer_of(lines, data.draw(st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 204 OK", b"HTTP/1.1 200"])))
    outcomes: list[object] = []
    for parse in (parse_response, response._parse):
        try:
            outcomes.append(said(parse(head)))
        except BadResponse as refused:
            outcomes.append(str(refused))
    assert outcomes[0] == outcomes[1]


def test_a_repaired_answer_teaches_nothing() -> None:
    for _ in range(MIN_COUNT * 2):
        head = parse_response(answer_of([b"X-A : b", b"Content-Length: 1"]))
        assert head.keep == [b"X-A: b\r\n"]


def test_limits_hold_for_known_forms_too() -> None:
    teach()
    assert parse_head(request_of(SDK)).method == b"POST"
    with pytest.raises(ExchangeError) as refused:
        parse_head(request_of(SDK), HeadLimits(fields=3))
    assert refused.value.kind.code == "header_too_large"
    with pytest.raises(ExchangeError) as refused:
        parse_head(request_of(SDK, target=b"/" + b"x" * 100), HeadLimits(request_line=64))
    assert refused.value.kind.code == "uri_too_long"


def test_what_connection_names_is_not_learnt() -> None:
    lines = [b"Host: a", b"X-Gone: 1", b"Connection: x-gone"]
    for _ in range(MIN_COUNT * 2):
        assert parse_head(request_of(lines)).keep == []
    answer = [b"X-Gone: 1", b"Connection: x-gone"]
    for _ in range(MIN_COUNT * 2):
        assert parse_response(answer_of(answer)).keep == []


def test_a_form_is_worth_a_shape_once_it_was_met_often_and_only_once() -> None:
    shapes: ShapeCache[int] = ShapeCache()
    form = (literal(b"A\r\n"), field(b"B", end=True), ignored(b"C"), digits(b"D", whole=False))
    assert [shapes.should_learn(form) for _ in range(MIN_COUNT)] == [False] * (MIN_COUNT - 1) + [True]
    shapes.learn("k", form, 7)
    assert not shapes.should_learn(form)
    found = shapes.find("k", b"A\r\nB: x\r\nC: y\r\nD: 12\r\n")
    assert found is not None and found[1] == 7 and found[0].groups() == (b"B: x\r\n", b"12")
    assert shapes.find("k", b"A\r\nB: x\r\nC: y\r\nD: 1x\r\n") is None
    assert shapes.find("other", b"A\r\nB: x\r\nC: y\r\nD: 12\r\n") is None


def test_shapes_and_what_is_counted_are_bounded() -> None:
    shapes: ShapeCache[int] = ShapeCache()
    for number in range(MAX_SHAPES * 2):
        if shapes.learning:
            for _ in range(MIN_COUNT):
                if shapes.should_learn((b"%d" % number,)):
                    shapes.learn("k", (b"%d" % number,), number)
    assert not shapes.learning and len(shapes._known["k"]) == MAX_TRIED and len(shapes._learnt) == MAX_SHAPES
    others: ShapeCache[int] = ShapeCache()
    for number in range(MAX_LOOKUPS):
        others.should_learn((b"%d" % number,))
    assert not others.learning and len(others._counts) <= head_shape_cache.MAX_COUNTED
