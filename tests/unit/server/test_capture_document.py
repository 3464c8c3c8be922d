"""The JSON document of a captured exchange: heads, bodies as text or base64, times, and what is not kept."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from relayd.proxy.captured import EDGE_BYTES, Allowance, BodyCopy, CapturedAttempt, CapturedExchange
from relayd.server.capture_document import TEXT_BLOCK, decoded, document_steps, summary


def exchange(body_bytes: int = 1 << 20) -> CapturedExchange:
    captured = CapturedExchange(Allowance(1 << 30), body_bytes, 0.0)
    captured.id, captured.record, captured.expires_s = "one", {"id": "one", "path": "/é"}, 100.0
    captured.method, captured.target, captured.fields = b"POST", b"/\xe9?a=1", [b"Host: relay.example", b"X-Name: \xe9"]
    return captured


def finished(body: BodyCopy) -> None:
    body.finish()
    body.cut_edges()


def document(captured: CapturedExchange, now_s: float = 40.0) -> tuple[dict[str, Any], int]:
    """The document, and the number of its steps."""
    steps, count = document_steps(captured, now_s), 0
    while True:
        try:
            next(steps)
            count += 1
        except StopIteration as end:
            found: dict[str, Any] = json.loads(end.value)
            return found, count


def request_body(data: bytes, body_bytes: int = 1 << 20) -> dict[str, Any]:
    captured = exchange(body_bytes)
    captured.body.add(data, 0.25)
    finished(captured.body)
    found: dict[str, Any] = document(captured)[0]["request"]["body"]
    return found


def test_a_summary_is_the_record_with_its_size_and_the_time_that_is_left() -> None:
    captured = exchange()
    assert summary(captured, 40.04) == {
        "id": "one", "size_bytes": captured.size_bytes, "expires_in_s": 60.0, "record": captured.record,
    }
    assert summary(captured, 101.0)["expires_in_s"] == 0.0


def test_an_exchange_without_an_attempt_has_the_request_and_no_times_of_a_response() -> None:
    captured = exchange()
    captured.version, captured.is_tls, captured.dialect = 10, True, "openai_chat"
    found, _ = document(captured)
    assert found["id"] == "one" and found["record"] == {"id": "one", "path": "/é"} and found["attempts"] == []
    sent = found["request"]
    assert (sent["method"], sent["target"], sent["scheme"], sent["version"], sent["dialect"]) == (
        "POST", "/é?a=1", "https", "HTTP/1.0", "openai_chat",
    )
    assert sent["fields"] == ["Host: relay.example", "X-Name: é"]
    assert sent["body"] == {"size": 0, "missing": 0, "masked": False, "pieces": [], "pieces_omitted": 0, "text": ""}
    answer = found["response"]
    assert (answer["status"], answer["begun_ms"], answer["ended_ms"]) == (0, None, None)


def test_attempts_are_in_their_order_with_what_was_sent_and_answered() -> None:
    captured = exchange()
    for name in ("web", "other"):
        attempt = CapturedAttempt(name, f"{name}:1", 0.5, captured.new_body(), captured.new_body())
        attempt.method, attempt.url, attempt.fields = b"POST", f"http://{name}/".encode(), [b"Host: " + name.encode()]
        attempt.body.add(b"to " + name.encode(), 0.5)
        captured.attempts.append(attempt)
    first, second = captured.attempts
    first.fault, first.detail, first.blame, first.ended_s = "upstream_refused", "503", "endpoint", 0.75
    second.interim, second.translated, second.request_is_forwarded = [103], True, True
    answer = second.response
    answer.status, answer.reason, answer.fields, answer.trailers = 200, b"OK", [b"X-A: b"], [b"X-End: c"]
    answer.begun_s, answer.ended_s = 1.0, 1.25
    answer.body.add(b"answer", 1.0)
    for body in captured.bodies():
        finished(body)
    one, two = document(captured)[0]["attempts"]
    assert (one["upstream"], one["code"], one["detail"], one["blame"]) == ("web", "upstream_refused", "503", "endpoint")
    assert (one["begun_ms"], one["ended_ms"], one["response"]["begun_ms"]) == (500.0, 750.0, None)
    assert one["request"]["body"]["text"] == "to web" and one["request"]["url"] == "http://web/"
    assert (two["endpoint"], two["code"], two["translated"], two["tunnel"]) == ("other:1", "", True, False)
    assert two["request"]["body_of_client"] is True and two["request"]["fields"] == ["Host: other"]
    got = two["response"]
    assert (got["status"], got["reason"], got["fields"], got["trailers"]) == (200, "OK", ["X-A: b"], ["X-End: c"])
    assert (got["interim"], got["begun_ms"], got["ended_ms"], got["body"]["text"]) == ([103], 1000.0, 1250.0, "answer")


def test_the_pieces_of_a_body_are_times_in_milliseconds_and_sizes() -> None:
    captured = exchange()
    for number in range(3):
        captured.body.add(b"x" * (number + 1), number / 8)
    finished(captured.body)
    captured.body.is_masked = True
    body = document(captured)[0]["request"]["body"]
    assert body["pieces"] == [[0.0, 1], [125.0, 2], [250.0, 3]] and body["masked"] is True


@pytest.mark.parametrize("data", [b'"quoted" \\ \n\x00\x7f', "é€😀\u2028".encode(), b"x" * (TEXT_BLOCK + 1), "😀".encode() * TEXT_BLOCK])
def test_text_is_kept_as_text(data: bytes) -> None:
    body = request_body(data)
    assert body["text"].encode() == data and "base64" not in body and body["missing"] == 0


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"caf\xe9", "é".encode()[:1], bytes(range(256)) * 600])
def test_other_bytes_are_kept_as_base64(data: bytes) -> None:
    body = request_body(data)
    assert base64.b64decode(body["base64"], validate=True) == data and "text" not in body


def test_of_a_cut_text_the_characters_at_the_cut_are_left_out() -> None:
    data = b"a" + "€".encode() * (2 * EDGE_BYTES)
    body = request_body(data, 2000)
    head, tail = body["text"], body["tail_text"]
    assert head == "a" + "€" * 333 and tail == "€" * 333
    assert body["size"] == len(data) and body["missing"] == len(data) - 2000


def test_of_cut_bytes_both_ends_are_base64() -> None:
    data = b"\xff" * 20_000 + b"\xfe" * 20_000
    body = request_body(data, 2000)
    assert base64.b64decode(body["base64"]) == b"\xff" * 1000 and base64.b64decode(body["tail_base64"]) == b"\xfe" * 1000


def test_without_bodies_there_is_a_size_only() -> None:
    body = request_body(b"private", 0)
    assert (body["size"], body["missing"], body["pieces"], body["text"]) == (7, 7, [[250.0, 7]], "")


def test_a_large_body_takes_many_steps() -> None:
    captured = exchange(8 << 20)
    few = document(captured)[1]
    captured.body.add(b"x" * (20 * TEXT_BLOCK), 0.0)
    captured.response.body.add(b"\xff" * (20 * TEXT_BLOCK), 0.0)
    for body in captured.bodies():
        finished(body)
    assert document(captured)[1] >= few + 40


@pytest.mark.parametrize(("data", "is_cut", "is_tail", "wanted"), [
    (b"ab\xe2\x82", True, False, "ab"), (b"ab\xe2\x82", False, False, None), (b"\xe2\x82ab", True, False, None),
    (b"\x82\xacab", True, True, "ab"), (b"\x82\xacab", False, True, None), (b"ab\xe2\x82", True, True, None),
    (b"\x82" * 5, True, True, None), (b"ab\xff", True, False, None), (b"", True, True, ""),
])
def test_only_a_character_at_the_cut_may_be_incomplete(data: bytes, is_cut: bool, is_tail: bool, wanted: str | None) -> None:
    assert decoded(data, is_cut=is_cut, is_tail=is_tail) == wanted
