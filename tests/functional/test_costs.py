"""What requests cost, through the real process: every dialect, plain and streamed, passed and translated.

The expected amounts are computed here a second time, with decimal numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.dialects.fronts import FRONTS, FULL, Front, FullFront
from tests.functional.harness.dialects.gateway import BACKS, FRONT_ROUTES, THERE, Gateway, gateway
from tests.functional.harness.dialects.said import Fail, Say
from tests.functional.harness.dialects.turns import Turns
from tests.functional.harness.faults import metric, until

NANO = Decimal(10) ** 9
KINDS = ("input", "output", "cached_read", "cache_write", "reasoning")
PRICES: dict[str, dict[str, str]] = {
    THERE["openai_chat"]: {"input": "2.50", "output": "10", "cached_read": "1.25", "cache_write": "3.75", "reasoning": "12.5"},
    THERE["openai_responses"]: {"input": "0.15", "output": "0.6", "cached_read": "0.075", "reasoning": "0.7", "request": "0.01"},
    THERE["anthropic_messages"]: {"input": "3", "output": "15", "cached_read": "0.3", "cache_write": "3.75"},
    "gemini-*": {"input": "0.3", "output": "2.5", "cached_read": "0.075", "reasoning": "3.1"},
    THERE["ollama"]: {"input": "0.000123457", "output": "0.000987654"},
    "embed": {"input": "0.02"},
    "seer": {"input": "1", "image": "0.00125"},
    "painter": {"image": "0.04"},
    "dialogflow": {"input": "7", "output": "9"},  # this front names no model
}
MODELS = {
    "embed": "openai_chat", "painter": "openai_chat", "unpriced": "openai_chat", "alias": {"upstream": "openai_chat", "model": "elsewhere"},
    "seer": "openai_chat", "cheap": {"upstream": "anthropic_messages", "model": THERE["openai_chat"]},
    "seer-a": {"upstream": "anthropic_messages", "model": "seer"}, "seer-r": {"upstream": "openai_responses", "model": "seer"},
    "seer-g": {"upstream": "gemini", "model": "seer"},
    "safe": {"upstream": "openai_chat", "model": THERE["openai_chat"], "fallbacks": [
        {"upstream": "anthropic_messages", "model": THERE["anthropic_messages"], "on": ["any"]}]},
}
BOTH = [pytest.param(front, back, id=f"{front.name}-{back}") for front in FRONTS for back in BACKS]
STREAMED = [pytest.param(front, back, id=f"{front.name}-{back}") for front in FULL for back in BACKS]


def price_file(folder: Path) -> Path:
    path = folder / "prices.yaml"
    path.write_text("\n".join([
        "currency: EUR",
        *(f"{json.dumps(name)}: {json.dumps(prices).replace(': ' + chr(34), ': ').replace(chr(34) + ',', ',').replace(chr(34) + '}', '}')}" for name, prices in PRICES.items()),
        "alias: {request: 0.5}",
        "upstreams: {anthropic_messages: {small-chat: {input: 1, output: 2}}}",
    ]))
    return path


@pytest.fixture(scope="module")
def module_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("costs")
    routes = [{"name": "gemini", "match": {"prefix": "/v1beta/"}, "upstream": "gemini"}]
    with gateway(folder, {"prices": str(price_file(folder)), "models": MODELS}, strict=False, routes=routes) as found:
        yield found


@pytest.fixture(scope="module")
def telling_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("telling")
    routes = [one | {"name": "telling-" + one["name"], "tells_cost": True} for one in FRONT_ROUTES]
    with gateway(folder, {"prices": str(price_file(folder)), "models": MODELS}, strict=False, routes=routes) as found:
        yield found


@pytest.fixture
def telling(telling_gateway: Gateway) -> Gateway:
    telling_gateway.fresh()
    return telling_gateway


def cost(prices: dict[str, str], images: int = 0, **tokens: int) -> str:
    """The cost of tokens by kind; an omitted price is that of the kind to which the tokens belong."""
    otherwise = {"cached_read": "input", "cache_write": "input", "reasoning": "output"}
    total = sum(
        (Decimal(prices.get(kind) or prices.get(otherwise.get(kind, kind)) or 0) * count / 1_000_000 for kind, count in tokens.items()),
        Decimal(prices.get("request", 0)) + Decimal(prices.get("image", 0)) * images,
    )
    nano = (total * NANO).to_integral_value(ROUND_CEILING)
    return f"{nano / NANO:.9f}".rstrip("0").rstrip(".")


def cost_of_say(back: str, say: Say, front: str = "") -> str:
    """The cost of a back-end's answer. Ollama's reports no cached tokens, Gemini's two of reasoning."""
    read, written, cached = say.usage
    cached = 0 if back == "ollama" else cached
    thought = 2 if back == "gemini" else 0
    prices = PRICES.get("dialogflow" if front == "dialogflow" else THERE[back]) or PRICES["gemini-*"]
    return cost(prices, input=read - cached, cached_read=cached, output=written - thought, reasoning=thought)


