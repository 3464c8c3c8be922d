"""Reloading drops nothing, a refused reload changes nothing, and stopping lets exchanges finish."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.aids.ports import free_port
from tests.functional.harness.client import Client, connect
from tests.functional.harness.faults import says, until
from tests.functional.harness.message import Closed, Message, chunk, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
KEY = "sk-test-never-shown-0123456789"


class Held:
    """A script that begins a stream and goes on when it is let."""

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()

    def __call__(self, peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(SSE + chunk(b"data: one\n\n"))
        self.began.set()
        if self.go.wait(60):
            peer.send(chunk(b"data: two\n\n") + chunk(b""))


@pytest.fixture
def alone(upstream: Upstream, folder: Path) -> Iterator[Relay]:
    """A relayd of one test: it is changed and stopped."""
    with Relay(folder, upstream.url) as running:
        yield running


class Made:
    """Relays that a test ends itself; those that are left are ended here."""

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        self.folder, self.upstream = folder, upstream
        self.relays: list[Relay] = []

    def __call__(self, change: dict[str, Any], environment: dict[str, str] | None = None) -> Relay:
        relay = Relay(self.folder, self.upstream.url, change, environment=environment)
        self.relays.append(relay)
        return relay


@pytest.fixture
def made(folder: Path, upstream: Upstream) -> Iterator[Made]:
    maker = Made(folder, upstream)
    yield maker
    for relay in maker.relays:
        relay.stop()


def cli(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relayd", *words], capture_output=True, text=True, timeout=60, cwd=ROOT,
        env={**os.environ, **(environment or {})}, check=False,
    )


def reload(relay: Relay, change: dict[str, Any]) -> dict[str, Any]:
    relay.write(change)
    status, body = relay.admin("/reload", "POST")
    told: dict[str, Any] = json.loads(body)
    assert (status == 200) is told["accepted"], told
    return told


def stopped(relay: Relay, timeout_s: float = 5.0) -> int:
    assert relay.process is not None
    return relay.process.wait(timeout_s)


def term(relay: Relay) -> None:
    os.kill(relay.pid, signal.SIGTERM)


def text_route(body: str, name: str = "all") -> dict[str, Any]:
    return {"name": name, "match": {"prefix": "/"}, "respond": {"body": body}}


def ask(relay: Relay, target: bytes = b"/") -> Message:
    with relay.client() as client:
        return client.ask(request(target, b"Connection: close"))


# ---- reload


def test_a_reload_changes_the_routes_and_raises_the_generation(alone: Relay) -> None:
    told = reload(alone, {"routes": [text_route("second")]})
    assert told["generation"] == 2
    assert ask(alone).body == b"second"
    assert alone.status()["generation"] == 2
    assert alone.record(route="all")["generation"] == 2


def test_sighup_reloads_like_the_command(alone: Relay) -> None:
    alone.write({"routes": [text_route("by signal")]})
    alone.hup()
    until(lambda: alone.status()["generation"] == 2)
    assert ask(alone).body == b"by signal"


def test_a_stream_goes_on_over_a_reload_on_the_plan_it_entered_with(alone: Relay, upstream: Upstream) -> None:
    upstream.script = held = Held()
    with alone.client() as client:
        client.send(request())
        message = client.head_of_answer()
        assert held.began.wait(60)
        assert reload(alone, {"routes": [text_route("new")], "upstreams": {"up": None}})["accepted"]
        assert ask(alone).body == b"new"
        status = alone.status()
        assert [one["generation"] for one in status["exchanges"]] == [1]
        assert status["upstreams"] == []
        held.go.set()
        client.body(message, until_close=False)
    assert message.body == b"data: one\n\ndata: two\n\n"
    assert alone.record(generation=1, outcome="complete")["bytes_out"] > 0


def test_a_client_connection_survives_a_reload(alone: Relay) -> None:
    with alone.client() as client:
        assert client.ask(request()).status == 200
        reload(alone, {"routes": [text_route("after")]})
        assert client.ask(request()).body == b"after"


def test_an_unchanged_upstream_keeps_its_connections(alone: Relay, upstream: Upstream) -> None:
    ask(alone)
    assert upstream.connections == 1
    reload(alone, {"routes": [{"name": "renamed", "match": {"prefix": "/"}, "upstream": "up"}]})
    ask(alone)
    assert upstream.connections == 1


def test_a_changed_upstream_is_used_at_once(alone: Relay, upstream: Upstream) -> None:
    ask(alone)
    with Upstream() as second:
        second.script = says(b"second")
        reload(alone, {"upstreams": {"up": {"endpoints": [second.url]}}})
        assert ask(alone).body == b"second"


def test_a_refused_reload_changes_nothing_and_says_so(alone: Relay) -> None:
    before = ask(alone).status
    told = reload(alone, {"routes": [{"name": "all", "upstream": "nobody"}], "listerners": {}})
    assert told["accepted"] is False
    text = "\n".join(told["findings"])
    assert "nobody" in text
    assert "listerners" in text
    assert str(alone.file) in text
    status = alone.status()
    assert status["generation"] == 1
    assert status["refused"]["findings"] == told["findings"]
    assert ask(alone).status == before
    assert b"relayd_config_rejected 1" in alone.admin("/metrics")[1]
    assert b"reload_refused" in alone.error_file.read_bytes()
    alone.config.pop("listerners")
    assert reload(alone, {"routes": [text_route("whole again")]})["accepted"]
    assert alone.status()["refused"] is None
    assert b"relayd_config_rejected 0" in alone.admin("/metrics")[1]


def test_a_refused_sighup_is_told_in_log_status_and_gauge(alone: Relay) -> None:
    alone.file.write_text("listeners: [")
    alone.hup()
    until(lambda: alone.status()["refused"] is not None)
    assert b"config_refused" in alone.error_file.read_bytes()
    assert ask(alone).status == 200


def test_a_listener_that_cannot_be_bound_refuses_the_reload_and_leaves_nothing_open(alone: Relay) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free = free_port()
        before = alone.descriptors()
        told = reload(alone, {"listeners": {
            "other": {"address": f"127.0.0.1:{free}"}, "third": {"address": f"127.0.0.1:{taken.getsockname()[1]}"},
        }})
        assert told["accepted"] is False
        assert "in use" in told["findings"][0]
        until(lambda: alone.descriptors() <= before)
        with pytest.raises(OSError):
            connect(("127.0.0.1", free), timeout_s=1)
    assert ask(alone).status == 200


def test_a_changed_listener_is_rebound(alone: Relay) -> None:
    old, new = alone.port, free_port()
    reload(alone, {"listeners": {"public": {"address": f"127.0.0.1:{new}"}}})
    with Client(("127.0.0.1", new)) as client:
        assert client.ask(request()).status == 200
    with pytest.raises(OSError):
        connect(("127.0.0.1", old), timeout_s=1)


def test_no_request_is_lost_while_reloads_follow_one_another(alone: Relay) -> None:
    done, seen, faults = threading.Event(), [0], []

    def load() -> None:
        while not done.is_set():
            try:
                if ask(alone).status != 200:
                    faults.append("status")
            except (OSError, Closed) as fault:
                faults.append(repr(fault))
            seen[0] += 1

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(10):
        assert reload(alone, {"headers": {"proxy_by": f"X-Number-{number}"}})["accepted"]
    done.set()
    for thread in threads:
        thread.join(60)
    assert not faults, faults[:5]
    assert seen[0] > 10
    assert alone.status()["generation"] == 11


def test_reloads_that_come_during_a_reload_are_done_one_after_the_other(alone: Relay) -> None:
    for _ in range(5):
        alone.hup()
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(alone.admin("/reload", "POST")[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [200] * 4
    generations = re.findall(rb"reloaded .*generation=(\d+)", alone.error_file.read_bytes())
    assert generations and {int(number) for number in generations} == {1}, "nothing changed in the file"


def test_sighup_opens_the_access_log_again(alone: Relay) -> None:
    ask(alone, b"/before")
    alone.record(path="/before")
    rotated = alone.access_file.with_suffix(".1")
    alone.access_file.rename(rotated)
    alone.hup()
    until(alone.access_file.exists)
    ask(alone, b"/after")
    alone.record(path="/after")
    assert b"/after" not in rotated.read_bytes()


def test_retire_timeout_ends_what_stays_too_long_on_an_old_plan(upstream: Upstream, folder: Path) -> None:
    upstream.script = held = Held()
    with Relay(folder, upstream.url, {"daemon": {"retire_timeout": "300ms"}}) as relay, relay.client() as client:
        client.send(request())
        client.head_of_answer()
        assert held.began.wait(60)
        reload(relay, {"headers": {"proxy_by": "X-Other"}})
        record = relay.record(generation=1)
        assert (record["code"], record["outcome"]) == ("stopped", "admin.transfer")
        held.go.set()


def test_relayd_reload_prints_what_changes(alone: Relay) -> None:
    alone.write({"routes": [text_route("x", "fresh")]})
    done = cli("reload", "-c", str(alone.file))
    assert done.returncode == 0, done.stderr
    assert "fresh" in done.stdout
    assert "generation 2" in done.stdout


def test_relayd_reload_prints_every_fault_and_fails(alone: Relay) -> None:
    alone.file.write_text(alone.file.read_text().replace('"routes"', '"rutes"').replace('"daemon"', '"demon"'))
    done = cli("reload", "-c", str(alone.file))
    assert done.returncode == 1
    faults = [line for line in done.stderr.splitlines() if ": error:" in line]
    assert len(faults) >= 2
    assert all(line.startswith(str(alone.file)) for line in faults)
    assert "generation 1 stays" in done.stderr


def test_a_secret_is_in_no_byte_of_diff_log_status_or_metrics(alone: Relay, upstream: Upstream) -> None:
    key = alone.folder / "key"
    key.write_text(KEY)
    alone.write({"upstreams": {"up": {"auth": {"bearer": {"file": str(key)}}}}})
    first = cli("reload", "-c", str(alone.file))
    key.write_text(KEY + "rotated")
    second = cli("reload", "-c", str(alone.file))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "changed" in second.stdout
    ask(alone)
    assert upstream.request().get("authorization") == f"Bearer {KEY}rotated".encode()
    shown = first.stdout + first.stderr + second.stdout + second.stderr + cli("status", "-c", str(alone.file)).stdout
    shown += alone.output().decode() + json.dumps(alone.status()) + alone.admin("/metrics")[1].decode()
    assert KEY not in shown


# ---- stop


def test_an_idle_relayd_stops_at_once(made: Made) -> None:
    relay = made({"daemon": {"drain_timeout": "1h"}}).start()
    with relay.client() as client:
        client.ask(request())
        term(relay)
        assert stopped(relay) == 0
        assert client.ended()
    assert not os.path.exists(relay.admin_path)


def test_a_stream_finishes_while_newcomers_are_refused(upstream: Upstream, made: Made) -> None:
    upstream.script = held = Held()
    relay = made({"daemon": {"drain_timeout": "1h"}}).start()
    with relay.client() as client:
        client.send(request())
        message = client.head_of_answer()
        assert held.began.wait(60)
        term(relay)
        until(lambda: relay.admin("/ready")[0] == 503)
        with pytest.raises(OSError):
            connect(relay.address, timeout_s=1)
        assert relay.status()["phase"] == "draining"
        assert relay.admin("/health")[0] == 200
        held.go.set()
        client.body(message, until_close=False)
        assert message.body.endswith(b"two\n\n")
    assert stopped(relay) == 0


def test_the_drain_ends_with_its_timeout_and_the_client_sees_a_broken_end(upstream: Upstream, made: Made) -> None:
    upstream.script = held = Held()
    relay = made({"daemon": {"drain_timeout": "300ms"}}).start()
    with relay.client() as client:
        client.send(request())
        message = client.head_of_answer()
        assert held.began.wait(60)
        began = time.monotonic()
        term(relay)
        client.body(message, until_close=False)
        assert not message.complete
        assert stopped(relay) == 0
        assert time.monotonic() - began > 0.25
    held.go.set()
    assert relay.record(code="stopped")["outcome"] == "admin.transfer"


def test_a_second_signal_ends_at_once(upstream: Upstream, made: Made) -> None:
    upstream.script = held = Held()
    relay = made({"daemon": {"drain_timeout": "1h"}}).start()
    with relay.client() as client:
        client.send(request())
        client.head_of_answer()
        assert held.began.wait(60)
        term(relay)
        until(lambda: relay.admin("/ready")[0] == 503)
        term(relay)
        assert stopped(relay) == 0
    held.go.set()
    assert relay.record(code="stopped")


# ---- start


def test_a_configuration_with_faults_does_not_start_and_says_them_all(folder: Path) -> None:
    file = folder / "relayd.yaml"
    file.write_text("listeners: {public: {adress: '127.0.0.1:0'}}\nroutes: [{name: a, upstream: nobody}]\n")
    done = cli("run", "-c", str(file))
    assert done.returncode == 78
    assert "adress" in done.stderr
    assert "nobody" in done.stderr


def test_a_port_in_use_is_named_with_who_holds_it(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        relay = Relay(folder, "http://127.0.0.1:1", {"listeners": {"public": {"address": f"127.0.0.1:{port}"}}})
        relay.write()
        done = cli("run", "-c", str(relay.file))
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert f"(pid {os.getpid()})" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_relayd_does_not_take_the_admin_socket_of_the_first(alone: Relay, upstream: Upstream) -> None:
    other = Relay(alone.folder / "other", upstream.url, {"admin": {"address": f"unix:{alone.admin_path}"}})
    other.write()
    done = cli("run", "-c", str(other.file))
    assert done.returncode == 1
    assert alone.admin_path in done.stderr
    assert alone.status()["generation"] == 1


def test_a_stale_admin_socket_is_replaced(upstream: Upstream, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "admin.sock"))
    with Relay(folder, upstream.url) as relay:
        assert relay.status()["phase"] == "serving"


def test_the_service_manager_is_told_of_every_phase(made: Made, folder: Path) -> None:
    path = str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(60)
        relay = made({}, {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"}).start()
        heard: list[str] = []

        def wait_for(word: str) -> None:
            while not any(word in line for line in heard[-1:]):
                heard.append(manager.recv(4096).decode())

        wait_for("READY=1")
        assert "STATUS=generation 1" in heard[-1]
        wait_for("WATCHDOG=1")
        reload(relay, {})
        wait_for("RELOADING=1")
        assert re.search(r"MONOTONIC_USEC=\d+", heard[-1])
        wait_for("READY=1")
        term(relay)
        wait_for("STOPPING=1")
        assert stopped(relay) == 0


def test_sockets_of_the_service_manager_are_served_and_the_others_closed(made: Made) -> None:
    relay = made({"listeners": {"public": {"address": "systemd:web"}}})
    relay.write()
    wanted, unwanted = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    relay.address = wanted.getsockname()[:2]
    program = (
        "import os, sys; a, b = map(int, sys.argv[1:3]); os.dup2(a, 103); os.dup2(b, 104); os.dup2(103, 3); os.dup2(104, 4);"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2', LISTEN_FDNAMES='other:web');"
        "os.execv(sys.executable, [sys.executable, '-m', 'relayd', 'run', '-c', sys.argv[3]])"
    )
    with wanted, unwanted, open(relay.error_file, "ab") as errors:
        numbers = [str(unwanted.fileno()), str(wanted.fileno())]
        relay.process = subprocess.Popen(
            [sys.executable, "-c", program, *numbers, str(relay.file)], stderr=errors, stdout=subprocess.DEVNULL,
            pass_fds=(unwanted.fileno(), wanted.fileno()), cwd=ROOT,
        )
        relay.wait_ready()
        assert ask(relay).status == 200
        assert ask(relay).status == 200  # the second one would hang on a blocking socket
        assert b"socket_closed" in relay.error_file.read_bytes()
        assert relay.stop() == 0


def test_relayd_reload_finds_the_daemon_when_the_file_names_another_admin_socket(alone: Relay) -> None:
    moved = str(alone.folder / "moved.sock")
    alone.write({"admin": {"address": f"unix:{moved}"}})
    done = cli("reload", "-c", str(alone.file))
    assert done.returncode == 0, done.stderr
    assert not os.path.exists(alone.admin_path)
    alone.admin_path = moved
    assert alone.status()["generation"] == 2


def test_relayd_status_tells_people_and_programs(alone: Relay, upstream: Upstream) -> None:
    upstream.script = held = Held()
    with alone.client() as client:
        client.send(request(b"/long?key=" + KEY.encode()))
        client.head_of_answer()
        assert held.began.wait(60)
        told = cli("status", "-c", str(alone.file))
        program = json.loads(cli("status", "--json", "-c", str(alone.file)).stdout)
        held.go.set()
    assert told.returncode == 0
    assert "GET /long" in told.stdout
    assert "\x1b" not in told.stdout
    assert KEY not in told.stdout
    (one,) = program["exchanges"]
    assert (one["room"], one["route"], one["upstream"]) == ("transfer", "all", "up")
    assert one["age_s"] > 0


def test_commands_say_when_nobody_answers(folder: Path) -> None:
    file = folder / "relayd.yaml"
    file.write_text(f"admin:\n  address: unix:{folder}/nobody.sock\n")
    for verb in ("reload", "status"):
        done = cli(verb, "-c", str(file))
        assert done.returncode == 1
        assert f"{folder}/nobody.sock" in done.stderr
        assert "Traceback" not in done.stderr
