"""W3C Trace Context: which values are valid, and what becomes of the others."""

from __future__ import annotations

import pytest

from relayd.wire.trace_context import parse_traceparent, parse_tracestate, render_traceparent

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(("value", "flags"), [
    (f"00-{TRACE}-{PARENT}-01", 1), (f"00-{TRACE}-{PARENT}-00", 0), (f"00-{TRACE}-{PARENT}-03", 3), (f"00-{TRACE}-{PARENT}-ff", 3),
    (f"cc-{TRACE}-{PARENT}-01", 1), (f"cc-{TRACE}-{PARENT}-01-what-comes-later", 1),
])  # fmt: skip
def test_a_valid_traceparent(value: str, flags: int) -> None:
    found = parse_traceparent([value.encode()])
    assert found == (TRACE, PARENT, flags) and found.sampled == bool(flags & 1)


@pytest.mark.parametrize("value", [
    "", "00", f"ff-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01-", f"00-{TRACE}-{PARENT}-01-more", f"cc-{TRACE}-{PARENT}-01.more",
    f"00-{TRACE.upper()}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE[1:]}-{PARENT}-01",
    f"00-{TRACE}-{PARENT}-1", f"00-{TRACE}-{PARENT}-0g", f"0-{TRACE}-{PARENT}-01", f"00_{TRACE}_{PARENT}_01", f" 00-{TRACE}-{PARENT}-01",
])  # fmt: skip
def test_an_invalid_traceparent_is_none(value: str) -> None:
    assert parse_traceparent([value.encode()]) is None


def test_two_traceparents_are_none() -> None:
    value = f"00-{TRACE}-{PARENT}-01".encode()
    assert parse_traceparent([value, value]) is None and parse_traceparent([]) is None


@pytest.mark.parametrize(("values", "state"), [
    ([b"foo=1,bar=2"], "foo=1,bar=2"), ([b"foo=1 \t,  \tbar=2"], "foo=1,bar=2"), ([b"foo=1", b"bar=2"], "foo=1,bar=2"),
    ([b"foo=1,,bar=2,"], "foo=1,bar=2"), ([b""], ""), ([], ""), ([b"fw529a3039@dt=FfAxLjE"], "fw529a3039@dt=FfAxLjE"),
    ([b"0tenant@v=1"], "0tenant@v=1"), ([b"foo=a b"], "foo=a b"), ([b"foo=1,foo=2"], ""), ([b"foo"], ""), ([b"foo="], ""), ([b"Foo=1"], ""),
    ([b"0foo=1"], ""), ([b"foo=1=2"], ""), ([b"foo=\xe9"], ""), ([b"foo@=1"], ""), ([b"a" * 257 + b"=1"], ""), ([b"a" * 256 + b"=1"], "a" * 256 + "=1"),
    ([b"foo=" + b"v" * 257], ""), ([b",".join(b"k%d=v" % n for n in range(33))], ""),
    ([b",".join(b"k%d=v" % n for n in range(32))], ",".join(f"k{n}=v" for n in range(32))),
])  # fmt: skip
def test_tracestate_is_one_list_or_dropped(values: list[bytes], state: str) -> None:
    assert parse_tracestate(values) == state


def test_a_state_of_unusual_size_is_dropped_before_it_is_parsed() -> None:
    assert parse_tracestate([b"," * 5000, b"," * 5000 + b"a=1"]) == ""


def test_a_rendered_parent_is_read_back() -> None:
    line = render_traceparent(TRACE, PARENT, 2)
    assert line == f"traceparent: 00-{TRACE}-{PARENT}-02".encode()
    assert parse_traceparent([line.partition(b": ")[2]]) == (TRACE, PARENT, 2)
