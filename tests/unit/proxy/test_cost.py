"""The images of a request, which have a price of their own; test_costs.py has the costs of whole exchanges."""

from __future__ import annotations

import json

import pytest

from relayd.protocols.dialect import Dialect, run_steps
from relayd.protocols.gemini import DIALECT as GEMINI
from relayd.protocols.openai_chat import DIALECT as CHAT
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.cost import MOST_IMAGES, STEP_BYTES, image_steps
from relayd.proxy.request_context import context_of
from relayd.stores.memory import Store
from tests.unit.proxy.fakes import head_for

STORE = Store(10, 100_000, 60.0)
PART = '{"type": "image_url", "image_url" : {"url": "https://a/b"}}'


def images(body: str, path: str = "/v1/chat/completions", dialect: Dialect = CHAT) -> int:
    head = head_for(start=f"POST {path} HTTP/1.1")
    head.model = "m"
    request = AiRequest(dialect, head, body.encode(), lambda: context_of(head, b"id-1", STORE.space("a"), b"", None))
    run_steps(image_steps(request, head.path))
    return request.images


@pytest.mark.parametrize("before", [STEP_BYTES - len(PART) - 20, STEP_BYTES - 30, STEP_BYTES - 14, STEP_BYTES, 3 * STEP_BYTES])
def test_an_image_is_counted_once_wherever_it_stands_in_a_large_body(before: int) -> None:
    assert images(f'{{"p": "{"x" * before}", "c": [{PART}]}}') == 1


def test_text_that_looks_like_an_image_is_none() -> None:
    text = json.dumps({"text": PART, "image_url": None})
    assert images(text) == 0


def test_no_request_has_more_images_than_any_endpoint_accepts() -> None:
    assert images(",".join([PART] * (MOST_IMAGES + 1))) == MOST_IMAGES


def test_images_of_gemini_are_told_from_other_files() -> None:
    parts = '{"inlineData": {"mimeType": "image/png"}}, {"inline_data": {"mime_type":"image/webp"}}, {"fileData": {"mimeType": "audio/mp3"}}'
    assert images(parts, "/v1beta/models/m:generateContent", GEMINI) == 2


@pytest.mark.parametrize(("number", "count"), [('"n": 3', 3), ('"n": 0', 1), ('"n": "2"', 1), ('"n": 1e9', 1), ('"m": 2', 1)])
def test_generated_images_are_as_many_as_requested(number: str, count: int) -> None:
    assert images(f'{{"model": "m", {number}}}', "/v1/images/generations") == count
