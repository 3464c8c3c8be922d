"""Inspection of bodies while they arrive."""

from __future__ import annotations

from typing import Any

import pytest

from relayd import clock
from relayd.errors import ExchangeError
from relayd.plan.plan import Plan, PlannedRoute
from relayd.proxy.body_inspection import BodyInspection, is_inspected
from relayd.proxy.exchange import Exchange
from relayd.wire.body import PARSED_BYTES, JsonBody
from tests.unit.proxy.fakes import Client, FakeGateway, head_for, plan_of

LARGE = b'{"model":"x","a":"' + b"a" * PARSED_BYTES + b'","b":[1,2]}'
PLAN = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams: {chat: {protocol: openai_chat, endpoints: ["http://a.example/v1"]}}
models: {"*": chat}
routes: [{name: all, protocol: openai_chat, upstream: by_model}]
"""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(PLAN)


class Scene:
    """One exchange, its inspection, and the results."""

    def __init__(self, plan: Plan, decides: bool = True) -> None:
        self.owner, self.client = FakeGateway(), Client()
        self.exchange = Exchange(self.owner, plan, self.client, head_for("Content-Length: 1", start="POST /x HTTP/1.1"), clock.monotonic())
        self.client.exchange = self.exchange
        self.route: PlannedRoute = plan.routes[0]
        self.inspection = BodyInspection(self.exchange, self.route if decides else None)
        self.found: list[JsonBody | None] = []
        self.exchange.body.probe = self.inspection

    def turn(self) -> None:
        """Run the deferred callbacks."""
        self.owner.timers.pop(0)[1]()

    def finish(self, body: bytes) -> None:
        self.exchange.body.data, self.exchange.body.json_body = body, None
        if self.inspection.finish(self.on_inspected):
            self.on_inspected()

    def on_inspected(self) -> None:
        """The inspection is complete."""
        self.found.append(self.exchange.body.json_body)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of the scanner takes a whole turn."""
    times = iter(range(1_000_000))
    monkeypatch.setattr(clock, "monotonic", lambda: float(next(times)))


def pieces(body: bytes) -> list[bytes]:
    return [body[at : at + 65536] for at in range(0, len(body), 65536)]


def test_a_body_of_usual_size_is_parsed_when_it_is_whole(plan: Plan) -> None:
    scene = Scene(plan)
    body = b'{"model":"x"}'
    assert not scene.inspection.feed(body[:5]) and not scene.inspection.feed(body[5:])
    scene.finish(body)
    assert scene.found[0] is not None and scene.found[0].model == "x" and scene.found[0].scanner is None
    scene.finish(b"")
    assert scene.found[1] is None


def test_a_large_body_is_scanned_as_it_comes(plan: Plan) -> None:
    scene = Scene(plan)
    for piece in pieces(LARGE):
        assert not scene.inspection.feed(piece)
    scene.finish(LARGE)
    while not scene.found:
        scene.turn()
    json_body: Any = scene.found[0]
    assert json_body.model == "x" and json_body.scanner.items == {"b": 2} and not json_body.refusal_reason


@pytest.mark.usefixtures("slow")
def test_the_client_waits_while_the_scanner_is_behind(plan: Plan) -> None:
    scene = Scene(plan)
    for piece in pieces(LARGE):
        scene.inspection.feed(piece)
    assert scene.client.ended == ["pause"] and len(scene.owner.timers) == 1
    scene.finish(LARGE)
    turns = 0
    while not scene.found:
        scene.turn()
        turns += 1
    assert turns > 10 and scene.client.ended == ["pause", "resume"] and not scene.owner.timers
    assert scene.found[0] is not None and scene.found[0].model == "x"


def test_what_is_wrong_ends_the_exchange_before_the_body_is_whole(plan: Plan) -> None:
    scene = Scene(plan)
    with pytest.raises(ExchangeError) as refused:
        for piece in pieces(b'{"model":' + LARGE):
            scene.inspection.feed(piece)
            while scene.owner.timers:
                scene.turn()
        scene.finish(LARGE)
    assert refused.value.kind.code == "ambiguous_body" and scene.exchange.route is scene.route


@pytest.mark.usefixtures("slow")
def test_what_is_wrong_in_a_later_turn_is_answered_in_the_dialect(plan: Plan) -> None:
    scene = Scene(plan)
    for piece in pieces(LARGE[:-1] + b",]"):
        scene.inspection.feed(piece)
    while scene.owner.timers:
        scene.turn()
    assert scene.exchange.is_over and scene.client.status == 400 and b'"ambiguous_body"' in scene.client.body


def test_where_no_model_decides_nothing_more_is_looked_at(plan: Plan) -> None:
    scene = Scene(plan, decides=False)
    for piece in [b"\xff" * PARSED_BYTES, b"a", *pieces(LARGE)]:
        assert not scene.inspection.feed(piece)
    scene.finish(b"\xff")
    while not scene.found:
        scene.turn()
    assert scene.found[0] is not None and scene.found[0].fault and not scene.found[0].model
    assert not scene.inspection._scanner.pending  # type: ignore[union-attr]


@pytest.mark.usefixtures("slow")
def test_who_has_left_is_not_worked_for(plan: Plan) -> None:
    scene = Scene(plan)
    for piece in pieces(LARGE):
        scene.inspection.feed(piece)
    scene.exchange.client_gone()
    scene.turn()
    assert not scene.owner.timers and not scene.found


@pytest.mark.usefixtures("slow")
def test_a_body_that_came_whole_is_looked_at_in_turns(plan: Plan) -> None:
    scene = Scene(plan)
    scene.exchange.body.probe, scene.exchange.body.data = None, LARGE
    assert not is_inspected(scene.exchange, scene.route, scene.on_inspected)
    while not scene.found:
        scene.turn()
    assert scene.found[0] is not None and scene.found[0].model == "x"
