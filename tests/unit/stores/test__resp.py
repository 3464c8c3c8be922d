"""RESP2: each reply is the same however its bytes are divided, and hostile bytes are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.stores import _resp
from relayd.stores._resp import ErrorReply, ProtocolFault, ReplyParser, encode_command

REPLIES = st.recursive(
    st.binary(max_size=40) | st.none() | st.integers(-(2**63), 2**63 - 1), lambda inner: st.lists(inner, max_size=4), max_leaves=12
)


def written(reply: Any) -> bytes:
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(map(written, reply))


@given(st.lists(REPLIES, max_size=4), st.integers(1, 50))
def test_replies_are_the_same_however_their_bytes_are_divided(replies: list[Any], size: int) -> None:
    data = b"".join(map(written, replies))
    parser, found = ReplyParser(), list[Any]()
    for start in range(0, len(data), size):
        found += parser.parse(data[start : start + size])
    assert found == replies


def test_lines_and_errors() -> None:
    status, error, empty = ReplyParser().parse(b"+OK\r\n-READONLY no \xff\r\n*-1\r\n")
    assert status == b"OK" and isinstance(error, ErrorReply) and error.code == "READONLY" and empty is None


@pytest.mark.parametrize("data", [b"?\r\n", b"$x\r\n", b":1.5\r\n", b"HTTP/1.1 200 OK\r\n", b"*1\r\n" * 20 + b":1\r\n", b"\r\n"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolFault):
        ReplyParser().parse(data)


def test_a_reply_that_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(ProtocolFault, match="larger"):
        ReplyParser().parse(b"$%d\r\n" % (_resp.LARGEST_REPLY + 1))


def test_a_command_is_written_with_lengths_in_bytes() -> None:
    assert encode_command(("SET", "é", 12, b"\x00\r\n")) == b"*4\r\n$3\r\nSET\r\n$2\r\n\xc3\xa9\r\n$2\r\n12\r\n$3\r\n\x00\r\n\r\n"
