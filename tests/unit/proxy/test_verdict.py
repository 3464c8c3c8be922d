"""What an endpoint's answer means, and the words for it."""

from __future__ import annotations

import pytest

from relayd.protocols.openai_chat import DIALECT as CHAT
from relayd.proxy.verdict import Outcome, error_of, field_of, key_refused, room_refused
from relayd.upstream.classify import Blame
from relayd.wire.response import ResponseHead


def head(status: int = 200, *lines: bytes) -> ResponseHead:
    made = ResponseHead(status, b"")
    made.keep = [line + b"\r\n" for line in lines]
    return made


def test_a_field_is_found_whatever_its_spelling() -> None:
    made = head(200, b"X-A: 1", b"Retry-AFTER:  7 ", b"retry-after: 9")
    assert field_of(made, b"retry-after") == "7" and field_of(made, b"retry") == ""


def test_an_outcome_knows_whom_it_is_about() -> None:
    assert Outcome("connect_failed", 0).verdict(True).blame is Blame.ENDPOINT
    assert Outcome("", 401).verdict(True).blame is Blame.KEY
    assert Outcome("", 401).verdict(False).blame is Blame.CLIENT
    resting = Outcome("", 429, "12").verdict(True)
    assert resting.blame is Blame.REST and resting.rest_s == 12
    assert Outcome("client_gone", 0).verdict(True).blame is Blame.NONE


def test_an_error_is_read_only_where_a_dialect_is_spoken() -> None:
    assert error_of(None, head(500), b"x") is None
    told = error_of(CHAT, head(429, b"Retry-After: 3"), b'{"error": {"message": "slow down", "code": "c"}}')
    assert told is not None and (told.status, told.message, told.code, told.retry_after_s) == (429, "slow down", "c", 3)


@pytest.mark.parametrize(("reason", "at_upstream", "code", "status"), [
    ("queue_full", True, "queue_full", 503), ("queue_full", False, "too_many_requests", 429),
    ("queue_timeout", True, "queue_timeout", 503), ("queue_timeout", False, "queue_timeout", 503),
])
def test_no_room_has_a_time_with_it(reason: str, at_upstream: bool, code: str, status: int) -> None:
    queue = ("X-Relayd-Queue", "depth=4, waited=0.000")
    refused = room_refused(reason, 2.2, at_upstream=at_upstream, fields=[queue])
    assert (refused.kind.code, refused.kind.status) == (code, status)
    assert refused.headers == (("Retry-After", "3"), queue)


def test_a_refused_key_is_the_operators_business() -> None:
    told = key_refused(403)
    assert told.status == 502 and told.code == "upstream_key_refused"
