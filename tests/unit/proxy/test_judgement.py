"""What an answer is to its course: held, doubted, read or passed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.proxy.house import OK, get, post, running, status_of
from tests.unit.proxy.places import Places, http
from tests.unit.proxy.test_course import asking, chat, two

RETRIES = "retries: {attempts: 2, backoff: 1ms, on: [ON]}"


@pytest.mark.parametrize(("on", "status", "again"), [("404", 404, True), ("5xx", 404, False), ("5xx", 503, True)])
async def test_an_error_is_held_where_it_would_be_tried_again(tmp_path: Path, on: str, status: int, again: bool) -> None:
    places = Places(a=[http(status, b"its own"), OK])
    async with running(tmp_path, places, whole=two(RETRIES.replace("ON", f"'{on}'"))) as house:
        head, body = await house.ask(get())
        assert status_of(head) == (200 if again else status)
        assert again or body == b"its own"


async def test_an_error_that_was_held_in_vain_is_passed_with_its_fields(tmp_path: Path) -> None:
    answer = http(429, b"its own words", "Retry-After: 7", content_type="text/plain")
    async with running(tmp_path, Places(a=answer), whole=two(RETRIES.replace("ON", "'429'"))) as house:
        head, body = await house.ask(post(b"x"))
        assert (status_of(head), body) == (429, b"its own words")
        assert b"Retry-After: 7\r\n" in head
        assert b"Content-Length: 13\r\n" in head


async def test_a_body_is_read_where_a_fallback_waits_for_what_it_says(tmp_path: Path) -> None:
    error = json.dumps({"error": {"code": "context_length_exceeded"}}).encode()
    places = Places(a=http(400, error), b=OK)
    async with running(tmp_path, places, whole=two(route="fallbacks: [{upstream: b, on: [context_length]}]")) as house:
        assert status_of((await house.ask(post(b"x")))[0]) == 200
        assert places.places() == ["a", "b"]


@pytest.mark.parametrize(("answer", "doubted"), [
    (http(200, b"<html>", content_type="text/html"), True), (http(200, b""), True), (http(200, b"{}"), False),
])
async def test_an_answer_of_another_kind_is_doubted(tmp_path: Path, answer: bytes, doubted: bool) -> None:
    async with running(tmp_path, Places(a=answer), whole=chat()) as house:
        head, _ = await house.ask(asking())
        assert status_of(head) == (502 if doubted else 200)
