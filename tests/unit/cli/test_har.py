"""The export as HTTP Archive 1.2 (the functional test checks all required members)."""

from __future__ import annotations

import base64
from typing import Any

from relayd.cli.har import archive

EMPTY = {"size": 0, "missing": 0, "masked": False, "pieces": [], "pieces_omitted": 0, "text": ""}


def document(**response: Any) -> dict[str, Any]:
    answer = {"status": 200, "reason": "OK", "fields": ["Content-Type: text/plain"], "trailers": [], "begun_ms": 4.0,
              "ended_ms": 10.0, "body": EMPTY} | response
    return {
        "id": "abc", "record": {"time": "2026-01-01T00:00:01.000Z", "total_ms": 1000.0},
        "request": {"method": "GET", "scheme": "https", "target": "/a?x=1", "version": "HTTP/1.1", "fields": ["Host: here:8080"], "body": EMPTY},
        "attempts": [{
            "upstream": "up", "endpoint": "e", "begun_ms": 2.0, "ended_ms": 9.0, "code": "", "detail": "", "blame": "good",
            "translated": False, "tunnel": False,
            "request": {"method": "GET", "url": "http://e/a", "fields": [], "body": EMPTY, "body_of_client": True},
            "response": {"status": 0, "reason": "", "fields": [], "trailers": [], "interim": [], "begun_ms": None,
                         "ended_ms": None, "body": EMPTY},
        }],
        "response": answer,
    }


def entries(**response: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = archive([document(**response)])["log"]["entries"]
    return found


def test_times_are_those_of_the_exchange_and_of_its_attempts() -> None:
    client, attempt = entries()
    assert client["startedDateTime"] == "2026-01-01T00:00:00.000+00:00" and client["request"]["url"] == "https://here:8080/a?x=1"
    assert (client["time"], client["timings"]["wait"], client["timings"]["receive"]) == (10.0, 4.0, 6.0)
    assert attempt["startedDateTime"] == "2026-01-01T00:00:00.002+00:00" and attempt["response"]["status"] == 0
    assert (attempt["time"], attempt["timings"]["wait"], attempt["timings"]["receive"]) == (7.0, 7.0, 0.0)
    assert attempt["_attempt"] == 1 and attempt["_blame"] == "good"


def test_a_body_that_is_no_text_and_one_that_was_cut() -> None:
    binary = {**EMPTY, "size": 2, "base64": base64.b64encode(b"\xff\x00").decode()}
    content = entries(body=binary)[0]["response"]["content"]
    assert content["encoding"] == "base64" and base64.b64decode(content["text"]) == b"\xff\x00"
    cut = {**EMPTY, "size": 100, "missing": 90, "text": "begin", "tail_text": "end", "pieces": [[1.0, 50], [2.0, 50]]}
    content = entries(body=cut)[0]["response"]["content"]
    assert content["size"] == 100 and content["text"] == "begin" and content["_tail"] == "end" and content["_missing"] == 90
    assert content["_pieces"] == [[1.0, 50], [2.0, 50]] and "90 of 100" in content["comment"]


def test_a_coding_that_relayd_cannot_decode_stays() -> None:
    coded = {**EMPTY, "size": 2, "base64": base64.b64encode(b"\xff\x00").decode()}
    content = entries(body=coded, fields=["Content-Encoding: br"])[0]["response"]["content"]
    assert content["_contentEncoding"] == "br" and "compression" not in content and content["mimeType"] == "x-unknown"
