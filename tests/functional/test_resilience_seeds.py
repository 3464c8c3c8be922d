"""The examples of conf/examples/ as running gateways: what each promises of failing back-ends, limits and health."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from tests.aids.ports import free_port
from tests.functional.harness.client import Client
from tests.functional.harness.examples import example
from tests.functional.harness.faults import came, get, once, post, says, settled, silent, until, upstream_of
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.share import spent_ns
from tests.functional.harness.upstream import Peer, Upstream, saying_then_close
from tests.functional.test_resilience_fallbacks import completion

JSON = b"Content-Type: application/json"


def responses(text: str = "hi") -> bytes:
    return json.dumps({"model": "m", "input": text}).encode()


# ---- seed 1: the Responses proxy with its breaker


def test_the_breaker_opens_after_five_failures_and_health_says_so_in_the_seeds_words(
    upstream: Upstream, folder: Path
) -> None:
    change = example("responses-proxy", folder, upstream.url)
    with Relay(folder, upstream.url, change) as relay:
        upstream.script = says(b'{"error": {"message": "no"}}', JSON, status=b"400 Bad Request")
        assert {post(relay, b"/v1/responses", responses(), JSON).status for _ in range(10)} == {400}
        told = json.loads(get(relay, b"/health").body)
        assert told["status"] == "healthy"
        assert told["circuit_breaker"] == {"enabled": True, "is_open": False, "consecutive_failures": 0}
        upstream.script = says(b"ill", status=b"500 No")
        assert {post(relay, b"/v1/responses", responses(), JSON).status for _ in range(5)} <= {500, 502}
        found = get(relay, b"/health")
        told = json.loads(found.body)
        assert (found.status, told["status"]) == (503, "unhealthy")
        assert told["circuit_breaker"] == {"enabled": True, "is_open": True, "consecutive_failures": 5}
        refused = post(relay, b"/v1/responses", responses(), JSON)
        assert refused.status == 503
        assert 20 <= int(refused.get("retry-after") or b"0") <= 30
        assert came(upstream) == 15


# ---- seed 2: the transparent proxy with three retries


def test_a_failed_connection_is_tried_three_times_more_and_ends_in_502_or_504(upstream: Upstream, folder: Path) -> None:
    change = example("transparent-proxy", folder, upstream.url)
    change["upstreams"]["target"]["retries"]["backoff"] = "20ms"
    with Relay(folder, upstream.url, change) as relay:
        upstream.script = once(*[saying_then_close(b"")] * 3, says(b"at last", b"Connection: close"))
        assert get(relay, b"/v1/models").body == b"at last"
        assert len(upstream.heads) == 4
        upstream.fresh()
        upstream.script = saying_then_close(b"")
        assert get(relay, b"/v1/models").status == 502
        assert len(upstream.heads) == 4
        upstream.fresh()
        upstream.script = saying_then_close(b"")
        assert post(relay, b"/v1/chat/completions").status == 502
        assert came(upstream) == 1
        assert json.loads(get(relay, b"/api/health").body)["status"] == "healthy"
    change["upstreams"]["target"]["timeouts"]["first_byte"] = "300ms"
    with Relay(folder / "late", upstream.url, change) as relay:
        upstream.script = silent
        assert post(relay, b"/v1/chat/completions").status == 504


# ---- seed 3: three providers with a limit each


class Counting:
    """Holds every request until it is let go; counts those inside by the key they came with."""

    def __init__(self, upstream: Upstream) -> None:
        self.go = threading.Event()
        self.inside: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self._lock = threading.Lock()
        upstream.script = self

    def __call__(self, peer: Peer, message: Message) -> None:
        peer.whole(message)
        key = (message.get("authorization") or b"").decode().removeprefix("Bearer key-of-")
        with self._lock:
            self.inside[key] = self.inside.get(key, 0) + 1
            self.most[key] = max(self.most.get(key, 0), self.inside[key])
        self.go.wait(60)
        time.sleep(0.01)
        with self._lock:
            self.inside[key] -= 1
        peer.send(answer(completion("yes"), JSON))


def test_each_provider_has_its_own_concurrency_and_the_rest_waits(upstream: Upstream, folder: Path) -> None:
    """OpenRouter 6, Fireworks 4, OpenAI 8; thirty requests to each, all answered, none beyond the limit."""
    limits = {"openrouter": 6, "fireworks": 4, "openai": 8}
    models = {"openrouter": "anthropic/claude", "fireworks": "accounts/fireworks/models/x", "openai": "gpt-4o"}
    with Relay(folder, upstream.url, example("model-hunter", folder, upstream.url)) as relay, ExitStack() as stack:
        desk, clients = Counting(upstream), []
        for model in models.values():
            body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]}).encode()
            for _ in range(30):
                client = stack.enter_context(Client(relay.address))
                client.send(request(b"/v1/chat/completions", JSON, b"Authorization: Bearer key-of-app", method=b"POST", body=body))
                clients.append(client)

        def gates() -> dict[str, tuple[int, int]]:
            found = json.loads(relay.admin("/queue")[1])["gates"]
            return {one["name"].removeprefix("upstream "): (one["in_flight"], one["depth"]) for one in found}

        until(lambda: gates() == {name: (limit, 30 - limit) for name, limit in limits.items()})
        until(lambda: desk.inside == limits)
        assert json.loads(get(relay, b"/api/health").body)["status"] == "healthy"
        desk.go.set()
        assert {client.answer().status for client in clients} == {200}
        assert desk.most == limits
        settled(relay)


# ---- seed 4: the chat gateway whose health checks timed out


def test_health_answers_while_every_worker_is_busy(upstream: Upstream, folder: Path) -> None:
    """Ollama's two places taken and 40 more waiting: /health is as little work, in CPU, as for an idle relayd."""
    upstream.script = silent
    with Relay(folder, upstream.url, example("chat-gateway", folder, upstream.url)) as relay, ExitStack() as stack:
        def waits(relay: Relay) -> list[int]:
            found = []
            for _ in range(30):
                before = spent_ns(relay.pid)
                assert get(relay, b"/health").status == 200
                found.append(spent_ns(relay.pid) - before)
            return sorted(found)

        idle = waits(relay)
        body = json.dumps({"model": "phi-3-mini", "messages": [{"role": "user", "content": "hi"}]}).encode()
        for _ in range(42):
            client = stack.enter_context(Client(relay.address))
            client.send(request(b"/chat", JSON, b"Authorization: Bearer key-of-apps", method=b"POST", body=body))
        until(lambda: json.loads(relay.admin("/queue")[1])["gates"][0]["depth"] == 40)
        assert waits(relay)[25] < 10 * idle[25]
        assert relay.admin("/ready")[0] == 200


# ---- seed 0: the container that is being replaced


def test_a_container_that_is_being_replaced_is_tried_again(upstream: Upstream, folder: Path) -> None:
    """Its old address refuses; the request waits a little, also a POST, and is answered when the new one is there."""
    change = example("dokku", folder, upstream.url)
    port = free_port()
    change["upstreams"]["ai"]["endpoints"] = [f"http://127.0.0.1:{port}"]
    change["upstreams"]["ai"]["retries"] |= {"backoff": "1s", "max_backoff": "1s", "attempts": 20}
    with Relay(folder, upstream.url, change) as relay, Client(relay.address) as client:
        client.send(request(b"/api/chat", b"Authorization: Bearer key-of-app", method=b"POST", body=b"{}"))
        until(lambda: upstream_of(relay, "ai")["endpoints"][0]["failures"] >= 1)
        with Upstream(port=port) as new:
            new.script = says(b"new")
            assert client.answer().body == b"new"
            assert came(new) == 1
        assert relay.record(path="/api/chat")["attempts"] >= 2
