"""Endpoints that die, refuse, swallow, stall and cut: what each client sees, and that no POST arrives twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.faults import (
    Process,
    asked,
    black_hole,
    came,
    endpoints,
    get,
    label,
    metric,
    once,
    post,
    refused_url,
    says,
    settled,
    silent,
    until,
    upstream_of,
)
from tests.functional.harness.message import Message, answer, chunk, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream, saying_then_close

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FAST = {"attempts": 3, "backoff": "5ms"}


@pytest.fixture
def second() -> Iterator[Upstream]:
    with Upstream() as other:
        yield other
        assert not other.faults


def of(urls: list[Any], **words: Any) -> dict[str, Any]:
    """A configuration with one upstream; `tells_attempts` on its route."""
    route = {"name": "all", "match": {"prefix": "/"}, "upstream": "up", "tells_attempts": True}
    return {"upstreams": {"up": {"endpoints": urls, **words}}, "routes": [route]}


# ---- killed


def test_when_an_endpoint_dies_every_open_stream_ends_broken_and_new_ones_go_to_the_neighbour(
    upstream: Upstream, folder: Path
) -> None:
    """A hundred streams, asked for by POST; the neighbour sees none of them, and every request that comes after."""
    upstream.script = says(b"neighbour")
    with Process() as dying:
        urls = [{"url": dying.url, "priority": 0}, {"url": upstream.url, "priority": 1}]
        with Relay(folder, upstream.url, of(urls, retries=FAST)) as relay, ExitStack() as stack:
            clients = []
            for _ in range(100):
                client = stack.enter_context(Client(relay.address))
                client.send(request(b"/stream?n=100000&gap_ms=20", method=b"POST", body=b"{}"))
                clients.append(client)
            heads = [client.head_of_answer() for client in clients]
            assert {head.status for head in heads} == {200}
            until(lambda: len(relay.status()["exchanges"]) == 100)
            dying.kill()
            for client, head in zip(clients, heads, strict=True):
                client.body(head, until_close=False)
                assert head.body.startswith(b'data: {"t":') or not head.body
                assert not head.complete
            assert upstream.nothing_came()
            answers = [post(relay, b"/after") for _ in range(20)]
            assert {one.body for one in answers} == {b"neighbour"}
            assert came(upstream) == 20
            until(lambda: sum(record["code"] == "upstream_cut" for record in relay.records()) == 100)
            cut = [record for record in relay.records() if record["code"] == "upstream_cut"]
            assert {(one["outcome"], one["attempts"]) for one in cut} == {("upstream.transfer", 1)}
            settled(relay)


# ---- not reached


def test_a_refused_connection_is_tried_at_the_neighbour_also_for_a_post(upstream: Upstream, folder: Path) -> None:
    upstream.script = says(b"neighbour")
    refusing = refused_url()
    with Relay(folder, upstream.url, of([refusing, upstream.url], retries=FAST)) as relay:
        found = [post(relay, b"/refused") for _ in range(10)]
        assert {one.body for one in found} == {b"neighbour"}
        assert came(upstream) == 10
        trails = [(one.get("x-relayd-attempts") or b"").decode() for one in found]
        assert f"{label(refusing)} connect_failed, {label(upstream.url)} 200" in trails
        record = relay.record(path="/refused", attempts=2)
        assert record["trail"] == f"{label(refusing)} connect_failed"
        assert record["endpoint"] == label(upstream.url)
        until(lambda: endpoints(relay)[label(refusing)]["breaker"] == "open")
        settled(relay)


def test_without_retries_a_refused_connection_is_502_and_is_logged_as_such(folder: Path) -> None:
    with Relay(folder, refused_url()) as relay:
        assert post(relay, b"/refused").status == 502
        record = relay.record(path="/refused")
        assert (record["code"], record["outcome"]) == ("connect_failed", "upstream.attempt")


def test_the_healthy_endpoint_is_not_slowed_by_a_neighbour_that_swallows_connections(
    upstream: Upstream, folder: Path
) -> None:
    """A hundred clients wait for what hangs at the black hole; who is routed to the healthy upstream is served as by a
    relayd without such clients, which is asked in turn."""
    upstream.script = says(b"fast")
    with black_hole() as hole:
        change = {
            "upstreams": {"up": {"endpoints": [upstream.url]},
                          "hole": {"endpoints": [hole], "timeouts": {"connect": "60s"}, "breaker": False}},
            "routes": [{"name": "hole", "match": {"prefix": "/hole"}, "upstream": "hole"},
                       {"name": "all", "match": {"prefix": "/"}, "upstream": "up"}],
        }
        with Relay(folder / "beside", upstream.url, change) as relay, Relay(folder / "alone", upstream.url, change) as other:
            def waits(count: int) -> tuple[list[float], list[float]]:
                found = list[float](), list[float]()
                with relay.client() as one, other.client() as two:
                    for _ in range(count):
                        for client, spans in zip((one, two), found, strict=True):
                            begun = time.monotonic()
                            assert client.ask(request(b"/fast")).body == b"fast"
                            spans.append(time.monotonic() - begun)
                return sorted(found[0]), sorted(found[1])

            waits(50)
            with ExitStack() as stack:
                for _ in range(100):
                    client = stack.enter_context(Client(relay.address))
                    client.send(request(b"/hole"))
                until(lambda: len(relay.status()["exchanges"]) == 100)
                beside, alone = waits(300)
                assert relay.exchanges() == 100
            p99_alone_s, p99_s = alone[297], beside[297]
            print(f"p99 alone {p99_alone_s * 1000:.2f} ms, beside a black hole {p99_s * 1000:.2f} ms")
            assert beside[150] < max(0.005, 3 * alone[150])
            assert p99_s < max(0.1, 5 * p99_alone_s)
            settled(relay)


def test_in_one_upstream_the_black_hole_is_passed_over_once_its_breaker_has_seen_enough(
    upstream: Upstream, folder: Path
) -> None:
    upstream.script = says(b"neighbour")
    with black_hole() as hole:
        words = {"retries": FAST, "timeouts": {"connect": "300ms"}, "breaker": {"failures": 2, "open_for": "1h"}}
        with Relay(folder, upstream.url, of([hole, upstream.url], **words)) as relay:
            found = [post(relay, b"/swallowed") for _ in range(8)]
            assert {one.body for one in found} == {b"neighbour"}
            trails = [one.get("x-relayd-attempts") or b"" for one in found]
            assert sum(b"connect_timeout" in trail for trail in trails) == 2
            assert endpoints(relay)[label(hole)]["last_fault"] == "connect"
            swift = [post(relay, b"/swift") for _ in range(20)]
            assert {one.body for one in swift} == {b"neighbour"}
            assert not [one for one in swift if b"connect_timeout" in (one.get("x-relayd-attempts") or b"")]


# ---- stalled


def test_a_get_that_stalls_before_the_answer_is_tried_elsewhere_and_a_post_is_not(
    upstream: Upstream, second: Upstream, folder: Path
) -> None:
    upstream.script, second.script = silent, says(b"neighbour")
    urls = [{"url": upstream.url, "priority": 0}, {"url": second.url, "priority": 1}]
    words = {"retries": FAST, "timeouts": {"first_byte": "1s"}, "breaker": False}
    with Relay(folder, upstream.url, of(urls, **words)) as relay:
        assert get(relay, b"/stalled").body == b"neighbour"
        assert post(relay, b"/stalled").status == 504
        assert (came(upstream), came(second)) == (1, 0)
        assert relay.record(path="/stalled", status=504)["code"] == "first_byte_timeout"
        settled(relay)


def test_a_stream_that_stalls_inside_the_answer_ends_broken_and_is_not_tried_again(
    upstream: Upstream, second: Upstream, folder: Path
) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE + chunk(b"data: one\n\n"))
        peer.wait_gone()

    upstream.script, second.script = script, says(b"neighbour")
    urls = [{"url": upstream.url, "priority": 0}, {"url": second.url, "priority": 1}]
    words = {"retries": {**FAST, "idempotent": True}, "timeouts": {"idle": "400ms"}}
    with Relay(folder, upstream.url, of(urls, **words)) as relay:
        found = get(relay, b"/stalled")
        assert (found.status, found.body, found.complete) == (200, b"data: one\n\n", False)
        assert relay.record(path="/stalled")["code"] == "idle_timeout"
        assert second.nothing_came()
        settled(relay)


# ---- cut

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n0123456789"
CUTS = {
    "before the answer": (0, False), "in the status line": (7, False), "in a field": (30, False),
    "before the empty line": (62, False), "behind the head": (66, True), "in the body": (70, True),
}


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("point", CUTS)
def test_an_answer_that_is_cut_is_tried_elsewhere_only_before_the_client_has_seen_a_byte(
    point: str, reset: bool, upstream: Upstream, second: Upstream, folder: Path
) -> None:
    count, begun = CUTS[point]
    shown = threading.Event()

    def cut_behind_what_is_shown(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(ANSWER[:count])
        assert shown.wait(60)
        shown.clear()
        if reset:
            peer.reset()
        else:
            peer.close()

    upstream.script = cut_behind_what_is_shown if begun else saying_then_close(ANSWER[:count], reset=reset)
    second.script = says(b"neighbour")
    urls = [{"url": upstream.url, "priority": 0}, {"url": second.url, "priority": 1}]
    with Relay(folder, upstream.url, of(urls, retries=FAST, breaker=False)) as relay:
        if begun:
            for request in (b"GET /cut HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /cut-post HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"):
                with relay.client() as client:
                    client.send(request)
                    found = client.head_of_answer()
                    shown.set()
                    client.body(found, until_close=True)
                assert (found.status, found.complete) == (200, False)
                assert b"0123456789".startswith(found.body)
            assert second.nothing_came()
            assert relay.record(path="/cut")["code"] == "upstream_cut"
            assert came(upstream) == came(upstream, b"GET") == 1
            settled(relay)
            return
        found = get(relay, b"/cut")
        assert (found.status, found.body) == (200, b"neighbour")
        sent = post(relay, b"/cut-post")
        assert (sent.status, sent.complete) == (502, True)
        assert came(upstream) + came(second) == 1
        settled(relay)


# ---- busy, resting, flapping


def test_a_burst_of_503_opens_the_breaker_and_a_probe_closes_it_again(upstream: Upstream, folder: Path) -> None:
    upstream.script = says(b"busy", status=b"503 Service Unavailable")
    words = {"breaker": {"failures": 4, "open_for": "3s"}}  # longer than the six requests need on a busy machine
    with Relay(folder, upstream.url, of([upstream.url], **words)) as relay:
        statuses = [get(relay, b"/burst") for _ in range(10)]
        assert [one.body == b"busy" for one in statuses] == [True] * 4 + [False] * 6
        assert {one.status for one in statuses} == {503}
        assert all(int(one.get("retry-after") or b"0") >= 1 for one in statuses[4:])
        assert len(upstream.heads) == 4
        assert relay.record(path="/burst", code="no_endpoint")["outcome"] == "upstream.attempt"
        (end,) = endpoints(relay).values()
        assert (end["breaker"], end["opened"], end["available"]) == ("open", 1, False)
        assert 0 < end["retry_in_s"] <= 3
        held, go = threading.Event(), threading.Event()

        def proven(peer: Peer, message: Message) -> None:
            peer.whole(message)
            held.set()
            go.wait(60)
            peer.send(answer(b"well"))

        upstream.script = proven
        until(lambda: next(iter(endpoints(relay).values()))["breaker"] == "half_open")
        with Client(relay.address) as probe:
            probe.send(request(b"/probe"))
            assert held.wait(60)
            assert get(relay, b"/not-yet").status == 503  # one probe at a time
            go.set()
            assert probe.answer().body == b"well"
        assert set(asked(relay, b"/again", 5)) == {b"well"}
        (end,) = endpoints(relay).values()
        assert (end["breaker"], end["consecutive_failures"]) == ("closed", 0)
        for event in ("breaker_opened", "breaker_half_opened", "breaker_closed"):
            assert metric(relay, "relayd_upstream_changes_total", upstream="up", event=event) == 1
            assert event.encode() in relay.output()


def test_a_probe_that_fails_opens_it_again_for_longer(upstream: Upstream, folder: Path) -> None:
    upstream.script = says(b"ill", status=b"500 Internal Server Error")
    words = {"breaker": {"failures": 1, "open_for": "1s", "max_open_for": "2500ms"}}
    with Relay(folder, upstream.url, of([upstream.url], **words)) as relay:
        spans = []
        for opening in range(1, 4):
            begun = time.monotonic()
            assert get(relay, b"/ill").body == b"ill"
            (end,) = endpoints(relay).values()
            assert (end["breaker"], end["opened"]) == ("open", opening)
            spans.append((end["retry_in_s"], end["retry_in_s"] + time.monotonic() - begun))  # at least and at most so long
            until(lambda: next(iter(endpoints(relay).values()))["breaker"] == "half_open")
        for (least_s, most_s), (above_s, up_to_s) in zip(spans, ((0, 1), (1, 2), (2, 2.5)), strict=True):
            assert least_s <= up_to_s and most_s > above_s


def test_a_probe_whose_client_leaves_makes_room_for_the_next_one(upstream: Upstream, folder: Path) -> None:
    upstream.script = once(says(b"ill", status=b"500 Internal Server Error"), silent, says(b"well"))
    words = {"breaker": {"failures": 1, "open_for": "200ms"}}
    with Relay(folder, upstream.url, of([upstream.url], **words)) as relay:
        get(relay, b"/ill")
        until(lambda: next(iter(endpoints(relay).values()))["breaker"] == "half_open")
        with Client(relay.address) as leaver:
            leaver.send(request(b"/probe"))
            until(lambda: len(upstream.heads) == 2)
        until(lambda: not relay.exchanges())
        assert get(relay, b"/next").body == b"well"
        assert next(iter(endpoints(relay).values()))["breaker"] == "closed"


def test_a_consumers_mistakes_open_no_breaker(upstream: Upstream, folder: Path) -> None:
    statuses = [b"400 Bad Request", b"401 Unauthorized", b"403 Forbidden", b"404 Not Found", b"422 No", b"429 Slow"]
    upstream.script = once(*[says(b"no", status=status) for status in statuses * 2], says(b"yes"))
    with Relay(folder, upstream.url, of([upstream.url], breaker={"failures": 1})) as relay:
        found = [get(relay, b"/mistake") for _ in range(13)]
        assert [one.status for one in found] == [400, 401, 403, 404, 422, 429] * 2 + [200]
        (end,) = endpoints(relay).values()
        assert (end["breaker"], end["failures"], end["available"]) == ("closed", 0, True)


def test_a_429_with_retry_after_rests_the_endpoint_and_the_others_go_on(
    upstream: Upstream, second: Upstream, folder: Path
) -> None:
    upstream.script = says(b"slow down", b"Retry-After: 3", status=b"429 Too Many Requests")
    second.script = says(b"neighbour")
    key = folder / "key"
    key.write_text("sk-up-0123456789")
    key.chmod(0o600)
    urls = [{"url": upstream.url, "priority": 0}, {"url": second.url, "priority": 1}]
    words = {"auth": {"bearer": {"file": str(key)}}, "retries": FAST}
    with Relay(folder, upstream.url, of(urls, **words)) as relay:
        assert get(relay, b"/rest").body == b"neighbour"
        end = endpoints(relay)[label(upstream.url)]
        assert (end["breaker"], end["available"]) == ("closed", False)
        assert 0 < end["resting_for_s"] <= 3
        assert set(asked(relay, b"/rest", 5)) == {b"neighbour"}
        assert len(upstream.heads) == 1
        assert b"endpoint_rested" in relay.output()
        upstream.script = says(b"rested")
        until(lambda: get(relay, b"/rest").body == b"rested")


def test_an_endpoint_that_flaps_costs_no_client_an_answer(upstream: Upstream, second: Upstream, folder: Path) -> None:
    """Every other request to it fails; with a share counted and retries no GET is lost, and the budget is not spent."""
    seen = [0]

    def flapping(peer: Peer, message: Message) -> None:
        peer.whole(message)
        seen[0] += 1
        if seen[0] % 2:
            peer.send(answer(b"ill", status=b"500 Internal Server Error"))
        else:
            peer.send(answer(b"well"))

    upstream.script, second.script = flapping, says(b"well")
    words = {
        "retries": {"attempts": 3, "backoff": "5ms", "budget": {"share": 1, "minimum": 100}},
        "breaker": {"failures": 0, "rate": 0.4, "minimum": 10, "window": "10s", "open_for": "1h"},
    }
    with Relay(folder, upstream.url, of([upstream.url, second.url], **words)) as relay:
        assert set(asked(relay, b"/flap", 60)) == {b"well"}
        end = endpoints(relay)[label(upstream.url)]
        assert (end["breaker"], end["opened"]) == ("open", 1)
        assert 10 <= seen[0] < 25
        settled(relay)


# ---- retries


@pytest.mark.parametrize(("on", "script", "again"), [
    (["5xx"], says(b"no", status=b"500 No"), True),
    (["502", "504"], says(b"no", status=b"502 No"), True),
    (["502", "504"], says(b"no", status=b"500 No"), False),
    (["closed"], saying_then_close(b""), True),
    (["connect"], saying_then_close(b""), False),
    (["malformed"], saying_then_close(b"HTTP/1.1 wrong\r\n\r\n"), True),
    (["timeout"], silent, True),
    (["404"], says(b"no", status=b"404 No"), True),
], ids=["5xx", "502", "500 is not 502", "closed", "closed is not connect", "malformed", "timeout", "404"])
def test_what_is_tried_again_is_what_the_operator_names(
    on: list[str], script: Any, again: bool, upstream: Upstream, folder: Path
) -> None:
    upstream.script = once(script, says(b"yes"))
    words: dict[str, Any] = {"retries": {"attempts": 2, "backoff": "5ms", "on": on}}
    if script is silent:
        words["timeouts"] = {"first_byte": "1s"}
    with Relay(folder, upstream.url, of([upstream.url], **words)) as relay:
        assert (get(relay, b"/again").body == b"yes") is again
        assert len(upstream.heads) == 1 + again


def test_a_post_is_sent_again_only_where_it_is_called_idempotent(upstream: Upstream, folder: Path) -> None:
    upstream.script = says(b"no", status=b"502 No")
    with Relay(folder, upstream.url, of([upstream.url], retries=FAST, breaker=False)) as relay:
        assert post(relay, b"/post").body == b"no"
        assert came(upstream) == 1
    with Relay(folder / "2", upstream.url, of([upstream.url], retries={**FAST, "idempotent": True}, breaker=False)) as relay:
        assert post(relay, b"/post").body == b"no"
        assert came(upstream) == 4


def test_a_budget_bounds_the_retries_of_a_failing_upstream(upstream: Upstream, folder: Path) -> None:
    upstream.script = says(b"no", status=b"502 No")
    retries = {"attempts": 5, "backoff": "1ms", "budget": {"share": 0.1, "minimum": 3, "window": "60s"}}
    with Relay(folder, upstream.url, of([upstream.url], retries=retries, breaker=False)) as relay:
        assert set(asked(relay, b"/storm", 50)) == {b"no"}
        assert len(upstream.heads) == 50 + 3 + 5
        assert upstream_of(relay)["retries"]["budget_left"] == 0


def test_an_attempt_has_a_deadline_of_its_own(upstream: Upstream, second: Upstream, folder: Path) -> None:
    """Long before first_byte; connecting counts, and a request that never got out is sent again whatever its method."""
    upstream.script, second.script = silent, says(b"neighbour")
    with black_hole() as hole:
        urls = [{"url": url, "priority": place} for place, url in enumerate((upstream.url, second.url))]
        words = {"retries": {**FAST, "per_attempt": "1s"}, "timeouts": {"first_byte": "30s", "connect": "20s"}}
        with Relay(folder, upstream.url, of(urls, **words)) as relay:
            begun = time.monotonic()
            found = get(relay, b"/slow")
            assert found.body == b"neighbour"
            assert time.monotonic() - begun >= 1
            assert b"first_byte_timeout" in (found.get("x-relayd-attempts") or b"")
            upstream.left.get(timeout=60)
        urls[0]["url"] = hole
        with Relay(folder / "2", upstream.url, of(urls, **words)) as relay:
            begun = time.monotonic()
            found = post(relay, b"/slow")
            assert found.body == b"neighbour"
            assert time.monotonic() - begun >= 1
            assert b"connect_timeout" in (found.get("x-relayd-attempts") or b"")
            assert came(second) == 1


def test_an_attempt_that_has_its_head_has_all_the_time_it_needs(upstream: Upstream, folder: Path) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE + chunk(b"data: one\n\n"))
        time.sleep(1.5)  # longer than an attempt may take until its head
        peer.send(chunk(b"data: two\n\n") + b"0\r\n\r\n")

    upstream.script = script
    with Relay(folder, upstream.url, of([upstream.url], retries={**FAST, "per_attempt": "1s"})) as relay:
        found = get(relay, b"/long")
        assert (found.complete, found.body) == (True, b"data: one\n\ndata: two\n\n")


def test_the_total_deadline_stands_over_all_attempts(upstream: Upstream, folder: Path) -> None:
    upstream.script = silent
    words = {
        "retries": {"attempts": 20, "backoff": "5ms", "per_attempt": "750ms"}, "timeouts": {"total": "3600ms"},
        "breaker": False,
    }
    with Relay(folder, upstream.url, of([upstream.url], **words)) as relay:
        begun = time.monotonic()
        found = get(relay, b"/slow")
        assert found.status == 504
        assert time.monotonic() - begun >= 2.7
        record = relay.record(path="/slow")
        assert 2 <= record["attempts"] <= 6
        assert record["code"] in ("total_timeout", "first_byte_timeout")
        settled(relay)


def test_another_endpoint_is_asked_at_once_and_the_same_one_only_after_a_wait(
    upstream: Upstream, second: Upstream, folder: Path
) -> None:
    upstream.script = second.script = says(b"no", status=b"502 No")
    retries = {"attempts": 4, "backoff": "10s", "max_backoff": "10s"}
    with Relay(folder, upstream.url, of([upstream.url, second.url], retries=retries, breaker=False)) as relay, \
            Client(relay.address) as client:
        client.send(request(b"/elsewhere"))
        until(lambda: upstream.heads and second.heads)
        assert client.silent(0.3)
        assert len(upstream.heads) + len(second.heads) <= 3
