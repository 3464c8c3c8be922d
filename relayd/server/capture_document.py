"""A captured exchange as a JSON document, made in steps because bodies may be large.

A body is `text` if it is UTF-8, else `base64`; of a cut body that is the beginning, and `tail_text` or `tail_base64` is
the end. `pieces` are pairs of milliseconds since the beginning of the exchange and bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

from relayd.proxy.captured import BodyCopy, CapturedAttempt, CapturedExchange
from relayd.wire.json_steps import Steps

TEXT_BLOCK = 64 * 1024  # characters or bytes of a body that are written in one step


def summary(captured: CapturedExchange, now_s: float) -> dict[str, object]:
    """An exchange in a list: its access record, and what it uses. `now_s` is a time of the monotonic clock."""
    return {
        "id": captured.id, "size_bytes": captured.size_bytes,
        "expires_in_s": round(max(0.0, captured.expires_s - now_s), 1), "record": captured.record,
    }


def document_steps(captured: CapturedExchange, now_s: float) -> Steps[bytes]:
    """The whole exchange."""
    parts: list[bytes] = []
    for part in _exchange(captured, now_s):
        parts.append(part)
        yield
    return b"".join(parts) + b"\n"


def _exchange(captured: CapturedExchange, now_s: float) -> Iterator[bytes]:
    yield _json(summary(captured, now_s))[:-1] + b', "request": '
    yield from _object({
        "method": _text(captured.method), "target": _text(captured.target),
        "scheme": "https" if captured.is_tls else "http", "dialect": captured.dialect,
        "version": "HTTP/1.0" if captured.version == 10 else "HTTP/1.1",
        "fields": _texts(captured.fields),
    }, {"body": captured.body})
    yield b', "attempts": ['
    for number, attempt in enumerate(captured.attempts):
        yield b", " if number else b""
        yield from _attempt(attempt)
    answer = captured.response
    yield b'], "response": '
    yield from _object({
        "status": answer.status, "reason": _text(answer.reason), "fields": _texts(answer.fields),
        "trailers": _texts(answer.trailers), "begun_ms": _ms(answer.begun_s), "ended_ms": _ms(answer.ended_s),
    }, {"body": answer.body})
    yield b"}"


def _attempt(attempt: CapturedAttempt) -> Iterator[bytes]:
    answer = attempt.response
    yield from _object({
        "upstream": attempt.upstream, "endpoint": attempt.endpoint, "translated": attempt.translated,
        "tunnel": attempt.is_tunnel, "begun_ms": _ms(attempt.started_s), "ended_ms": _ms(attempt.ended_s),
        "code": attempt.fault, "detail": attempt.detail, "blame": attempt.blame,
    })
    # The object goes on: its last brace is not written yet.
    yield b', "request": '
    yield from _object({
        "method": _text(attempt.method), "url": _text(attempt.url), "fields": _texts(attempt.fields),
        "body_of_client": attempt.request_is_forwarded,
    }, {"body": attempt.body})
    yield b', "response": '
    yield from _object({
        "status": answer.status, "reason": _text(answer.reason), "fields": _texts(answer.fields),
        "trailers": _texts(answer.trailers), "interim": attempt.interim, "begun_ms": _ms(answer.begun_s),
        "ended_ms": _ms(answer.ended_s),
    }, {"body": answer.body})
    yield b"}"


def _object(members: dict[str, object], bodies: dict[str, BodyCopy] | None = None) -> Iterator[bytes]:
    """An object with these members and bodies; without bodies, its last brace is left out."""
    yield _json(members)[:-1]
    for name, body in (bodies or {}).items():
        yield b', "' + name.encode() + b'": '
        yield from _body(body)
    if bodies is not None:
        yield b"}"


def _body(body: BodyCopy) -> Iterator[bytes]:
    pieces = [[_ms(at_s), size] for at_s, size in zip(body.times, body.sizes, strict=True)]
    head, tail = bytes(body.head), bytes(body.tail)
    yield _json({
        "size": body.size, "missing": body.missing, "masked": body.is_masked, "pieces": pieces,
        "pieces_omitted": body.uncounted,
    })[:-1]
    yield from _content("", head, is_cut=bool(body.missing), is_tail=False)
    if tail:
        yield from _content("tail_", tail, is_cut=True, is_tail=True)
    yield b"}"


def _content(prefix: str, data: bytes, *, is_cut: bool, is_tail: bool) -> Iterator[bytes]:
    text = decoded(data, is_cut=is_cut, is_tail=is_tail)
    if text is None:
        yield f', "{prefix}base64": "'.encode()
        step = TEXT_BLOCK // 3 * 3
        for start in range(0, len(data), step):
            yield base64.b64encode(data[start:start + step])
    else:
        yield f', "{prefix}text": "'.encode()
        for start in range(0, len(text), TEXT_BLOCK):
            yield json.dumps(text[start:start + TEXT_BLOCK], ensure_ascii=False).encode()[1:-1]
    yield b'"'


def decoded(data: bytes, *, is_cut: bool, is_tail: bool) -> str | None:
    """Data as text; None if it is no UTF-8. A character that is cut is left out."""
    if is_cut and is_tail:
        start = next((index for index in range(min(4, len(data))) if data[index] & 0xC0 != 0x80), 0)
        data = data[start:]
    try:
        return data.decode()
    except UnicodeDecodeError as fault:
        if is_cut and not is_tail and fault.reason == "unexpected end of data":
            return data[: fault.start].decode()
        return None


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _texts(lines: list[bytes]) -> list[str]:
    return [line.decode("latin-1") for line in lines]


def _ms(at_s: float) -> float | None:
    """Milliseconds; None for what did not occur."""
    return None if at_s < 0 else round(at_s * 1000, 3)