def last_record(running: Gateway, number: int) -> dict[str, Any]:
    """The record of the request with this number."""


    return until(lambda: running.relay.records()[number:], what="a record")[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize(("front", "back"), BOTH)
def test_a_plain_answer_has_its_cost(front: Front, back: str, running: Gateway) -> None:
    say = Say(("dear",), usage=(123_456, 789, 100_001))
    running.backs[back].brain = lambda asked: say
    before = len(running.relay.records())
    assert running.ask(front, back, front.ask(back, "x")).status == 200
    found = last_record(running, before)
    assert (found["cost"], found["currency"]) == (cost_of_say(back, say, front.name), "EUR")


@pytest.mark.parametrize(("front", "back"), STREAMED)
def test_a_streamed_answer_has_its_cost(front: FullFront, back: str, running: Gateway) -> None:
    say = Say(("dear", " words"), usage=(1_000_003, 77, 12_345))
    running.backs[back].brain = lambda asked: say
    before = len(running.relay.records())
    front.read(running.ask(front, back, front.ask(back, "x", stream=True)), stream=True)
    found = last_record(running, before)
    assert (found["cost"], found["currency"]) == (cost_of_say(back, say), "EUR")


NATIVE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "openai_chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "y"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500,
                  "prompt_tokens_details": {"cached_tokens": 300, "cache_write_tokens": 200}, "completion_tokens_details": {"reasoning_tokens": 450}}}),
    "openai_responses": ("/v1/responses", {"input": "x"}, {
        "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m", "error": None, "output": [
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": "y", "annotations": []}]}],
        "usage": {"input_tokens": 1000, "output_tokens": 500, "total_tokens": 1500,
                  "input_tokens_details": {"cached_tokens": 300}, "output_tokens_details": {"reasoning_tokens": 450}}}),
    "anthropic_messages": ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}, {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "y"}],
        "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 500, "cache_read_input_tokens": 300, "cache_creation_input_tokens": 200, "output_tokens": 500}}),
    "gemini": ("/v1beta/models/gemini-3-flash:generateContent", {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}, {
        "candidates": [{"content": {"role": "model", "parts": [{"text": "y"}]}, "finishReason": "STOP", "index": 0}], "modelVersion": "m",
        "usageMetadata": {"promptTokenCount": 1000, "candidatesTokenCount": 50, "thoughtsTokenCount": 450, "cachedContentTokenCount": 300, "totalTokenCount": 1500}}),
}
COUNTED = {  # by back-end: what its answer above reports
    "openai_chat": {"input": 500, "cached_read": 300, "cache_write": 200, "output": 50, "reasoning": 450},
    "openai_responses": {"input": 700, "cached_read": 300, "output": 50, "reasoning": 450},
    "anthropic_messages": {"input": 500, "cached_read": 300, "cache_write": 200, "output": 500},
    "gemini": {"input": 700, "cached_read": 300, "output": 50, "reasoning": 450},
}


@pytest.mark.parametrize(
    ("front", "back"), [(front, back) for front in NATIVE for back in NATIVE if front != "gemini" or back == "gemini"]
)
def test_cached_and_reasoning_tokens_have_their_own_prices(front: str, back: str, running: Gateway) -> None:
    path, body, _ = NATIVE[front]
    reply = json.dumps(NATIVE[back][2]).encode()
    running.backs[back].brain = lambda asked: Fail(200, body=reply, content_type="application/json")
    before = len(running.relay.records())
    assert running.post(path, body if front == "gemini" else body | {"model": back}, b"anthropic-version: 2023-06-01").status == 200
    assert last_record(running, before)["cost"] == cost(PRICES.get(THERE[back]) or PRICES["gemini-*"], **COUNTED[back])


