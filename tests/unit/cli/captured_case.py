"""Shared by the tests of the commands for captured exchanges: an exchange as the admin application describes it."""

from __future__ import annotations

from typing import Any

IDENTITY = "0123456789abcdef"


def body(text: str = "", **members: Any) -> dict[str, Any]:
    return {"size": len(text), "missing": 0, "masked": False, "pieces": [], "pieces_omitted": 0, "text": text} | members


def record(**members: Any) -> dict[str, Any]:
    return {
        "time": "2026-11-29T14:00:01.250Z", "route": "chat", "consumer": "", "upstream": "up", "endpoint": "a:1", "method": "POST",
        "path": "/v1/chat", "status": 200, "outcome": "complete", "code": "", "detail": "", "attempts": 1, "first_byte_ms": 12.0,
        "total_ms": 345.6, **members,
    }


def summary(**members: Any) -> dict[str, Any]:
    """As in the list, and as an event."""
    return {"id": IDENTITY, "record": record(**members), "size_bytes": 2048, "expires_in_s": 3000.0}


def exchange(answer: str = '{"a":1}', *, status: int = 200, identity: str = IDENTITY, **members: Any) -> dict[str, Any]:
    """An exchange with one attempt. `members`: of the body of the response."""
    fields = ["Content-Type: application/json"]
    response = {"status": status, "reason": "OK", "fields": fields, "trailers": [], "begun_ms": 4.0, "ended_ms": 10.0,
                "body": body(answer, **members)}
    return {
        "id": identity, "record": record(status=status),
        "request": {"method": "POST", "scheme": "http", "target": "/v1/chat?x=1", "version": "HTTP/1.1", "dialect": "",
                    "fields": ["Host: ai.test", *fields], "body": body('{"q":1}')},
        "attempts": [{
            "upstream": "up", "endpoint": "a:1", "begun_ms": 2.0, "ended_ms": 9.0, "code": "", "detail": "", "blame": "good",
            "translated": False, "tunnel": False,
            "request": {"method": "POST", "url": "http://a:1/v1/chat", "fields": fields, "body": body(), "body_of_client": True},
            "response": {**response, "interim": []},
        }],
        "response": response,
    }
