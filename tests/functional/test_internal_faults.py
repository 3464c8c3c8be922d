"""What relayd did not expect, wherever it is raised: 500 `internal` or a broken end, a traceback, nothing kept."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.harness.faults import until
from tests.functional.harness.message import Message, answer, chunk, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream

RAISES = '''

def _planted(place, function):
    def faulty(exchange, *more, **named):
        head = getattr(exchange, "head", None)
        if head is not None and head.get(b"x-fault") == place:
            raise AttributeError("planted in " + place.decode())
        return function(exchange, *more, **named)

    faulty.__name__ = function.__name__
    return faulty

'''
PLANTED = {
    "proxy/pipeline.py": RAISES + "PHASES = tuple(_planted(one.__name__.encode(), one) for one in PHASES)\n",
    "proxy/forward.py": RAISES + (
        "for _name in ('enter_target', 'acquire_permits', 'continue_after_permit', 'start_attempt', 'send', 'handle_failed_attempt', 'deliver_last_error', 'message_for'):\n"
        "    globals()[_name] = _planted(_name.encode(), globals()[_name])\n"
    ),
    "proxy/exchange.py": RAISES + (
        "for _name in ('attempt_begins_response', 'attempt_completed', 'annotate_head'):\n"
        "    setattr(Exchange, _name, _planted(_name.encode(), getattr(Exchange, _name)))\n"
        "error_answer = _planted_answer = (lambda inner: lambda fault, route, head, *more: (_ for _ in ()).throw(\n"
        "    AttributeError('planted in error_answer')) if head.get(b'x-fault') == b'error_answer' else\n"
        "    inner(fault, route, head, *more))(error_answer)\n"
    ),
    "proxy/sweep.py": RAISES + "enforce_timeouts = _planted(b'enforce_timeouts', enforce_timeouts)\n",
    "proxy/body_inspection.py": (
        "\n\ndef _scan(self, inner=BodyInspection._scan):\n"
        "    if self._exchange.head.get(b'x-fault') == b'inspection' and self._on_inspected is not None:\n"
        "        raise AttributeError('planted in inspection')\n"
        "    inner(self)\n\n\nBodyInspection._scan = _scan\n"
    ),
    "proxy/ai_request.py": (
        "\n\ndef _long():\n"
        "    for _ in range(400_000):  # more steps than one turn has time for\n        yield\n"
        "    raise AttributeError('planted in steps')\n\n\n"
        "def _steps(self, target, inner=AiRequest.preparation_steps):\n"
        "    return _long() if self.model == 'steps' else inner(self, target)\n\n\n"
        "AiRequest.preparation_steps = _steps\n"
    ),
    "proxy/filters/tap_usage.py": (
        "\n\ndef _tap(self, data, inner=TapUsage.process):\n"
        "    if b'planted' in data:\n        raise AttributeError('planted in a filter')\n"
        "    return inner(self, data)\n\n\nTapUsage.process = _tap\n"
    ),
    "upstream/balancers/faulty.py": '''"""Raises."""

from __future__ import annotations

from relayd.schema import section


@section()
class Options:
    """None."""


class Balancer:
    affinity = None
    numbers_endpoints = False

    def __init__(self, options, chance):
        pass

    def join(self, endpoints):
        pass

    def pick(self, candidates, key):
        return candidates[0].nothing
''',
    "proxy/upgrade.py": (
        "\n\ndef _answer(self, response, rest):\n    raise AttributeError('planted in upgrade')\n\n\n"
        "Upgrade._answer = _answer\n"
    ),
    "stores/faulty.py": '''"""Raises."""

from __future__ import annotations

from relayd.schema import section
from relayd.stores import memory


@section()
class Options:
    """None."""


class Store(memory.Store):
    @classmethod
    def open(cls, options, bounds):
        return cls(bounds.entries, bounds.size_bytes, bounds.ttl_s)

    def space(self, name):
        raise AttributeError("planted in the store")
''',
    "access/authenticators/faulty.py": '''"""Raises."""

from __future__ import annotations

from relayd.access.credential import Credential
from relayd.schema import Secret, section, setting


def read(value):
    raise AttributeError("planted in the authenticator")


@section()
class Options:
    """None."""

    faulty: Secret = setting(doc="A key.")


class Authenticator:
    def __init__(self, options):
        self._secret = options.faulty

    def credentials(self, key_headers=()):
        yield Credential(b"x-faulty", read, self._secret)

    def lines(self):
        return []
''',
}
PHASES = (
    "accept", "match", "cors", "authorise", "admit", "answer_locally", "read_body", "select", "begin", "enter_target",
    "acquire_permits", "start_attempt", "send", "message_for", "attempt_begins_response", "annotate_head",
)


STREAMED = b'{"model":"gpt","stream":true,"messages":[{"role":"user","content":"hi"}]}'
HELD, RELEASED = threading.Event(), threading.Event()


def says(peer: Peer, message: Message) -> None:
    """The back-end: what the path asks for."""
    body = peer.whole(message).body
    if b"held" in message.target:
        HELD.set()
        RELEASED.wait(60)
        RELEASED.clear()
        peer.send(answer())
    elif b"refuse" in message.target:
        peer.send(answer(b"no", status=b"503 Service Unavailable"))
    elif b'"stream":true' in body:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        peer.send(head + chunk(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'))
        peer.send(chunk(b'data: {"choices":[{"index":0,"delta":{"content":"planted"}}]}\n\n'))
    elif body:
        peer.send(answer(b'{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}',
                         b"Content-Type: application/json"))
    else:
        peer.send(answer())


@pytest.fixture(scope="module")
def back() -> Iterator[Upstream]:
    with Upstream() as upstream:
        upstream.script = says
        yield upstream


@pytest.fixture(scope="module")
def copies() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def relay(back: Upstream, copies: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    top = tmp_path_factory.mktemp("planted")
    shutil.copytree(ROOT / "relayd", top / "relayd", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in PLANTED.items():
        file = top / "relayd" / name
        file.write_text(file.read_text() + text if file.exists() else text)
    chat = {"protocol": "openai_chat", "endpoints": [back.url]}
    change: dict[str, Any] = {
        "upstreams": {
            "up": {"limits": {"requests": 1, "queue": 10}, "retries": {"attempts": 2}, "endpoints": [back.url]},
            "two": {"endpoints": [back.url, back.url + "/other"], "balance": "faulty"},
            "copies": {"endpoints": [copies.url, copies.url + "/other"], "balance": "faulty"},
            "chat": chat, "claude": {**chat, "protocol": "anthropic_messages"},
        },
        "models": {"gpt": "chat", "steps": "chat", "claude": "claude"},
        "consumers": {"guest": {"faulty": {"env": "FAULTY"}}},
        "store": {"kind": "faulty"},
        "routes": [
            {"name": "two", "match": {"prefix": "/two/"}, "upstream": "two"},
            {"name": "copied", "match": {"prefix": "/copied/"}, "upstream": "up", "mirror": {"upstream": "copies"}},
            {"name": "responses", "match": {"prefix": "/v1/responses"}, "upstream": "by_model",
             "protocol": "openai_responses"},
            {"name": "models", "match": {"prefix": "/v1/"}, "upstream": "by_model", "protocol": "openai_chat"},
            {"name": "upgraded", "match": {"prefix": "/upgraded/"}, "upstream": "up", "upgrade": True},
            {"name": "all", "match": {"prefix": "/"}, "upstream": "up", "tells_attempts": True},  # annotates heads
        ],
    }
    environment = {"PYTHONPATH": str(top), "FAULTY": "gold"}
    with Relay(top / "run", back.url, change, environment=environment) as relay:
        relay.expect_traceback = True
        yield relay


def ask(relay: Relay, target: bytes, *lines: bytes, body: bytes | None = None) -> Message:
    with relay.client() as client:
        return client.ask(request(target, *lines, method=b"GET" if body is None else b"POST", body=body))


def nothing_is_left(relay: Relay) -> None:
    """Nothing in flight, no permit taken; a bystander is served."""
    relay.wait_quiet()
    with relay.client() as client:
        assert client.ask(request(b"/")).status == 200


def is_internal(relay: Relay, target: bytes, fault: bytes, where: str, body: bytes | None = None, *lines: bytes) -> None:
    known = relay.error_file.read_text().count("AttributeError")
    told = ask(relay, target, *lines, *([b"X-Fault: " + fault] if fault else []), body=body)
    assert told.status == 500 and b"internal" in told.body, (told.status, told.body)
    until(lambda: relay.error_file.read_text().count("AttributeError") > known)
    assert where in relay.error_file.read_text()
    until(lambda: [one["code"] for one in relay.records()[-1:]] == ["internal"])
    nothing_is_left(relay)


@pytest.mark.parametrize("phase", PHASES)
def test_a_fault_in_any_phase_is_500_internal_with_a_traceback(relay: Relay, phase: str) -> None:
    is_internal(relay, b"/x", phase.encode(), f"planted in {phase}")


def test_a_fault_after_a_failed_attempt(relay: Relay) -> None:
    is_internal(relay, b"/refuse", b"handle_failed_attempt", "planted in handle_failed_attempt")


def test_a_fault_of_a_balancer(relay: Relay) -> None:
    is_internal(relay, b"/two/x", b"", "nothing")


def test_a_fault_of_an_authenticator(relay: Relay) -> None:
    is_internal(relay, b"/x", b"", "planted in the authenticator", None, b"X-Faulty: key")


def test_a_fault_of_an_upgrade(relay: Relay) -> None:
    lines = b"Connection: Upgrade", b"Upgrade: chat"
    is_internal(relay, b"/upgraded/x", b"", "planted in upgrade", None, *lines)


def test_a_fault_of_a_store(relay: Relay) -> None:
    is_internal(relay, b"/v1/responses", b"", "planted in the store", b'{"model":"claude","input":"hi"}')


def test_a_fault_of_a_filter(relay: Relay) -> None:
    told = ask(relay, b"/v1/chat/completions", body=STREAMED)
    assert told.status == 500 or not told.complete or b"internal" in told.body
    until(lambda: [one["code"] for one in relay.records()[-1:]] == ["internal"])
    nothing_is_left(relay)


@pytest.mark.parametrize(("fault", "model"), [("inspection", "gpt"), ("steps", "steps")])
def test_a_fault_in_work_of_a_later_turn(relay: Relay, fault: str, model: str) -> None:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "x" * 3_000_000}]}).encode()
    is_internal(relay, b"/v1/chat/completions", fault.encode(), f"planted in {fault}", body)


def test_a_fault_of_a_mirror_is_not_the_clients(relay: Relay) -> None:
    known = relay.error_file.read_text().count("nothing")
    assert ask(relay, b"/copied/x").status == 200
    until(lambda: relay.error_file.read_text().count("nothing") > known)
    nothing_is_left(relay)


def test_a_fault_in_the_making_of_an_error_breaks_the_connection_only(relay: Relay) -> None:
    with relay.client() as client:
        client.send(request(b"/two/x", b"X-Fault: error_answer"))
        assert client.answer_or_none() is None
    until(lambda: [one["code"] for one in relay.records()[-1:]] == ["internal"])
    nothing_is_left(relay)


def test_a_fault_of_one_that_waited_is_not_of_the_one_before(relay: Relay) -> None:
    """A permit is granted in the turn in which another exchange ends."""
    HELD.clear()
    with relay.client() as first, relay.client() as second:
        first.send(request(b"/held"))
        assert HELD.wait(60)
        second.send(request(b"/x", b"X-Fault: continue_after_permit"))
        until(lambda: any(gate["depth"] for gate in json.loads(relay.admin("/queue")[1])["gates"]))
        RELEASED.set()
        assert first.answer().status == 200
        assert second.answer().status == 500
    assert relay.record(path="/held")["code"] == ""
    nothing_is_left(relay)


def test_a_fault_in_the_sweep_ends_its_exchange_only(relay: Relay) -> None:
    HELD.clear()
    with relay.client() as client:
        client.send(request(b"/held", b"X-Fault: enforce_timeouts"))
        assert HELD.wait(60)
        assert client.answer().status == 500
        RELEASED.set()
    nothing_is_left(relay)
