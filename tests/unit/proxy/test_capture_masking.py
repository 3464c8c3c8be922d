"""Masking of captured exchanges: names, keys of upstreams and of clients, wherever they stand and wherever a body is cut."""

from __future__ import annotations

import gzip

import pytest

from relayd.protocols.dialect import run_steps
from relayd.proxy.body_masking import mask_body_steps
from relayd.proxy.capture_masking import MAX_SECRETS, Masks, mask_steps, secrets_of
from relayd.proxy.captured import Allowance, BodyCopy, CapturedExchange
from relayd.wire.key_filter import KeyFilter
from tests.unit.proxy.fakes import plan_of

KEY = "sk-stored-0123456789"
PLAN = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams:
  one: {endpoints: ["http://one.example"], auth: {header: {name: X-Special, value: {env: CAPTURE_TEST_KEY}}}}
  two: {endpoints: ["http://two.example"], auth: {query: {name: code, value: {env: CAPTURE_TEST_KEY}}}}
routes: [{name: all, upstream: one}]
"""


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> Masks:
    monkeypatch.setenv("CAPTURE_TEST_KEY", KEY)
    return Masks(plan_of(PLAN))


def exchange(target: bytes, *fields: bytes) -> CapturedExchange:
    captured = CapturedExchange(Allowance(1 << 24), 1 << 20, 0.0)
    captured.method, captured.target, captured.fields = b"GET", target, list(fields)
    return captured


def finish(captured: CapturedExchange, masks: Masks) -> CapturedExchange:
    for body in captured.bodies():
        body.finish()
    run_steps(mask_steps(captured, masks))
    return captured


def test_fields_and_parameters_are_masked_by_their_names(masks: Masks) -> None:
    captured = finish(exchange(b"/a?code=abc&x=1&api_key=abc", b"X-Special: abc", b"Cookie: a=b", b"Accept: x"), masks)
    assert captured.target == b"/a?code=***&x=1&api_key=***"
    assert captured.fields == [b"X-Special: ***", b"Cookie: ***", b"Accept: x"]


def test_keys_are_masked_wherever_they_stand(masks: Masks) -> None:
    captured = exchange(b"/" + KEY.encode(), b"X-Note: " + KEY.encode(), b"Authorization: Bearer client-key-4567")
    captured.body.add(b'{"mine": "client-key-4567", "yours": "' + KEY.encode() + b'"}', 0.0)
    captured.response.reason = b"OK client-key-4567"
    captured.response.fields = [b"X-Echo: client-key-4567"]
    captured.response.trailers = [b"X-End: client-key-4567", b"Set-Cookie: a=b"]
    captured.record = {"detail": f"curl: {KEY}", "status": 200}
    finish(captured, masks)
    assert captured.target == b"/***" and captured.fields[0] == b"X-Note: ***"
    assert bytes(captured.body.head) == b'{"mine": "***", "yours": "***"}' and captured.body.is_masked
    assert captured.response.trailers == [b"X-End: ***", b"Set-Cookie: ***"] and captured.response.reason == b"OK ***"
    assert captured.response.fields == [b"X-Echo: ***"] and captured.record == {"detail": "curl: ***", "status": 200}


def test_a_key_of_other_than_ascii_letters_is_masked_too(masks: Masks) -> None:
    captured = exchange(b"/", "X-Api-Key: schl\u00fcssel-4567".encode())
    captured.body.add('{"echo": "schl\u00fcssel-4567"}'.encode(), 0.0)
    assert bytes(finish(captured, masks).body.head) == b'{"echo": "***"}'


def test_the_secrets_of_a_client_are_the_values_of_its_secret_names(masks: Masks) -> None:
    captured = exchange(b"/a?token=query-secret&x=plain", b"X-Api-Key: field-secret", b"Accept: plain")
    assert secrets_of(captured, masks) == ("field-secret", "query-secret")


@pytest.mark.parametrize("where", [0, 5, 16 * 1024 - 5, 16 * 1024, 32 * 1024 - len(KEY), 60_000])
def test_a_key_on_the_border_of_two_blocks_is_found(where: int) -> None:
    body = BodyCopy(Allowance(1 << 20), 1 << 20)
    body.add(b"." * where + KEY.encode() + b"." * 1000, 0.0)
    body.finish()
    run_steps(mask_body_steps(body, [KeyFilter([("bearer", "Authorization", KEY)])]))
    assert bytes(body.head) == b"." * where + b"***" + b"." * 1000


@pytest.mark.parametrize("shift", range(0, len(KEY) + 1, 3))
def test_no_part_of_a_key_remains_where_a_body_is_cut(shift: int) -> None:
    """The bound cuts the key, at the end of the beginning and at the beginning of the end."""
    half = 2000
    whole = b"." * (half - shift) + KEY.encode() + b"." * 50_000 + KEY.encode() + b"." * (half - len(KEY) + shift)
    for size in (len(whole), 1000):
        body = BodyCopy(Allowance(1 << 20), 2 * half)
        for start in range(0, len(whole), size):
            body.add(whole[start:start + size], 0.0)
        body.finish()
        run_steps(mask_body_steps(body, [KeyFilter([("bearer", "Authorization", KEY)])]))
        assert body.missing and not (set(bytes(body.head + body.tail).decode()) - set(".*"))


def test_secrets_are_found_in_cookies_subprotocols_and_every_kind_of_parameter(masks: Masks) -> None:
    captured = exchange(
        b"/a;jsessionid=path-secret;v=1/b?x=1;token=semi-secret&%61pi_key=en%2Bcoded%20one&q=plain",
        b"Cookie: theme=dark; sid=short1; other=0123456789abcdef; empty=",
        b"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.sk.key, base64url.bearer.authorization.k8s.io.token",
    )
    assert secrets_of(captured, masks) == (
        "short1", "0123456789abcdef", "sk.key", "authorization.k8s.io.token", "path-secret;v=1", "path-secret", "semi-secret",
        "en%2Bcoded%20one", "en+coded one",
    )
    captured.body.add(b"short1 0123456789abcdef sk.key path-secret semi-secret en+coded one dark", 0.0)
    assert bytes(finish(captured, masks).body.head) == b"*** *** *** *** *** *** dark"
    assert captured.fields[1] == (
        b"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.***, base64url.bearer.***")


def test_of_a_request_with_very_many_secrets_no_body_is_kept(masks: Masks) -> None:
    for count, kept in ((MAX_SECRETS, b"{}"), (MAX_SECRETS + 1, b"")):
        captured = exchange(b"/", *(b"X-Token-%d: value-%d" % (number, number) for number in range(count)))
        captured.body.add(b"{}", 0.0)
        body = finish(captured, masks).body
        assert (bytes(body.head), body.is_masked, body.missing) == (kept, not kept, 2 - len(kept))


def test_a_compressed_response_with_a_key_is_not_kept(masks: Masks) -> None:
    captured = exchange(b"/", b"Authorization: Bearer client-key-4567")
    captured.response.fields = [b"Content-Encoding: gzip"]
    captured.response.body.add(gzip.compress(b'{"wrong key": "client-key-4567"}'), 0.0)
    assert not finish(captured, masks).response.body.head
