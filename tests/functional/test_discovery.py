"""Discovered endpoints: changes without a reload, running streams, waiting requests, reloads, faults of the source."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.functional.harness.faults import (
    black_hole,
    endpoints,
    label,
    metric,
    refused_url,
    reload,
    run,
    says,
    until,
    upstream_of,
)
from tests.functional.harness.message import Message, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream


class List:
    """A file with addresses, replaced atomically."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "endpoints.yaml"

    def set(self, *urls: str) -> None:
        self.write(json.dumps(urls))

    def write(self, text: str) -> None:
        beside = self.path.with_suffix(".new")
        beside.write_text(text)
        os.rename(beside, self.path)


def upstream(file: List, **further: Any) -> dict[str, Any]:
    section = {"endpoints": None, "discovery": {"file": {"path": str(file.path), "interval": "100ms"}}, **further}
    return {"upstreams": {"up": section}}


def discovered(relay: Relay) -> dict[str, Any]:
    found: dict[str, Any] = upstream_of(relay)["discovery"]
    return found


def waiting(relay: Relay) -> int:
    return sum(gate["depth"] for gate in relay.status()["gates"])


def known(relay: Relay, *urls: str) -> None:
    """Wait until exactly these addresses are in use."""
    wanted = {label(url) for url in urls}
    until(lambda: {name for name, one in endpoints(relay).items() if one["state"] != "leaving"} == wanted)