def test_other_requests_with_tokens_have_a_cost_too(running: Gateway) -> None:
    before = len(running.relay.records())
    assert running.post("/v1/embeddings", {"model": "embed", "input": "x"}).status == 200
    found = last_record(running, before)
    assert (found["tokens_input"], found["cost"]) == (5, cost(PRICES["embed"], input=5))


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/chat/completions", {"model": "seer", "messages": [{"role": "user", "content": [
        {"type": "text", "text": 'an "image_url": {'}, *({"type": "image_url", "image_url": {"url": f"https://a/{n}"}} for n in range(3))]}]}),
    ("/v1/messages", {"model": "seer-a", "max_tokens": 9, "messages": [{"role": "user", "content": [
        {"type": "text", "text": "image"}, *[{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}] * 3]}]}),
    ("/v1/responses", {"model": "seer-r", "input": [{"role": "user", "content": [
        {"type": "input_text", "text": "x"}, *({"type": "input_image", "image_url": f"https://a/{n}"} for n in range(3))]}]}),
    ("/v1/chat/completions", {"model": "seer-a", "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": f"https://a/{n}"}} for n in range(3)]}]}),
], ids=["chat", "messages", "responses", "translated"])
def test_each_image_of_a_request_has_its_price(path: str, body: dict[str, Any], running: Gateway) -> None:
    before = len(running.relay.records())
    assert running.post(path, body, b"anthropic-version: 2023-06-01").status == 200
    assert last_record(running, before)["cost"] == cost(PRICES["seer"], images=3, input=11)


def test_each_generated_image_has_its_price(running: Gateway) -> None:
    before = len(running.relay.records())
    running.post("/v1/images/generations", {"model": "painter", "prompt": "x", "n": 4})
    assert last_record(running, before).get("cost") == cost(PRICES["painter"], images=4)


