"""SDKs for Python and Node and relayd's rates: they wait as long as Retry-After says, read the fields of their API, and do
not repeat what can never fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from tests.clients.programs import FOLDER, NODE, needs, package, run
from tests.clients.test_node_sdks import SCRIPT
from tests.clients.test_python_sdks import module
from tests.functional.harness.dialects.gateway import Gateway, gateway
from tests.functional.harness.faults import until

pytestmark = [
    pytest.mark.client, pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]  # fmt: skip
PROTOCOLS = ("openai_chat", "openai_responses", "anthropic_messages")
RATES: dict[str, list[dict[str, Any]]] = {
    "short": [{"requests": 1, "per": "4s"}],
    "told": [{"requests": 100, "per": "1m"}, {"tokens": 50_000, "per": "1h"}],
    "small": [{"tokens": 100, "per": "1h"}],
}
MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    routes = [
        {
            "name": f"{name}-{protocol}", "match": {"prefix": f"/{name}/{protocol}/"}, "strip_prefix": f"/{name}/{protocol}",
            "protocol": protocol, "upstream": "by_model", "rates": rates,
        }
        for name, rates in RATES.items() for protocol in PROTOCOLS
    ]  # fmt: skip
    with gateway(tmp_path_factory.mktemp("rates"), strict=False, routes=routes) as running:
        yield running


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Heard(NamedTuple):
    """What the application has got from its SDK after all repetitions."""

    status: int
    headers: Mapping[str, str]


def python(base: str, protocol: str, most: int, folder: Path) -> Heard:
    common = {"api_key": "k", "max_retries": 4, "timeout": 20}
    with ExitStack() as stack:
        if protocol == "anthropic_messages":
            kind = module("anthropic")
            api: Any = stack.enter_context(kind.Anthropic(base_url=base, **common)).messages
            options: dict[str, Any] = {"messages": MESSAGES, "max_tokens": most}
        else:
            kind = module("openai")
            client = stack.enter_context(kind.OpenAI(base_url=base + "/v1", **common))
            api = client.chat.completions if protocol == "openai_chat" else client.responses
            options = {"messages": MESSAGES, "max_tokens": most} if protocol == "openai_chat" else {"input": "Hi", "max_output_tokens": most}
        try:
            response = api.with_raw_response.create(model=protocol, **options)
        except kind.RateLimitError as refused:
            return Heard(refused.status_code, refused.response.headers)
        return Heard(response.status_code, response.headers)


def node(base: str, protocol: str, most: int, folder: Path) -> Heard:
    command = [NODE, str(SCRIPT), base, protocol, f"repeated-{protocol}", str(most)]
    told = json.loads(run(command, folder, CLIENTS=str(FOLDER)).stdout.splitlines()[-1])
    assert told["status"] == 200 or told["failure"] == "RateLimitError", told
    return Heard(told["status"], told["headers"])


@pytest.fixture(params=[
    python,
    pytest.param(node, marks=[needs("openai for Node", package("openai")), needs("@anthropic-ai/sdk for Node", package("@anthropic-ai/sdk"))]),
])
def caller(request: pytest.FixtureRequest, limited: Gateway, protocol: str, tmp_path: Path) -> Callable[..., Heard]:
    """Sends one request through a route."""

    def call(route: str, most: int = 9) -> Heard:
        base = f"http://127.0.0.1:{limited.relay.port}/{route}/{protocol}"
        return cast(Heard, request.param(base, protocol, most, tmp_path))

    return call


def records(limited: Gateway, route: str, protocol: str) -> list[dict[str, Any]]:
    return [one for one in limited.relay.records() if one["route"] == f"{route}-{protocol}"]


def answered(limited: Gateway, route: str, protocol: str, count: int) -> list[dict[str, Any]]:
    """The records when this many requests have succeeded; none before."""
    found = records(limited, route, protocol)
    return found if sum(one["status"] == 200 for one in found) == count else []


def test_an_sdk_waits_as_long_as_it_is_told_and_succeeds(limited: Gateway, protocol: str, caller: Callable[..., Heard]) -> None:
    before = sum(one["status"] == 200 for one in records(limited, "short", protocol))
    known = len(records(limited, "short", protocol))
    refused: list[int] = []
    for calls in range(1, 6):  # on a slow machine, two calls may be further apart than the span
        assert caller("short").status == 200
        found = until(partial(answered, limited, "short", protocol, before + calls))[known:]
        refused = [number for number, one in enumerate(found) if one["status"] == 429]
        if refused:
            break
    assert len(refused) == 1 and found[refused[0] + 1]["status"] == 200, "one refusal, one wait, one success"
    times = [datetime.fromisoformat(found[refused[0] + step]["time"]) for step in (0, 1)]
    assert (times[1] - times[0]).total_seconds() > 1, "no earlier back-off of its own"


def test_the_fields_of_the_sdks_api_are_read(protocol: str, caller: Callable[..., Heard]) -> None:
    headers = caller("told").headers
    if protocol == "anthropic_messages":
        assert int(headers["anthropic-ratelimit-requests-limit"]) == 100
        assert int(headers["anthropic-ratelimit-requests-remaining"]) in range(100)
        assert datetime.fromisoformat(headers["anthropic-ratelimit-tokens-reset"]).tzinfo is not None
    else:
        assert int(headers["x-ratelimit-limit-requests"]) == 100
        assert int(headers["x-ratelimit-remaining-tokens"]) in range(49_000, 50_000)
        assert headers["x-ratelimit-reset-requests"].endswith("s")


def test_what_can_never_fit_is_not_repeated(limited: Gateway, protocol: str, caller: Callable[..., Heard]) -> None:
    known = len(records(limited, "small", protocol))
    heard = caller("small", most=5000)
    assert heard.status == 429 and heard.headers["x-should-retry"] == "false" and "retry-after" not in heard.headers
    assert [one["status"] for one in until(lambda: records(limited, "small", protocol)[known:])] == [429]
