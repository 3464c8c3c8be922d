"""Who gets which request, through the process: every kind of balance, affinity, weights, priorities, canary, mirror."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.faults import (
    black_hole,
    endpoints,
    get,
    label,
    post,
    refused_url,
    reload,
    says,
    settled,
    silent,
    until,
    upstream_of,
)
from tests.functional.harness.message import Message, answer, chunk, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Script, Upstream, saying_then_close

NAMES = [b"a", b"b", b"c", b"d"]
CHAT = b"/v1/chat/completions"


@pytest.fixture(scope="module")
def four_running() -> Iterator[list[Upstream]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Upstream()) for _ in NAMES]


@pytest.fixture
def four(four_running: list[Upstream]) -> Iterator[list[Upstream]]:
    """Four endpoints that say which they are."""
    for upstream, name in zip(four_running, NAMES, strict=True):
        upstream.fresh()
        upstream.script = says(name)
    yield four_running
    for upstream in four_running:
        assert not upstream.faults, upstream.faults


def have_heads(upstreams: list[Upstream], count: int) -> bool:
    return sum(len(one.heads) for one in upstreams) == count


def was_asked_for(upstream: Upstream, target: bytes) -> bool:
    return any(head.target == target for head in upstream.heads)


def of(urls: list[Any], **words: Any) -> dict[str, Any]:
    return {"upstreams": {"up": {"endpoints": urls, **words}}}


def spread(relay: Relay, times: int, path: bytes = b"/x", *lines: bytes) -> Counter[bytes]:
    with relay.client() as client:
        return Counter(client.ask(request(path, *lines)).body for _ in range(times))


# ---- kinds


def test_round_robin_goes_round_in_turn_by_weight(four: list[Upstream], folder: Path) -> None:
    urls = [{"url": one.url, "weight": weight} for one, weight in zip(four, (1, 1, 2, 4), strict=True)]
    with Relay(folder, four[0].url, of(urls, balance="round_robin")) as relay:
        assert spread(relay, 80) == {b"a": 10, b"b": 10, b"c": 20, b"d": 40}
        with relay.client() as client:
            turn = [client.ask(request(b"/x")).body for _ in range(8)]
        assert all(turn[place : place + 3] != [b"d"] * 3 for place in range(6))  # spread, not in a row


def test_random_spreads_by_chance_and_by_weight(four: list[Upstream], folder: Path) -> None:
    urls = [{"url": one.url, "weight": weight} for one, weight in zip(four, (1, 1, 1, 3), strict=True)]
    with Relay(folder, four[0].url, of(urls, balance="random")) as relay:
        seen = spread(relay, 600)
        assert all(60 <= seen[name] <= 145 for name in (b"a", b"b", b"c"))
        assert 230 <= seen[b"d"] <= 370


def test_least_request_passes_over_whoever_is_busy(four: list[Upstream], folder: Path) -> None:
    go = threading.Event()

    def holds(peer: Peer, message: Message) -> None:
        peer.whole(message)
        if message.target == b"/hold":
            go.wait(60)
        peer.send(answer(b"held"))

    with Relay(folder, four[0].url, of([one.url for one in four], balance="least_request")) as relay, ExitStack() as stack:
        for upstream in four[:3]:
            upstream.script = holds
        four[3].script = holds
        holders = [stack.enter_context(Client(relay.address)) for _ in range(4)]
        for number, client in enumerate(holders):
            client.send(request(b"/hold"))
            until(partial(have_heads, four, number + 1))
        assert {len(one.heads) for one in four} == {1}
        more = stack.enter_context(Client(relay.address))
        more.send(request(b"/hold"))
        until(partial(have_heads, four, 5))
        busiest = next(one for one in four if len(one.heads) == 2)
        for _ in range(30):
            get(relay, b"/x")
        assert len(busiest.heads) == 2
        go.set()
        for client in (*holders, more):
            assert client.answer().status == 200
        settled(relay)


def test_priority_asks_the_next_only_when_nobody_before_it_has_room(four: list[Upstream], folder: Path) -> None:
    urls = [{"url": one.url, "limits": 1} for one in four[:2]] + [{"url": four[2].url}]
    go = threading.Event()

    def holds(peer: Peer, message: Message) -> None:
        peer.whole(message)
        go.wait(60)
        peer.send(answer(b"held"))

    with Relay(folder, four[0].url, of(urls, balance="priority")) as relay, ExitStack() as stack:
        assert spread(relay, 10) == {b"a": 10}
        for place in (0, 1):
            four[place].script = holds
            client = stack.enter_context(Client(relay.address))
            client.send(request(b"/hold"))
            until(partial(was_asked_for, four[place], b"/hold"))
        assert spread(relay, 10) == {b"c": 10}
        go.set()
        four[0].script = says(b"a")
        until(lambda: get(relay, b"/x").body == b"a")


# ---- what belongs together

BELONGS: dict[str, tuple[str, bytes, list[bytes]]] = {
    "header": ("header:X-Team", b"/x", [b"X-Team: %d"]), "cookie": ("cookie:sid", b"/x", [b"Cookie: other=1; sid=%d"]),
    "session": ("session", CHAT, [b"X-Session-Id: s-%d"]),
}


@pytest.mark.parametrize("word", BELONGS)
def test_what_belongs_together_goes_to_one_endpoint_also_after_a_reload(
    word: str, four: list[Upstream], folder: Path
) -> None:
    by, path, lines = BELONGS[word]
    with Relay(folder, four[0].url, of([one.url for one in four], balance="consistent_hash", hash={"by": [by]})) as relay:

        def homes() -> list[set[bytes]]:
            return [
                {get(relay, path, *[line % number for line in lines]).body for _ in range(3)} for number in range(24)
            ]

        before = homes()
        assert all(len(home) == 1 for home in before)
        assert len(set().union(*before)) == 4
        reload(relay, {"upstreams": {"up": {"timeouts": {"idle": "77s"}}}})
        assert homes() == before
        # When one endpoint goes only its own keys move; when it is back, they come home.
        gone = label(four[0].url)
        assert run_endpoint(relay, "disable", gone) == 0
        moved = homes()
        assert all(now == then for now, then in zip(moved, before, strict=True) if then != {b"a"})
        assert {b"a"} not in moved
        assert run_endpoint(relay, "enable", gone) == 0
        assert homes() == before


def run_endpoint(relay: Relay, verb: str, address: str) -> int:
    return relay.admin(f"/upstreams/up/endpoints/{address.replace(':', '%3A')}/{verb}", "POST")[0] != 200


def prompt(number: int, turns: int) -> bytes:
    words = f"You are assistant number {number}. " * 200
    messages = [{"role": "system", "content": words}]
    messages += [{"role": "user", "content": f"turn {turn}"} for turn in range(turns)]
    return json.dumps({"model": "m", "messages": messages}).encode()


@pytest.mark.parametrize("protocol", ["plain", "openai_chat"])
def test_a_conversation_that_grows_stays_where_its_prompt_is_cached(
    protocol: str, four: list[Upstream], folder: Path
) -> None:
    for upstream, name in zip(four, NAMES, strict=True):
        upstream.script = says(b'{"at": "%s"}' % name, b"Content-Type: application/json")
    words = {"balance": "consistent_hash", "hash": {"by": ["prompt"], "prompt_bytes": 2048}, "protocol": protocol}
    with Relay(folder, four[0].url, of([one.url for one in four], **words)) as relay:
        homes = list[bytes]()
        for number in range(16):
            bodies = {post(relay, CHAT, prompt(number, turns), b"Content-Type: application/json").body for turns in (1, 3, 9)}
            assert len(bodies) == 1
            homes += bodies
        assert len(set(homes)) >= 3


def test_a_favourite_that_is_full_of_its_own_passes_requests_on(four: list[Upstream], folder: Path) -> None:
    """Bounded load: one key cannot drown its endpoint while the others idle."""
    go = threading.Event()

    def holds(peer: Peer, message: Message) -> None:
        peer.whole(message)
        go.wait(60)
        peer.send(answer(b"held"))

    for upstream in four:
        upstream.script = holds
    words = {"balance": "consistent_hash", "hash": {"by": ["header:X-Team"]}}
    with Relay(folder, four[0].url, of([one.url for one in four], **words)) as relay, ExitStack() as stack:
        clients = [stack.enter_context(Client(relay.address)) for _ in range(40)]
        for client in clients:
            client.send(request(b"/x", b"X-Team: one"))
        until(lambda: sum(len(one.heads) for one in four) == 40)
        assert max(len(one.heads) for one in four) <= 16
        go.set()
        for client in clients:
            assert client.answer().status == 200


def test_an_endpoint_that_comes_back_starts_slowly(four: list[Upstream], folder: Path) -> None:
    words = {"balance": "round_robin", "slow_start": "3s"}
    with Relay(folder, four[0].url, of([one.url for one in four[:2]], **words)) as relay:
        back = label(four[0].url)
        assert run_endpoint(relay, "disable", back) == 0
        assert spread(relay, 10) == {b"b": 10}
        assert run_endpoint(relay, "enable", back) == 0
        first = spread(relay, 40)
        assert 1 <= first[b"a"] <= 14
        assert endpoints(relay)[back]["effective_weight"] < 1
        until(lambda: endpoints(relay)[back]["effective_weight"] == 1)
        assert spread(relay, 40) == {b"a": 20, b"b": 20}


# ---- canary


def test_a_canary_takes_its_part(four: list[Upstream], folder: Path) -> None:
    change = {
        "upstreams": {"up": {"endpoints": [four[0].url]}, "new": {"endpoints": [four[1].url]}},
        "routes": [{"name": "all", "upstream": "up", "canary": {"upstream": "new", "weight": 20}}],
    }
    with Relay(folder, four[0].url, change) as relay:
        seen = spread(relay, 500)
        assert 60 <= seen[b"b"] <= 145
        assert relay.record(upstream="new")["endpoint"] == label(four[1].url)
        for weight, name in ((0, b"a"), (100, b"b")):
            reload(relay, {"routes": [{"name": "all", "upstream": "up", "canary": {"upstream": "new", "weight": weight}}]})
            assert spread(relay, 30) == {name: 30}


def test_what_belongs_together_meets_the_canary_or_never(four: list[Upstream], folder: Path) -> None:
    urls = [one.url for one in four[:2]]
    change = {
        "upstreams": {
            "up": {"endpoints": urls, "balance": "consistent_hash", "hash": {"by": ["session"]}},
            "new": {"endpoints": [four[2].url]},
        },
        "routes": [{"name": "all", "upstream": "up", "canary": {"upstream": "new", "weight": 30}}],
    }
    with Relay(folder, four[0].url, change) as relay:
        homes = [{get(relay, b"/x", b"X-Session-Id: s-%d" % number).body for _ in range(4)} for number in range(60)]
        assert all(len(home) == 1 for home in homes)
        assert 8 <= homes.count({b"c"}) <= 30


# ---- mirror


def mirrored(four: list[Upstream], copy_to: str, share: float = 1.0, **words: Any) -> dict[str, Any]:
    return {
        "upstreams": {"up": {"endpoints": [four[0].url]}, "copies": {"endpoints": [copy_to], **words}},
        "routes": [{"name": "all", "upstream": "up", "mirror": {"upstream": "copies", "share": share}}],
    }


def test_a_copy_arrives_as_it_was_sent_and_its_answer_is_nobodys(four: list[Upstream], folder: Path) -> None:
    four[1].script = says(b"never seen", b"X-Copy: yes", status=b"500 No")
    with Relay(folder, four[0].url, mirrored(four, four[1].url)) as relay:
        found = post(relay, b"/x?a=1", b"the body", b"X-Own: mine")
        assert (found.status, found.body, found.get("x-copy")) == (200, b"a", None)
        copy = four[1].request()
        assert (copy.method, copy.target, copy.body, copy.get("x-own")) == (b"POST", b"/x?a=1", b"the body", b"mine")
        assert get(relay, b"/plain").body == b"a"
        assert four[1].request().target == b"/plain"
        assert len(relay.records()) <= 2
        settled(relay)


def test_a_share_of_the_requests_is_copied(four: list[Upstream], folder: Path) -> None:
    with Relay(folder, four[0].url, mirrored(four, four[1].url, 0.25)) as relay:
        assert spread(relay, 400) == {b"a": 400}
        settled(relay)
        assert 60 <= len(four[1].heads) <= 145


def stalls(peer: Peer, message: Message) -> None:
    peer.whole(message)
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal")
    peer.wait_gone()


def endless(peer: Peer, message: Message) -> None:
    peer.whole(message)
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        peer.send(chunk(bytes(65536)))
        time.sleep(0.01)


SHADOWS: dict[str, Script | None] = {
    "refuses": None, "swallows": None, "silent": silent,
    "stalls": stalls, "malformed": saying_then_close(b"no http at all\r\n\r\n"), "endless": endless,
}


@pytest.mark.parametrize("fault", SHADOWS)
def test_the_client_never_waits_for_a_shadow_and_nothing_of_it_is_left_behind(
    fault: str, four: list[Upstream], folder: Path
) -> None:
    """Whatever the mirror does: the client's answers are as fast as without it, and places and permits come back."""
    with ExitStack() as stack:
        url = four[1].url
        if fault == "refuses":
            url = refused_url()
        elif fault == "swallows":
            url = stack.enter_context(black_hole())
        elif script := SHADOWS[fault]:
            four[1].script = script
        limits = {"connect": "1s", "first_byte": "1s", "idle": "1s", "total": "2s"}
        change = mirrored(four, url, timeouts=limits, limits={"requests": 20}, breaker=False)
        relay = stack.enter_context(Relay(folder, four[0].url, change))
        waits = []
        for number in range(60):
            begun = time.monotonic()
            assert post(relay, b"/x%d" % number, b"b").body == b"a"
            waits.append(time.monotonic() - begun)
        assert sorted(waits)[30] < 1.0, "as long as the mirror's own limits"
        assert upstream_of(relay, "copies")["in_flight"] <= 20
        until(lambda: upstream_of(relay, "copies")["in_flight"] == 0)
        settled(relay)
        assert all(record["upstream"] == "up" and record["status"] == 200 for record in relay.records())


def test_a_client_that_leaves_and_a_reload_leave_no_shadow_behind(four: list[Upstream], folder: Path) -> None:
    four[0].script = silent
    four[1].script = silent
    with Relay(folder, four[0].url, mirrored(four, four[1].url, timeouts={"first_byte": "1500ms"})) as relay:
        with Client(relay.address) as leaver:
            leaver.send(request(b"/x"))
            until(lambda: four[0].heads and four[1].heads)
        reload(relay, {"routes": [{"name": "all", "upstream": "up"}], "upstreams": {"copies": None}})
        until(lambda: four[1].left.qsize() == 1)
        settled(relay)