def test_a_changed_file_is_in_force_without_a_reload_and_cuts_no_stream(tmp_path: Path) -> None:
    file, go_on = List(tmp_path), threading.Event()

    def streaming(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        assert go_on.wait(60)
        peer.send(b"4\r\nlast\r\n0\r\n\r\n")

    with Upstream() as old, Upstream() as new:
        old.script, new.script = streaming, says(b"new")
        file.set(old.url)
        with Relay(tmp_path / "r", "", upstream(file)) as relay, relay.client() as client, relay.client() as second:
            known(relay, old.url)
            client.send(request())
            head = client.head_of_answer()
            assert head.status == 200 and client.take_until(b"first\r\n")
            file.set(new.url)
            known(relay, new.url)
            assert second.ask(request()).body == b"new"
            assert endpoints(relay)[label(old.url)]["state"] == "leaving"
            go_on.set()
            assert client.take_until(b"last\r\n0\r\n\r\n")
            line = next(line for line in relay.output().decode().splitlines() if f"old={label(old.url)}" in line)
            assert f"new={label(new.url)}" in line and f"source=\"file {file.path}\"" in line
            assert metric(relay, "relayd_discovery_changes_total", upstream="up") == 2
            assert metric(relay, "relayd_discovery_endpoints", upstream="up") == 1


def test_without_an_address_the_answer_is_503_with_the_reason(tmp_path: Path) -> None:
    file = List(tmp_path)
    with Relay(tmp_path / "r", "", upstream(file)) as relay, relay.client() as client:
        until(lambda: discovered(relay)["fault"])
        message = client.ask(request())
        assert message.status == 503 and json.loads(message.body)["code"] == "no_endpoint"
        assert message.get("retry-after") == b"1"
        assert "No such file" in relay.record(code="no_endpoint")["detail"]
        code, out, _ = run(relay, "upstreams")
        assert code == 0 and "not found yet" in out and "No such file" in out and "no endpoint is available" in out
        assert run(relay, "status")[0] == 0
        with Upstream() as only:
            file.set(only.url)
            known(relay, only.url)
            assert client.ask(request()).status == 200
            code, out, _ = run(relay, "upstreams")
            assert f"file {file.path}, found" in out and "No such file" not in out


def test_with_a_queue_requests_wait_for_the_first_address(tmp_path: Path) -> None:
    file = List(tmp_path)
    with Relay(tmp_path / "r", "", upstream(file, limits={"queue": 10, "queue_timeout": "60s"})) as relay:
        with Upstream() as only, relay.client() as client:
            client.send(request())
            until(lambda: waiting(relay) == 1)
            file.set(only.url)
            assert client.answer().status == 200


def test_a_request_that_loses_its_endpoint_between_two_attempts_waits_for_the_next(tmp_path: Path) -> None:
    file, gone = List(tmp_path), refused_url()
    file.set(gone)
    further = {"limits": {"queue": 10, "queue_timeout": "60s"}, "retries": {"attempts": 10, "backoff": "2s"}}
    with Relay(tmp_path / "r", "", upstream(file, **further)) as relay, Upstream() as only, relay.client() as client:
        known(relay, gone)
        client.send(request())
        until(lambda: endpoints(relay)[label(gone)]["failures"] >= 1)
        file.set()
        known(relay)
        until(lambda: waiting(relay) == 1)
        file.set(only.url)
        assert client.answer().status == 200


def test_a_broken_file_keeps_the_addresses_and_is_reported_once(tmp_path: Path) -> None:
    file = List(tmp_path)
    with Upstream() as only:
        file.set(only.url)
        with Relay(tmp_path / "r", "", upstream(file)) as relay, relay.client() as client:
            known(relay, only.url)
            file.write("- http://127.0.0.1:1\n- gopher://x\n")
            until(lambda: f"{file.path}:2:3" in discovered(relay)["fault"])
            assert client.ask(request()).status == 200
            assert metric(relay, "relayd_discovery_failures_total", upstream="up") == 1
            file.set(only.url)
            until(lambda: not discovered(relay)["fault"])
            log = relay.output().decode()
            assert log.count("discovery_failed") == 1 and log.count("discovery_recovered") == 1


def test_a_reload_keeps_the_addresses_also_if_other_keys_change(tmp_path: Path) -> None:
    file = List(tmp_path)
    with Upstream() as only:
        only.script = says(b"only")
        file.set(only.url)
        with Relay(tmp_path / "r", "", upstream(file)) as relay, relay.client() as client:
            known(relay, only.url)
            file.path.unlink()
            until(lambda: discovered(relay)["fault"])
            for change in ({"routes": [{"name": "again", "upstream": "up"}]},
                           {"upstreams": {"up": {"timeouts": {"idle": "7s"}}}},
                           {"upstreams": {"up": {"balance": "least_request"}}}):
                reload(relay, change)
                assert client.ask(request()).body == b"only"
            reload(relay, {"upstreams": {"up": {"discovery": {"file": {"path": f"{file.path}.other"}}}}})
            until(lambda: discovered(relay)["source"].endswith(".other") and discovered(relay)["fault"])
            known(relay, only.url)  # until the first successful lookup of the other file
            assert client.ask(request()).body == b"only"


def test_an_address_that_returns_after_its_last_exchange_keeps_its_open_breaker(tmp_path: Path) -> None:
    file = List(tmp_path)
    with Upstream() as bad, Upstream() as good:
        bad.script, good.script = says(b"bad", status=b"500 Internal Server Error"), says(b"good")
        file.set(bad.url)
        breaker = {"breaker": {"failures": 2, "open_for": "10m"}}
        with Relay(tmp_path / "r", "", upstream(file, **breaker)) as relay, relay.client() as client:
            known(relay, bad.url)
            while client.ask(request()).status == 500:
                pass
            assert endpoints(relay)[label(bad.url)]["breaker"] == "open"
            file.set(good.url)
            known(relay, good.url)
            assert client.ask(request()).body == b"good"
            file.set(bad.url)
            known(relay, bad.url)
            assert endpoints(relay)[label(bad.url)]["breaker"] == "open" and client.ask(request()).status == 503
            assert run(relay, "endpoint", "set", "up", good.url)[0] == 0
            assert client.ask(request()).body == b"good"
            assert run(relay, "endpoint", "set", "up", bad.url)[0] == 0
            assert endpoints(relay)[label(bad.url)]["breaker"] == "open" and client.ask(request()).status == 503


def test_from_endpoints_to_a_discovery_and_back(tmp_path: Path) -> None:
    file = List(tmp_path)
    with Upstream() as first, Upstream() as second:
        first.script, second.script = says(b"first"), says(b"second")
        file.set(second.url)
        with Relay(tmp_path / "r", first.url) as relay, relay.client() as client:
            assert client.ask(request()).body == b"first"
            reload(relay, upstream(file))
            known(relay, second.url)
            assert client.ask(request()).body == b"second"
            reload(relay, {"upstreams": {"up": {"discovery": None, "endpoints": [first.url]}}})
            assert client.ask(request()).body == b"first" and upstream_of(relay)["discovery"] is None


def test_more_addresses_than_allowed_are_left_out_with_a_warning(tmp_path: Path) -> None:
    file = List(tmp_path)
    file.set(*(f"http://127.0.0.1:{port}" for port in range(1001, 2001)))
    with Relay(tmp_path / "r", "", upstream(file)) as relay:
        until(lambda: len(endpoints(relay)) == 64)
        assert discovered(relay)["note"] == "of 1000 addresses the first 64 are used (max_endpoints)"
        assert b"discovery_note" in relay.output()


def test_a_flapping_list_neither_leaks_nor_loses_requests(tmp_path: Path) -> None:
    file = List(tmp_path)
    with Upstream() as first, Upstream() as second:
        file.set(first.url)
        limits = {"queue": 100, "queue_timeout": "60s"}
        with Relay(tmp_path / "r", "", upstream(file, limits=limits)) as relay:
            known(relay, first.url)
            stop, statuses = threading.Event(), []

            def ask() -> None:
                while not stop.is_set():
                    with relay.client() as client:
                        statuses.append(client.ask(request()).status)

            thread = threading.Thread(target=ask)
            thread.start()
            try:
                for number in range(20):
                    urls = ((), (first.url,), (second.url,), (first.url, second.url))[number % 4]
                    file.set(*urls)
                    known(relay, *urls)
                file.set(first.url)
                known(relay, first.url)
            finally:
                stop.set()
                thread.join()
            assert set(statuses) == {200} and len(statuses) > 20
            assert {name: one["state"] for name, one in endpoints(relay).items()} == {label(first.url): "enabled"}


def test_check_and_explain_know_a_discovery(tmp_path: Path) -> None:
    relay = Relay(tmp_path / "r", "", upstream(List(tmp_path)))
    relay.write()

    def command(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "relayd", *words, "-c", str(relay.file)], capture_output=True, text=True,
            timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        return done.returncode, done.stdout + done.stderr

    code, text = command("check")
    assert code == 0 and "discovered by file" in text and "upstreams.up.discovery.file.path" in text, text
    code, text = command("explain", "GET", "http://127.0.0.1/x")
    assert code == 0 and "discovered by file, with its own scheme and path" in text, text
    assert "Host: (the discovered address)\n" in text
    dns = {"dns": {"name": "backend.internal", "port": 8001, "scheme": "https", "path": "/v1/"}}
    relay.write({"upstreams": {"up": {"endpoints": None, "discovery": {"file": None, **dns}}}})
    code, text = command("explain", "GET", "http://127.0.0.1/x")
    assert code == 0 and "https discovered by dns" in text and "target    /v1/x\n" in text, text


def test_a_deploy_hook_sets_the_endpoints_until_the_configuration_changes(tmp_path: Path) -> None:
    file = List(tmp_path)
    with Upstream() as old, Upstream() as new, Upstream() as third:
        old.script, new.script, third.script = says(b"old"), says(b"new"), says(b"third")
        with Relay(tmp_path / "r", old.url) as relay, relay.client() as client:
            assert client.ask(request()).body == b"old"
            code, out, _ = run(relay, "endpoint", "set", "up", new.url)
            assert code == 0 and label(new.url) in out and client.ask(request()).body == b"new"
            reload(relay, {"routes": [{"name": "again", "upstream": "up"}]})
            assert client.ask(request()).body == b"new", "the upstream itself has not changed"
            code, out, _ = run(relay, "endpoint", "list")
            assert code == 0 and "set by hand" in out
            assert "set by hand" in run(relay, "upstreams")[1] and "set by hand" in run(relay, "status")[1]
            reload(relay, {"upstreams": {"up": {"endpoints": [third.url]}}})
            assert client.ask(request()).body == b"third" and not upstream_of(relay)["overridden"]
            file.set(old.url)
            reload(relay, upstream(file))
            known(relay, old.url)
            assert run(relay, "endpoint", "set", "up", new.url)[0] == 0
            file.set(third.url)
            until(lambda: discovered(relay)["changes"] == 2)
            assert client.ask(request()).body == b"new", "what is discovered waits beside it"
            assert run(relay, "endpoint", "reset", "up")[0] == 0
            assert client.ask(request()).body == b"third"
            code, _, err = run(relay, "endpoint", "set", "up", "ftp://there")
            assert code == 1 and "must begin with http" in err


def test_a_command_is_followed_and_kept_in_bounds(tmp_path: Path) -> None:
    program, beside = tmp_path / "where-is", tmp_path / "new"

    def script(text: str) -> None:
        beside.write_text(f"#!/bin/sh\n{text}\n")
        beside.chmod(0o755)
        os.rename(beside, program)

    with Upstream() as first, Upstream() as second:
        first.script, second.script = says(b"first"), says(b"second")
        script(f"test $1 = ai && echo {first.url}")
        command = {"argv": [str(program), "ai"], "interval": "200ms", "timeout": "1s"}
        change = {"upstreams": {"up": {"endpoints": None, "discovery": {"command": command}}}}
        with Relay(tmp_path / "r", "", change) as relay, relay.client() as client:
            known(relay, first.url)
            assert client.ask(request()).body == b"first"
            script(f"echo {label(second.url)}")
            known(relay, second.url)
            assert client.ask(request()).body == b"second"
            before = relay.rss_kib()
            for text, why in (
                ("head -c 1000000000 /dev/zero", "larger than 64 KiB"), ("sleep 60", "has not ended within 1 s"),
                ("echo lost >&2; exit 4", "ended with status 4: lost"), ("seq 1 1000 | sed 's,^,http://127.0.0.1:,'", ""),
            ):
                script(text)
                until(lambda why=why: why in discovered(relay)["fault"] if why else discovered(relay)["note"])  # type: ignore[misc]
                if why:
                    assert client.ask(request()).body == b"second", text
            assert len(endpoints(relay)) == 64 and relay.rss_kib() - before < 20_000
            script(f"echo {second.url}")
            known(relay, second.url)


def test_a_start_and_a_reload_wait_for_the_first_answer_but_not_for_ever(tmp_path: Path) -> None:
    program = tmp_path / "where-is"
    with Upstream() as only:
        program.write_text(f"#!/bin/sh\nsleep $1\necho {only.url}\n")
        program.chmod(0o755)

        def section(seconds: str) -> dict[str, Any]:
            return {"endpoints": None, "discovery": {"command": {"argv": [str(program), seconds]}}}

        with Relay(tmp_path / "r", "", {"upstreams": {"up": section("0.7")}}) as relay, relay.client() as client:
            assert client.ask(request()).status == 200, "the first request of the process"
            route = {"name": "more", "match": {"prefix": "/more"}, "upstream": "more"}
            routes = [route, {"name": "all", "upstream": "up"}]
            reload(relay, {"upstreams": {"more": section("0.6")}, "routes": routes})
            assert client.ask(request(b"/more")).status == 200, "the first request after the reload"
            reload(relay, {"upstreams": {"more": section("9")}})
            assert client.ask(request(b"/more")).status == 200, "the addresses in force stay"
            relay.write({"upstreams": {"other": section("8")}, "routes": [{"name": "broken"}]})
            assert run(relay, "reload")[0] == 1
            assert client.ask(request(b"/more")).status == 200 and not processes_with("8"), "what was refused has ended"


def processes_with(word: str) -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                if word.encode() in words and any(b"where-is" in one for one in words):
                    found.append(name)
    return found


def test_a_connection_that_is_not_established_when_its_address_is_removed_is_given_up(tmp_path: Path) -> None:
    file = List(tmp_path)
    further = {"timeouts": {"connect": "60s"}, "retries": {"attempts": 2, "backoff": "50ms"}}
    with black_hole() as nowhere, Upstream() as only:
        file.set(nowhere)
        with Relay(tmp_path / "r", "", upstream(file, **further)) as relay, relay.client() as client:
            known(relay, nowhere)
            client.send(request())
            until(lambda: endpoints(relay)[label(nowhere)]["in_flight"] == 1)
            file.set(only.url)
            assert client.answer().status == 200
            assert relay.record(status=200)["attempts"] == 2
