"""`relayd capture` on a running relayd: what is kept of which exchange, its bounds, its ends, and that no key is in it."""

from __future__ import annotations

import base64
import json
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.capture import Capture, cli, shown, state, text_of
from tests.functional.harness.faults import once, says, until
from tests.functional.harness.message import Message, answer, chunk, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream

UP_KEY, SECOND_KEY, TEAM_KEY = "sk-up/Stored+0123456", "sk-second-9876543210", "team-key-abcdefghij"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def config(folder: Path, url: str) -> dict[str, Any]:
    (folder / "team").write_text(TEAM_KEY + "\n")
    (folder / "team").chmod(0o600)
    retries = {"attempts": 2, "backoff": "1ms"}
    return {
        "upstreams": {
            "up": {"endpoints": [url], "retries": retries},
            "chat": {"endpoints": [f"{url}/v1"], "protocol": "openai_chat", "auth": {"bearer": {"env": "UP_KEY"}}},
            "second": {"endpoints": [f"{url}/second/v1"], "protocol": "openai_chat",
                       "auth": {"header": {"name": "X-Special", "value": {"env": "SECOND_KEY"}}}},
            "query": {"endpoints": [url], "auth": {"query": {"name": "code", "value": {"env": "UP_KEY"}}}},
        },
        "consumers": {"team": {"bearer": {"file": str(folder / "team")}}},
        "routes": [
            {"name": "admin", "match": {"prefix": "/admin/"}, "upstream": "admin", "admin_prefix": "/admin",
             "allow": ["team"], "admin_write": True},
            {"name": "look", "match": {"prefix": "/look/"}, "upstream": "admin", "admin_prefix": "/look", "allow": ["team"]},
            {"name": "messages", "match": {"path": "/v1/messages"}, "protocol": "anthropic_messages", "upstream": "chat"},
            {"name": "responses", "match": {"path": "/v1/responses"}, "protocol": "openai_responses", "upstream": "chat"},
            {"name": "chat", "match": {"prefix": "/v1/"}, "upstream": "chat",
             "fallbacks": [{"upstream": "second", "on": ["any"]}]},
            {"name": "ws", "match": {"prefix": "/ws"}, "upstream": "up", "upgrade": True},
            {"name": "query", "match": {"prefix": "/query"}, "upstream": "query"},
            {"name": "team", "match": {"prefix": "/team"}, "upstream": "up", "allow": ["team"]},
            {"name": "all", "match": {"prefix": "/"}, "upstream": "up"},
        ],
    }


