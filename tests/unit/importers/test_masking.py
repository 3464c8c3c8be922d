"""Secrets in a line of a source are masked by their name or by their form, and words are not."""

from __future__ import annotations

import base64
import random
import secrets
import string
import uuid

import pytest

from relayd.importers._masking import masked_source


def random_values() -> list[str]:
    chance = random.Random(11)
    letters = string.ascii_letters + string.digits
    small = string.ascii_lowercase + string.digits
    return [
        *(chance.randbytes(size).hex() for size in (10, 16, 32)),
        *(str(uuid.UUID(bytes=chance.randbytes(16), version=4)) for _ in range(10)),
        *(base64.b64encode(chance.randbytes(18)).decode().replace("/", "a") for _ in range(50)),
        *(base64.urlsafe_b64encode(chance.randbytes(30)).decode() for _ in range(50)),
        *("".join(chance.choices(letters, k=40)) for _ in range(50)),
        *("".join(chance.choices(small, k=32)) for _ in range(50)),
    ]


@pytest.mark.parametrize("line", ["MAGIC_PHRASE={}", "proxy_set_header X-Magic \"{}\";", "  magic: '{}'", "http-request set-header X-Magic {}", "{}"])
def test_a_random_value_is_masked_although_its_name_says_nothing(line: str) -> None:
    shown = [value for value in random_values() if value in masked_source(line.format(value))]
    assert len(shown) <= 4, shown  # a few random values look like words


@pytest.mark.parametrize("text", [
    "model: anthropic.claude-3-5-sonnet-20241022-v2:0", "- model_name: mistral-7b-instruct-v0.2-q4_K_M", "image: ghcr.io/open-webui/open-webui:v0.5.20",
    "reverse_proxy responses-proxy-backend-1.internal.example.org:8282", "proxy_pass http://backend-production-eu-west-1:8001/api/v1/chat/completions;",
    "traefik.http.routers.chat-gateway.middlewares=strip-prefix-of-chat@docker", "container_name: openai_responses_proxy_2024_11_28", "NUMBER=12345678901234567890123",
    "option httpchk GET /health_check_of_the_backend_2", "claude-3-7-sonnet-20250219,deepseek-r1-distill-qwen-32b", "LONGEST_CAMEL=proxyConnectTimeoutInMilliseconds30000",
])
def test_words_model_names_hosts_and_dates_are_shown(text: str) -> None:
    assert masked_source(text) == text


def test_a_named_secret_is_masked_however_it_looks() -> None:
    assert masked_source("OPENAI_API_KEY=plainwords") == "OPENAI_API_KEY=***"
    token = secrets.token_urlsafe(32)
    assert token not in masked_source(f"proxy_set_header Authorization 'Bearer {token}';")


@pytest.mark.parametrize("line", [
    "API_KEY='pass'\"word\"", "API_KEY=\"pass\"word", "API_KEY=pass\"word\"", "API_KEY='pass'\"word", "API_KEY=\"pass\\\"word\"", "api_key: 'pass''word'",
])
def test_a_value_in_several_quoted_parts_is_masked_whole(line: str) -> None:
    shown = masked_source(line)
    assert "pass" not in shown and "word" not in shown, shown


def test_what_follows_a_masked_value_is_shown() -> None:
    assert masked_source("{api_key: 'sentence', other: \"shown\"}") == "{api_key: '***', other: \"shown\"}"
    assert masked_source('api_key: "sentence" # and more') == 'api_key: "***" # and more'
