"""Captured exchanges as text: what is missing, binary and compressed bodies, and control characters of strangers."""

from __future__ import annotations

import base64
import gzip
import zlib
from typing import Any

import pytest

from relayd.cli.captured import body_lines, content_of, decoded, lines, raw_lines


def body(data: bytes = b"", **members: Any) -> dict[str, Any]:
    kept: dict[str, Any] = {"size": len(data), "missing": 0, "masked": False, "pieces": [], "pieces_omitted": 0}
    try:
        kept["text"] = data.decode()
    except UnicodeDecodeError:
        kept["base64"] = base64.b64encode(data).decode()
    return kept | members


def message(data: bytes, *fields: str, **members: Any) -> dict[str, Any]:
    return {"fields": list(fields), "body": body(data, **members)}


@pytest.mark.parametrize(("coding", "data"), [
    ("gzip", gzip.compress(b"plain", mtime=0)), ("x-gzip", gzip.compress(b"plain", mtime=0)), ("deflate", zlib.compress(b"plain")),
    ("deflate", zlib.compress(b"plain")[2:-4]), ("identity", b"plain"), ("", b"plain"),
])
def test_content_codings_are_decoded(coding: str, data: bytes) -> None:
    assert decoded(data, coding) == b"plain"


def test_what_cannot_be_decoded_is_none() -> None:
    assert decoded(b"x", "br") is None and decoded(b"no gzip", "gzip") is None and decoded(b"no zlib", "deflate") is None


def test_json_is_indented_and_other_text_is_not() -> None:
    assert list(body_lines(message(b'{"a":1}'))) == ["{", '  "a": 1', "}"]
    assert list(body_lines(message(b"{broken"))) == ["{broken"]
    assert list(raw_lines(message(b'{"a":1}'))) == ['{"a":1}']


def test_what_is_missing_is_said_where_it_is_missing() -> None:
    cut = message(b"begin", size=100, missing=92, tail_text="end")
    assert list(body_lines(cut)) == ["begin", "# ... 92 of 100 bytes are not kept ...", "end"] == list(raw_lines(cut))
    assert list(body_lines(message(b"", size=7, missing=7))) == ["# A body of 7 bytes, which was not kept."]
    assert list(body_lines(message(b"\xff\xfe"))) == ["# A body of 2 bytes that is no text."]
    assert next(body_lines(message(b"***", masked=True))) == "# A key was replaced by *** in this body."


def test_bytes_come_back_as_they_were() -> None:
    assert content_of(body(b"\xff\x00")) == b"\xff\x00" and content_of(body("ä".encode())) == "ä".encode()


def test_an_exchange_is_shown_without_control_characters() -> None:
    document: dict[str, Any] = {
        "id": "abc", "record": {"time": "2026-01-01T00:00:00.000Z", "total_ms": 5, "route": "all", "status": 499,
                                "outcome": "client.attempt", "code": "client_gone", "detail": "\033[2J"},
        "request": {"method": "GET", "target": "/\033[31m", "version": "HTTP/1.1", **message(b"\033[0m", "X: \033")},
        "attempts": [{
            "upstream": "up", "endpoint": "e", "begun_ms": 1, "ended_ms": 2, "code": "client_gone", "detail": "", "blame": "none",
            "translated": True, "tunnel": False,
            "request": {"method": "GET", "url": "http://e/", "body_of_client": True, **message(b"")},
            "response": {"status": 0, "reason": "", "trailers": [], "interim": [103], "begun_ms": None, **message(b"")},
        }],
        "response": {"status": 0, "reason": "", "trailers": [], "begun_ms": None, **message(b"")},
    }
    text = "\n".join(lines(document))
    assert "\033" not in text and "client_gone" in text and "<< 103 (interim)" in text and "<< no response" in text
    assert "(the client's body, as it arrived)" in text and "no response was sent to the client" in text and ", translated" in text


def test_escapes_in_json_do_not_become_control_characters() -> None:
    found = list(body_lines(message(b'{"a": "\\u009b31m\\u202eX\\ud800"}')))
    assert found == ["{", '  "a": "\\u009b31m\\u202eX\\ud800"', "}"]