@pytest.fixture(scope="module")
def relay(module_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("capture")
    environment = {"UP_KEY": UP_KEY, "SECOND_KEY": SECOND_KEY}
    with Relay(folder, module_upstream.url, config(folder, module_upstream.url), environment=environment) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_is_kept(relay: Relay, upstream: Upstream) -> Iterator[None]:
    yield
    assert cli(relay, "capture", "delete", "--all").returncode == 0
    assert state(relay) == {"is_on": False, "ends_in_s": None, "exchanges": 0, "bytes": 0}


def ask(relay: Relay, path: bytes, *lines: bytes, method: bytes = b"GET", body: bytes | None = None) -> Message:
    with relay.client() as client:
        return client.ask(request(path, b"Connection: close", *lines, method=method, body=body))


def post(relay: Relay, path: bytes, document: dict[str, Any], *lines: bytes) -> Message:
    return ask(relay, path, b"Content-Type: application/json", *lines, method=b"POST", body=json.dumps(document).encode())


def streamed(*events: dict[str, Any] | str) -> list[bytes]:
    return [b"data: " + (one if isinstance(one, str) else json.dumps(one)).encode() + b"\n\n" for one in events]


def delta(text: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m", "created": 1, "choices": [choice]}


STREAM = streamed(delta("Hel"), delta("lo"), delta("", "stop"), "[DONE]")


def streaming(peer: Peer, message: Message) -> None:
    peer.whole(message)
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for event in STREAM:
        peer.send(chunk(event))
    peer.send(b"0\r\n\r\n")


def test_every_attempt_is_kept_with_what_was_sent_and_answered(relay: Relay, upstream: Upstream) -> None:
    upstream.script = once(says(b"down", status=b"503 Down"), says(b'{"fine":1}', b"Content-Type: application/json", b"X-A: b"))
    with Capture(relay, "--max", "1") as capture:
        assert ask(relay, b"/a?b=c", b"X-Mine: yes", method=b"PUT", body=b"the body").status == 200
        event = capture.next()
        code, rest, errors = capture.ended()
    assert (code, rest) == (0, []) and "the number of exchanges is reached" in errors and "1 exchanges are kept" in errors
    assert event["event"] == "captured" and event["record"] == relay.record(id=event["id"]) | {"query": "?b=c"}
    found = shown(relay, event["id"][:8])
    assert found["request"]["method"] == "PUT" and found["request"]["target"] == "/a?b=c"
    assert "X-Mine: yes" in found["request"]["fields"] and text_of(found["request"]) == "the body"
    first, second = found["attempts"]
    assert [one["response"]["status"] for one in (first, second)] == [503, 200]
    assert (first["code"], first["blame"]) == ("upstream_refused", "endpoint") and (second["code"], second["blame"]) == ("", "good")
    for one in (first, second):
        assert one["request"]["url"] == f"{upstream.url}/a?b=c" and text_of(one["request"]) == "the body"
        assert "X-Mine: yes" in one["request"]["fields"]
    assert text_of(first["response"]) == "down" and text_of(second["response"]) == '{"fine":1}'
    assert first["begun_ms"] < first["ended_ms"] <= second["begun_ms"] < second["ended_ms"] <= found["response"]["ended_ms"]
    assert found["response"]["status"] == 200 and text_of(found["response"]) == '{"fine":1}'
    assert {"X-A: b", "X-Proxy-By: relayd", f"X-Request-ID: {event['id']}"} <= set(found["response"]["fields"])
    text = cli(relay, "capture", "show", event["id"]).stdout
    assert "> PUT /a?b=c HTTP/1.1" in text and "attempt 1  up" in text and "<< 503 Down" in text and '<   "fine": 1' in text
    listed = cli(relay, "capture", "list").stdout
    assert event["id"] in listed and "PUT /a" in listed
    deleted = cli(relay, "capture", "delete", event["id"])
    assert (deleted.returncode, deleted.stdout) == (0, "1 deleted\n")
    gone = cli(relay, "capture", "show", event["id"])
    assert gone.returncode == 1 and f"No captured exchange has the id {event['id']}" in gone.stderr


def test_a_stream_that_passes_is_kept_in_its_pieces(relay: Relay, upstream: Upstream) -> None:
    def paced(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in STREAM:
            peer.send(chunk(event))
            assert arrived.get(timeout=60)
        peer.send(b"0\r\n\r\n")

    import queue

    arrived: queue.Queue[bool] = queue.Queue()
    upstream.script = paced
    with Capture(relay, "--route", "chat") as capture, relay.client() as client:
        body = json.dumps({**CHAT, "stream": True}).encode()
        client.send(request(b"/v1/chat/completions", b"Content-Type: application/json", method=b"POST", body=body))
        client.head_of_answer()
        received = b""
        for event in STREAM:
            while received.count(b"data: ") < STREAM.index(event) + 1 or not received.endswith(b"\r\n"):
                received += client.read_some()
            arrived.put(True)
        client.read_some()
        found = capture.one()
    (attempt,) = found["attempts"]
    assert text_of(attempt["response"]) == b"".join(STREAM).decode() == text_of(found["response"])
    for pieces in (attempt["response"]["body"]["pieces"], found["response"]["body"]["pieces"]):
        assert [size for _, size in pieces] == [len(event) for event in STREAM]
        times = [at_ms for at_ms, _ in pieces]
        assert times == sorted(times) and times[0] < times[-1]
    assert not attempt["translated"] and found["record"]["model"] == "m"


def test_a_translated_exchange_is_kept_in_both_dialects(relay: Relay, upstream: Upstream) -> None:
    upstream.script = streaming
    with Capture(relay) as capture:
        document = {"model": "m", "max_tokens": 5, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
        assert post(relay, b"/v1/messages", document).status == 200
        found = capture.one()
    (attempt,) = found["attempts"]
    assert attempt["translated"] and attempt["request"]["url"].endswith("/v1/chat/completions")
    assert json.loads(text_of(attempt["request"]))["messages"] == CHAT["messages"]
    assert json.loads(text_of(found["request"])) == document
    assert "chat.completion.chunk" in text_of(attempt["response"]) and "message_start" in text_of(found["response"])


def test_a_fallback_is_kept_after_the_attempt_that_failed(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        if b"/second/" in message.start:
            streaming_body = {"id": "c", "object": "chat.completion", "model": "m", "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}
            peer.send(answer(json.dumps(streaming_body).encode(), b"Content-Type: application/json"))
        else:
            peer.send(answer(b'{"error":{"message":"down"}}', b"Content-Type: application/json", status=b"500 No"))

    upstream.script = script
    with Capture(relay) as capture:
        assert post(relay, b"/v1/chat/completions", CHAT).status == 200
        found = capture.one()
    assert [(one["upstream"], one["response"]["status"]) for one in found["attempts"]] == [("chat", 500), ("second", 200)]
    assert "down" in text_of(found["attempts"][0]["response"])


def test_an_answer_that_is_cut_and_a_client_that_leaves(relay: Relay, upstream: Upstream) -> None:
    received = threading.Event()

    def cut(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
        assert received.wait(60)
        peer.close()

    upstream.script = cut
    with Capture(relay, "--errors") as capture:
        with relay.client() as client:
            client.send(request(b"/cut"))
            client.head_of_answer()
            assert client.take(4) == b"part"
            received.set()
            assert client.ended()
        found = capture.one()
        assert found["record"]["code"] == "upstream_cut" and text_of(found["response"]) == "part"
        attempt = found["attempts"][-1]
        assert attempt["code"] == "upstream_cut" and text_of(attempt["response"]) == "part" and attempt["blame"] == "endpoint"

        def waits(peer: Peer, message: Message) -> None:
            peer.whole(message)
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbeginning")
            peer.wait_gone()

        upstream.script = waits
        with relay.client() as client:
            client.send(request(b"/leaves"))
            client.head_of_answer()
        found = capture.one()
        assert found["record"]["code"] == "client_gone" and found["attempts"][0]["code"] == "client_gone"
        assert text_of(found["attempts"][0]["response"]) == "beginning"


def test_with_errors_only_failures_are_kept(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(answer(b"x", status=b"404 No" if b"fail" in message.start else b"200 OK"))

    upstream.script = script
    with Capture(relay, "--errors", "--max", "2") as capture:
        for path in (b"/fine", b"/fail1", b"/fine", b"/fail2", b"/fine"):
            ask(relay, path)
        _, events, _ = capture.ended()
    assert [one["record"]["path"] for one in events] == ["/fail1", "/fail2"]
    assert state(relay)["exchanges"] == 2


@pytest.mark.parametrize(("filters", "wanted"), [
    (("--route", "q*"), ["/query"]), (("--consumer", "team"), ["/team"]), (("--status", "4xx"), ["/missing"]),
    (("--upstream", "chat", "--model", "m*"), ["/v1/chat/completions"]), (("--slow", "1h"), []),
    (("--outcome", "complete", "--route", "team"), ["/team"]),
])
def test_filters(relay: Relay, upstream: Upstream, filters: tuple[str, ...], wanted: list[str]) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(answer(b"{}", b"Content-Type: application/json", status=b"404 No" if b"missing" in message.start else b"200 OK"))

    upstream.script = script
    with Capture(relay, *filters) as capture:
        for path in (b"/query", b"/missing"):
            ask(relay, path)
        ask(relay, b"/team", b"Authorization: Bearer " + TEAM_KEY.encode())
        post(relay, b"/v1/chat/completions", CHAT)
        relay.wait_quiet()
        found = [capture.next()["record"]["path"] for _ in wanted]
        _, more, _ = capture.interrupt()
    assert found == wanted and more == []


SECRETS = (UP_KEY, SECOND_KEY, TEAM_KEY, "cookie-value-123", "client-x-key-456", "query-key-789", "api-key-value-321",
           "goog-key-value-654", "basic-password-987", "set-cookie-111-222")


def test_no_secret_is_in_anything_that_is_kept_or_exported(relay: Relay, upstream: Upstream, tmp_path: Path) -> None:
    """The endpoint repeats everything that it got, in fields, in JSON, percent-encoded and in base64."""

    def echo(peer: Peer, message: Message) -> None:
        peer.whole(message)
        head = message.start + b"\n" + b"\n".join(b": ".join(one) for one in message.fields)
        said = {"head": head.decode("latin-1"), "base64": base64.b64encode(head).decode(),
                "percent": "".join(f"%{byte:02x}" for byte in head)}
        lines = [b"X-Echo-" + name + b": " + value for name, value in message.fields if len(value) < 200]
        peer.send(answer(json.dumps(said).encode(), b"Content-Type: application/json", *lines, b"Set-Cookie: id=set-cookie-111-222"))

    upstream.script = echo
    basic = base64.b64encode(b"user:basic-password-987")
    fields = (
        b"Cookie: id=cookie-value-123", b"X-Api-Key: client-x-key-456", b"Api-Key: api-key-value-321",
        b"X-Goog-Api-Key: goog-key-value-654", b"Proxy-Authorization: Basic " + basic,
    )
    with Capture(relay) as capture:
        ask(relay, b"/echo?key=query-key-789", b"Authorization: Bearer " + TEAM_KEY.encode(), *fields)
        ask(relay, b"/query/echo?token=query-key-789", *fields)
        post(relay, b"/v1/chat/completions", {**CHAT, "user": UP_KEY}, b"Authorization: Bearer " + TEAM_KEY.encode(), *fields)
        ids = [capture.next()["id"] for _ in range(3)]
        assert cli(relay, "capture", "export", "-o", str(tmp_path / "all.har")).returncode == 0
        everything = "".join(
            [(tmp_path / "all.har").read_text(), cli(relay, "capture", "list", "--json").stdout]
            + [cli(relay, "capture", "show", one, *how).stdout for one in ids for how in ((), ("--json",), ("--raw",))]
            + [json.dumps(capture.interrupt()[1]), relay.output().decode()]
        )
    assert stat.S_IMODE((tmp_path / "all.har").stat().st_mode) == 0o600
    assert "X-Echo-" in everything and "/query/echo" in everything
    for secret in SECRETS:
        forms = {secret, base64.b64encode(secret.encode()).decode().rstrip("=")[:-2], "".join(f"%{ord(one):02x}" for one in secret)}
        for form in forms:
            assert form not in everything, form
    for shift in range(3):
        encoded = base64.b64encode(b"x" * shift + UP_KEY.encode())[4:-4].decode()
        assert encoded not in everything


def test_bodies_are_bounded_and_what_is_missing_is_said(relay: Relay, upstream: Upstream) -> None:
    body = b"begin" + b"x" * 20_000_000 + b"end"

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(answer(b"START" + b"y" * 3_000_000 + b"FINISH"))

    upstream.script = script
    before = relay.rss_kib()
    with Capture(relay, "--body", "8KiB") as capture:
        for _ in range(3):
            assert ask(relay, b"/huge", method=b"POST", body=body).status == 200
            found = capture.one()
            sent, got = found["request"]["body"], found["response"]["body"]
            assert (sent["size"], got["size"]) == (len(body), 3_000_011)
            assert sent["missing"] == len(body) - len(sent["text"]) - len(sent["tail_text"])
            assert sent["text"].startswith("begin") and sent["tail_text"].endswith("end")
            assert got["text"].startswith("START") and got["tail_text"].endswith("FINISH")
            assert all(4000 <= len(one[name]) <= 4200 for one in (sent, got) for name in ("text", "tail_text"))
        shown_text = cli(relay, "capture", "show", found["id"]).stdout
        assert f"{sent['missing']} of {len(body)} bytes are not kept" in shown_text
    assert state(relay)["bytes"] < 1_000_000
    assert relay.rss_kib() - before < 60_000


def test_without_bodies_only_sizes_and_times_are_kept(relay: Relay, upstream: Upstream) -> None:
    upstream.script = says(b"private answer")
    with Capture(relay, "--no-bodies") as capture:
        ask(relay, b"/x", method=b"POST", body=b"private question")
        found = capture.one()
    assert found["request"]["body"]["size"] == 16 and found["response"]["body"]["size"] == 14
    assert "private" not in json.dumps(found)


def test_of_a_thousand_exchanges_ten_are_kept_and_the_memory_is_free_afterwards(relay: Relay, upstream: Upstream) -> None:
    upstream.script = says(b"z" * 1000)
    with Capture(relay, "--max", "10") as capture:
        with relay.client() as client:
            for number in range(1000):
                assert client.ask(request(b"/%d" % number)).status == 200
        code, events, _ = capture.ended()
    assert code == 0 and [one["record"]["path"] for one in events] == [f"/{number}" for number in range(10)]
    assert state(relay)["exchanges"] == 10
    assert cli(relay, "capture", "delete", "--all").stdout == "10 deleted\n"
    assert state(relay)["bytes"] == 0


def test_kept_exchanges_are_deleted_after_their_time(relay: Relay, upstream: Upstream) -> None:
    with Capture(relay, "--keep", "500ms", "--max", "1") as capture:
        ask(relay, b"/x")
        capture.ended()
    until(lambda: state(relay)["bytes"] == 0, what="the deletion")
    assert cli(relay, "capture", "list").stdout == "no captured exchanges\n"


def test_a_capture_ends_with_its_time_and_with_its_client(relay: Relay, upstream: Upstream) -> None:
    with Capture(relay, "--for", "100ms") as capture:
        code, _, errors = capture.ended()
        assert code == 0 and "its time is over" in errors
    with Capture(relay, "--for", "10m") as capture:
        assert "capture: 0 exchanges" in cli(relay, "status").stdout and "on for 9m" in cli(relay, "status").stdout
        second = cli(relay, "capture")
        assert second.returncode == 1 and "A capture is on already" in second.stderr
        capture.process.send_signal(signal.SIGKILL)  # nobody says goodbye
        capture.ended()
        until(lambda: not state(relay)["is_on"], what="the end of a capture without a client")
    ask(relay, b"/after")
    assert state(relay)["exchanges"] == 0
    with Capture(relay) as capture:
        ask(relay, b"/x")
        capture.next()
        code, _, errors = capture.interrupt()
        assert code == 0 and "1 exchanges are kept" in errors


def test_a_full_memory_ends_a_capture_and_refuses_the_next(relay: Relay, upstream: Upstream) -> None:
    upstream.script = says(b"q" * 50_000)
    with Capture(relay, "--size", "100KiB") as capture:
        for _ in range(20):
            assert ask(relay, b"/x").status == 200
        code, events, errors = capture.ended()
    assert code == 0 and "its memory is full" in errors and 0 < len(events) < 5
    full = cli(relay, "capture", "--size", "100KiB")
    assert full.returncode == 1 and "relayd capture delete" in full.stderr


def test_a_capture_goes_on_over_a_reload(relay: Relay, upstream: Upstream) -> None:
    upstream.script = says(b"fine")
    with Capture(relay) as capture:
        ask(relay, b"/before")
        relay.write({"telemetry": {"log": {"level": "info"}}, "headers": {"via": "other"}})
        assert cli(relay, "reload").returncode == 0
        ask(relay, b"/after")
        first, second = capture.one(), capture.one()
    assert [one["record"]["generation"] for one in (first, second)] == [1, 2] or (
        first["record"]["generation"] + 1 == second["record"]["generation"])
    assert any("Via: 1.1 other" in line for line in second["attempts"][0]["request"]["fields"])


def test_an_upgrade_is_kept_without_what_is_said_over_it(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        peer.send(peer.take(6))
        peer.close()

    upstream.script = script
    with Capture(relay) as capture, relay.client() as client:
        client.send(request(b"/ws", b"Connection: Upgrade", b"Upgrade: echo"))
        assert client.head_of_answer().status == 101
        client.send(b"secret")
        assert client.read_all() == b"secret"
        found = capture.one()
    assert found["response"]["status"] == 101 and found["attempts"][0]["tunnel"]
    assert found["attempts"][0]["request"]["url"] == f"{upstream.url}/ws" and "secret" not in json.dumps(found)


def test_over_a_route_a_capture_needs_admin_write_and_never_shows_itself(relay: Relay, upstream: Upstream) -> None:
    key = b"Authorization: Bearer " + TEAM_KEY.encode()
    for path, method in ((b"/look/captures", b"GET"), (b"/look/captures/start", b"POST"), (b"/look/captures/x", b"GET"),
                         (b"/look/captures/delete", b"POST")):
        refused = ask(relay, path, key, method=method, body=b"{}" if method == b"POST" else None)
        assert refused.status == 403 and b"not available here" in refused.body
    assert ask(relay, b"/admin/captures").status == 401
    with Capture(relay) as capture:
        assert json.loads(ask(relay, b"/admin/captures", key).body)["is_on"] is True
        ask(relay, b"/seen")
        assert capture.next()["record"]["path"] == "/seen"
        assert ask(relay, b"/admin/captures/start", key, method=b"POST", body=b"{}").status == 409
        bad = ask(relay, b"/admin/captures/start", key, method=b"POST", body=b'{"exchanges": 0}')
        assert bad.status == 400 and b"`exchanges` is not a number from 1 to 1000" in bad.body
        assert ask(relay, b"/admin/captures/start", key, b"Sec-Fetch-Site: cross-site", method=b"POST", body=b"{}").status == 403


def test_without_a_relayd_the_command_says_so(tmp_path: Path, relay: Relay, upstream: Upstream) -> None:
    import subprocess
    import sys

    from tests.functional.harness.capture import ENVIRONMENT

    command = [sys.executable, "-m", "relayd", "capture", "--socket", str(tmp_path / "none")]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert result.returncode == 1 and "No such file" in result.stderr and "is relayd running" in result.stderr
    assert cli(relay, "capture", "show").returncode == 2 and cli(relay, "capture", "delete").returncode == 2


HAR_REQUEST = {"method": str, "url": str, "httpVersion": str, "cookies": list, "headers": list, "queryString": list,
               "headersSize": int, "bodySize": int}
HAR_RESPONSE = {"status": int, "statusText": str, "httpVersion": str, "cookies": list, "headers": list, "content": dict,
                "redirectURL": str, "headersSize": int, "bodySize": int}


def check_har(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The required members of HAR 1.2, and the rules between them. Returns the entries."""
    from datetime import datetime

    log = document["log"]
    assert set(document) == {"log"} and log["version"] == "1.2" and {"name", "version"} <= set(log["creator"])
    for entry in log["entries"]:
        assert datetime.fromisoformat(entry["startedDateTime"]).tzinfo is not None and entry["cache"] == {}
        timings = entry["timings"]
        assert all(timings[name] >= 0 for name in ("send", "wait", "receive"))
        known = sum(value for name, value in timings.items() if value >= 0 and name != "ssl")
        assert abs(entry["time"] - known) < 0.01
        for message, members in ((entry["request"], HAR_REQUEST), (entry["response"], HAR_RESPONSE)):
            for name, kind in members.items():
                assert type(message[name]) is kind, (name, message[name])
            assert all(set(one) == {"name", "value"} for one in message["headers"])
            assert all(name in members or name.startswith("_") or name in ("postData", "comment") for name in message)
        content = entry["response"]["content"]
        assert isinstance(content["size"], int) and isinstance(content["mimeType"], str) and isinstance(content["text"], str)
        if "encoding" in content:
            assert content["encoding"] == "base64" and base64.b64decode(content["text"])
        posted = entry["request"].get("postData")
        if posted is not None:
            assert isinstance(posted["mimeType"], str) and isinstance(posted["text"], str)
    entries: list[dict[str, Any]] = log["entries"]
    return entries


def test_the_export_is_a_valid_archive(relay: Relay, upstream: Upstream) -> None:
    import gzip

    packed = gzip.compress(b'{"packed": true}')

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        if b"gzip" in message.start:
            peer.send(answer(packed, b"Content-Type: application/json", b"Content-Encoding: gzip"))
        else:
            peer.send(answer(b"\xff\xfe\x00binary", b"Content-Type: image/png"))

    upstream.script = script
    with Capture(relay) as capture:
        ask(relay, b"/gzip?a=1&a=2", method=b"POST", body=b'{"q": 1}')
        ask(relay, b"/binary", method=b"PUT", body=b"\xff\x00")
        ids = [capture.next()["id"] for _ in range(2)]
    result = cli(relay, "capture", "export", *ids)
    entries = check_har(json.loads(result.stdout))
    assert [(one["_exchange"], one.get("_attempt")) for one in entries] == [(ids[0], None), (ids[0], 1), (ids[1], None), (ids[1], 1)]
    assert entries[0]["request"]["queryString"] == [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]
    content = entries[0]["response"]["content"]
    assert content["text"] == '{"packed": true}' and content["size"] == 16 and content["compression"] == 16 - len(packed)
    assert base64.b64decode(entries[2]["response"]["content"]["text"]) == b"\xff\xfe\x00binary"
    assert entries[3]["request"]["postData"]["_encoding"] == "base64"
    assert entries[1]["request"]["url"] == f"{upstream.url}/gzip?a=1&a=2"
    assert '"packed": true' in cli(relay, "capture", "show", ids[0]).stdout