def test_the_price_is_that_of_the_upstream_then_of_the_name_there_then_of_the_clients_name(running: Gateway) -> None:
    for model, expected in (
        ("cheap", cost({"input": "1", "output": "2"}, input=11, output=7)), ("alias", "0.5"),
        ("openai_chat", cost_of_say("openai_chat", Say())),
    ):
        before = len(running.relay.records())
        running.post("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "x"}]})
        assert last_record(running, before)["cost"] == expected, model


def test_a_request_without_a_price_has_no_cost_and_is_counted(running: Gateway) -> None:
    before, unpriced = len(running.relay.records()), metric(running.relay, "relayd_proxy_unpriced_total")
    running.post("/v1/chat/completions", {"model": "unpriced", "messages": [{"role": "user", "content": "x"}]})
    found = last_record(running, before)
    assert found["tokens_input"] == 11
    assert "cost" not in found and "currency" not in found
    assert metric(running.relay, "relayd_proxy_unpriced_total") == unpriced + 1


def test_a_refused_request_costs_nothing(running: Gateway) -> None:
    running.backs["openai_chat"].brain = lambda asked: Fail(400)
    before = len(running.relay.records())
    assert running.post("/v1/chat/completions", {"model": "alias", "messages": [{"role": "user", "content": "x"}]}).status == 400
    assert "cost" not in last_record(running, before)


def test_the_metric_has_the_sum_in_nano_units(running: Gateway) -> None:
    before = metric(running.relay, "relayd_proxy_cost_nano_total", upstream="ollama")
    for _ in range(3):
        running.post("/v1/chat/completions", {"model": "ollama", "messages": [{"role": "user", "content": "x"}]})
    one = int(Decimal(cost_of_say("ollama", Say())) * NANO)
    assert metric(running.relay, "relayd_proxy_cost_nano_total", upstream="ollama") == before + 3 * one


@pytest.mark.parametrize(("front", "back"), [one for one in BOTH if "dialogflow" not in str(one.id)])
def test_a_route_tells_the_cost_of_a_plain_answer_in_its_head(front: Front, back: str, telling: Gateway) -> None:
    message = telling.ask(front, back, front.ask(back, "x"))
    assert message.get("x-relayd-cost") == f"{cost_of_say(back, Say())} EUR".encode()
    assert message.get("content-length") is not None
    front.read(message, stream=False)


@pytest.mark.parametrize(("front", "back"), STREAMED)
def test_a_route_tells_the_cost_of_a_stream_in_its_trailer(front: FullFront, back: str, telling: Gateway) -> None:
    with telling.relay.client() as client:
        client.send(telling.bytes_of(front, back, front.ask(back, "x", stream=True)))
        raw = b""
        while not raw.endswith(b"\r\n\r\n") or b"\r\n0\r\n" not in raw:
            assert client.fill(5)
            raw = bytes(client.buffer)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"Trailer: X-Relayd-Cost" in head
    assert body.endswith(f"0\r\nX-Relayd-Cost: {cost_of_say(back, Say())} EUR\r\n\r\n".encode())


def test_a_large_plain_answer_is_not_held_and_has_its_cost_in_the_trailer(telling: Gateway) -> None:
    reply = NATIVE["openai_chat"][2] | {"padding": "x" * 300_000}
    telling.backs["openai_chat"].brain = lambda asked: Fail(200, body=json.dumps(reply).encode(), content_type="application/json")
    with telling.relay.client() as client:
        client.send(telling.bytes_of(FULL[0], "openai_chat", FULL[0].ask("openai_chat", "x")))
        while b"\r\n0\r\n" not in client.buffer[-100:]:
            assert client.fill(5)
        raw = bytes(client.buffer)
    assert b"Transfer-Encoding: chunked" in raw[:1000] and b"Content-Length" not in raw[:1000]
    assert f"X-Relayd-Cost: {cost(PRICES[THERE['openai_chat']], **COUNTED['openai_chat'])} EUR\r\n\r\n".encode() in raw


def test_nothing_is_told_without_a_price_or_for_an_error(telling: Gateway) -> None:
    body = {"model": "unpriced", "messages": [{"role": "user", "content": "x"}]}
    assert telling.post("/v1/chat/completions", body).get("x-relayd-cost") is None
    telling.backs["openai_chat"].brain = lambda asked: Fail(400)
    message = telling.post("/v1/chat/completions", body | {"model": "openai_chat"})
    assert (message.status, message.get("x-relayd-cost")) == (400, None)


def test_after_a_fallback_the_request_has_the_price_of_the_endpoint_that_answered(running: Gateway) -> None:
    running.backs["openai_chat"].brain = lambda asked: Fail(500)
    before = len(running.relay.records())
    assert running.post("/v1/chat/completions", {"model": "safe", "messages": [{"role": "user", "content": "x"}]}).status == 200
    found = last_record(running, before)
    assert (found["upstream"], found["cost"]) == ("anthropic_messages", cost_of_say("anthropic_messages", Say()))


def test_a_turn_over_websocket_has_its_cost(running: Gateway) -> None:
    before = len(running.relay.records())
    with Turns(running.relay.port) as turns:
        turns.turn(model="anthropic_messages", input="x")
    found = until(lambda: [one for one in running.relay.records()[before:] if one.get("cost")])[0]
    assert found["cost"] == cost_of_say("anthropic_messages", Say())


def test_counting_tokens_and_listing_models_cost_nothing(running: Gateway) -> None:
    unpriced = metric(running.relay, "relayd_proxy_unpriced_total")
    before = len(running.relay.records())
    body = {"model": "openai_chat", "messages": [{"role": "user", "content": "x"}]}
    running.post("/v1/messages/count_tokens", body, b"anthropic-version: 2023-06-01")
    running.send("GET", "/v1/models")
    assert all("cost" not in last_record(running, before + number) for number in range(2))
    assert metric(running.relay, "relayd_proxy_unpriced_total") == unpriced


@pytest.mark.parametrize("front", FULL, ids=lambda front: front.name)
def test_a_stream_that_ends_before_it_reports_tokens_has_an_estimated_cost(running: Gateway, front: FullFront) -> None:
    running.backs["openai_chat"].brain = lambda asked: Say(("half", "rest"), breaks="cut", frames=3)
    before, estimated = len(running.relay.records()), metric(running.relay, "relayd_proxy_estimated_costs_total")
    unpriced = metric(running.relay, "relayd_proxy_unpriced_total")
    asked = front.ask("openai_chat", "x", stream=True)
    running.ask(front, "openai_chat", asked)
    found, prices = last_record(running, before), PRICES[THERE["openai_chat"]]
    assert found["cost_estimated"] is True and found["currency"] == "EUR"
    least, most = (Decimal(cost(prices, input=tokens, output=output)) for tokens, output in ((10, 1), (100, 2)))
    assert least <= Decimal(found["cost"]) <= most
    assert metric(running.relay, "relayd_proxy_estimated_costs_total") == estimated + 1
    assert metric(running.relay, "relayd_proxy_unpriced_total") == unpriced
