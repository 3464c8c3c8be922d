"""Spend, through the real process: what is written, what survives, and what `relayd spend` shows."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.dialects.backend import KEY, KEY_NAME, Backend
from tests.functional.harness.dialects.chat_backend import Chat
from tests.functional.harness.dialects.said import Say
from tests.functional.harness.faults import metric, reload, run, until
from tests.functional.harness.message import Closed, request
from tests.functional.harness.relay import ROOT, Relay

ONE = Decimal("0.000011") + Decimal("0.00007")  # 11 tokens of input, 7 of output, 3 of the input cached at the same price
PRICES = "currency: USD\nsmall: {input: 1, output: 10}\n"
BODY = json.dumps({"model": "small", "messages": [{"role": "user", "content": "x"}]}).encode()


@contextlib.contextmanager
def relay_in(folder: Path, state: Path | None, prices: str = PRICES, **change: Any) -> Iterator[Relay]:
    """A relayd before a chat back-end, with prices and a state directory."""
    (folder / "prices.yaml").write_text(prices)
    key = folder / "key"
    key.write_text("sk-team")
    key.chmod(0o600)
    with Backend(Chat(False)) as back:
        config: dict[str, Any] = {
            "upstreams": {"up": None, "chat": back.section}, "prices": "prices.yaml",
            "consumers": {"team": {"bearer": {"file": str(key)}}},
            "routes": [{"name": "llm", "upstream": "chat"}],
        } | change
        environment = {"STATE_DIRECTORY": str(state) if state else "", **back_environment()}
        with Relay(folder, "http://127.0.0.1:1", config, environment=environment) as running:
            yield running


def back_environment() -> dict[str, str]:
    return {KEY_NAME: KEY}


def ask(relay: Relay, body: bytes = BODY, *lines: bytes) -> int:
    with relay.client() as client:
        fields = (b"Content-Type: application/json", b"Authorization: Bearer sk-team", *lines)
        return client.ask(request(b"/v1/chat/completions", *fields, method=b"POST", body=body)).status


def spend(state: Path, *words: str) -> tuple[int, str]:
    """What `relayd spend` writes."""
    done = subprocess.run(
        [sys.executable, "-m", "relayd", "spend", "--state", str(state), *words], cwd=ROOT, capture_output=True, text=True,
        timeout=60, check=False,
    )
    return done.returncode, done.stdout + done.stderr


def spent(state: Path, *words: str) -> list[dict[str, Any]]:
    """What `relayd spend` shows."""
    code, out = spend(state, "--json", *words)
    assert code == 0, out
    found: list[dict[str, Any]] = json.loads(out)
    return found


def requests_written(state: Path) -> int:
    path = state / "ledger.sqlite"
    if not path.exists():
        return 0
    file = sqlite3.connect(path)
    try:
        return int(file.execute("SELECT coalesce(sum(requests), 0) FROM spend").fetchone()[0])
    except sqlite3.Error:
        return 0
    finally:
        file.close()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path


def test_spend_is_added_up_over_a_restart(tmp_path: Path, state: Path) -> None:
    for _ in range(2):
        with relay_in(tmp_path, state) as relay:
            for _ in range(3):
                assert ask(relay) == 200
    (row,) = spent(state, "--by", "day,consumer,group,route,upstream,model")
    assert row["cost"] == f"{ONE * 6}".rstrip("0")
    assert {key: row[key] for key in ("consumer", "group", "route", "upstream", "model", "currency")} == {
        "consumer": "team", "group": "", "route": "llm", "upstream": "chat", "model": "small", "currency": "USD",
    }
    assert [row[key] for key in ("requests", "unpriced", "input", "output", "cached_read")] == [6, 0, 66, 42, 18]
    assert len(row["day"]) == 10


def test_the_table_and_csv_have_the_same_sums(tmp_path: Path, state: Path) -> None:
    with relay_in(tmp_path, state) as relay:
        ask(relay)
        ask(relay, BODY.replace(b"small", b"large"))
    _, out = spend(state, "--by", "model")
    assert [line.split() for line in out.splitlines()[:3]] == [
        ["MODEL", "REQUESTS", "INPUT", "CACHED", "WRITTEN", "OUTPUT", "UNPRICED", "ESTIMATED", "COST"],
        ["large", "1", "11", "3", "0", "7", "1", "0", "0", "USD"], ["small", "1", "11", "3", "0", "7", "0", "0", f"{ONE}", "USD"],
    ]
    assert out.splitlines()[3] == f"total: 2 requests, {ONE} USD"
    _, out = spend(state, "--by", "none", "--csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["requests"], row["unpriced"], row["cost"], row["currency"]) == ("2", "1", f"{ONE}", "USD")
    assert spent(state, "--until", "yesterday") == []
    assert spend(state, "--since", "2026-13-01")[0] == 2
    assert spend(state, "--by", "colour")[0] == 2
    assert spend(tmp_path / "nowhere")[0] == 1


def test_the_sums_of_all_instances_of_a_host_are_shown_together(tmp_path: Path, state: Path) -> None:
    for name in ("", "one", "two"):
        (state / name).mkdir(exist_ok=True)
        with relay_in(tmp_path, state / name) as relay:
            assert ask(relay) == 200
    assert spent(state)[0]["requests"] == 3
    assert spent(state / "two")[0]["requests"] == 1


def test_two_processes_add_to_one_file(tmp_path: Path, state: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with relay_in(tmp_path / "a", state) as first, relay_in(tmp_path / "b", state) as second:
        for _ in range(10):
            assert ask(first) == ask(second) == 200
        until(lambda: requests_written(state) == 20)
    (row,) = spent(state)
    assert Decimal(row["cost"]) == 20 * ONE


def test_a_killed_relayd_loses_at_most_one_interval(tmp_path: Path, state: Path) -> None:
    """Every request that was answered before the last interval began is in the file."""
    answered: list[int] = []
    stop = threading.Event()

    def load(relay: Relay) -> None:
        fields = (b"Connection: close", b"Content-Type: application/json", b"Authorization: Bearer sk-team")
        while not stop.is_set():
            with contextlib.suppress(OSError, Closed), relay.client() as client:
                message = client.ask(request(b"/v1/chat/completions", *fields, method=b"POST", body=BODY))
                if message.status == 200:
                    answered.append(message.status)

    with relay_in(tmp_path, state) as relay:
        threads = [threading.Thread(target=load, args=(relay,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: requests_written(state) > 200)
        certain = len(answered)
        for _ in range(2):  # the first of them may have begun before
            before = requests_written(state)
            until(lambda before=before: requests_written(state) > before)  # type: ignore[misc]
        os.kill(relay.pid, signal.SIGKILL)
        stop.set()
        for thread in threads:
            thread.join()
        assert relay.process is not None
        relay.process.wait()
        relay.process = None
        written = requests_written(state)
        assert certain <= written <= len(answered) + len(threads)
        (row,) = spent(state)
        assert row["requests"] == written
        assert Decimal(row["cost"]) == ONE * written


def budgeted(amount: Decimal | int) -> dict[str, Any]:
    return {"routes": [{"name": "llm", "upstream": "chat", "budget": [{"amount": str(amount), "per": "total"}]}]}


def budget(relay: Relay) -> dict[str, Any]:
    (found,) = json.loads(relay.admin("/limits")[1])["limits"]
    assert isinstance(found, dict)
    return found


def test_the_budget_of_a_killed_relayd_goes_on_where_its_spend_was_written(tmp_path: Path, state: Path) -> None:
    answered = 0
    with relay_in(tmp_path, state, **budgeted(9)) as relay:
        while requests_written(state) < 20:
            assert ask(relay) == 200
            answered += 1
        certain = requests_written(state)
        for _ in range(5):
            assert ask(relay) == 200
        os.kill(relay.pid, signal.SIGKILL)
        assert relay.process is not None
        relay.process.wait()
        relay.process = None
    written = requests_written(state)
    assert certain <= written <= answered + 5
    with relay_in(tmp_path, state, **budgeted(9)) as relay:
        assert Decimal(budget(relay)["used"]) == ONE * written, "both are written in one transaction"
        assert ask(relay) == 200
        until(lambda: Decimal(budget(relay)["used"]) == ONE * (written + 1))
    with relay_in(tmp_path, state, **budgeted(ONE * (written + 1))) as relay:
        assert (budget(relay)["left"], ask(relay)) == ("0", 429)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A state directory on a file system of 512 KiB."""
    state = tmp_path / "disk"
    state.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(state)], capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a tmpfs")
    yield state
    subprocess.run(["umount", "-l", str(state)], check=True)


def test_a_full_disk_loses_nothing(tmp_path: Path, small_disk: Path) -> None:
    with relay_in(tmp_path, small_disk) as relay:
        ask(relay)
        until(lambda: requests_written(small_disk) == 1)
        filler = small_disk / "filler"
        with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * 4096)
        for number in range(200):
            assert ask(relay, BODY.replace(b"small", b"small-%d" % number)) == 200
        until(lambda: b"ledger_failed" in relay.output())
        assert ask(relay) == 200
        filler.unlink()
        until(lambda: requests_written(small_disk) == 202)
        until(lambda: b"ledger_written" in relay.output())


def test_a_read_only_disk_is_reported_and_loses_nothing(tmp_path: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with relay_in(tmp_path, small_disk) as relay:
        assert ask(relay) == 200
        until(lambda: metric(relay, "relayd_spend_failed_total", cause="read_only"))
        assert ask(relay) == 200
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        until(lambda: requests_written(small_disk) == 2)


def test_a_locked_file_delays_only_the_writing(tmp_path: Path, state: Path) -> None:
    with relay_in(tmp_path, state) as relay:
        ask(relay)
        until(lambda: requests_written(state) == 1)
        other = sqlite3.connect(state / "ledger.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        spans, last = list[float](), time.monotonic()
        while metric(relay, "relayd_spend_failed_total", cause="locked") < 2:
            assert ask(relay) == 200
            now = time.monotonic()
            spans.append(now - last)
            last = now
        # The thread waits for a second each time. Requests that waited with it would spend most of the time so.
        assert sum(span for span in spans if span >= 1) < sum(spans) / 2
        assert b"fuser" in relay.output()
        other.execute("ROLLBACK")
        other.close()
        until(lambda: requests_written(state) == 1 + len(spans))


def test_a_damaged_file_is_set_aside_with_its_date_and_counting_goes_on(tmp_path: Path, state: Path) -> None:
    damage = b"this is no database" * 500
    (state / "ledger.sqlite").write_bytes(damage)
    with relay_in(tmp_path, state) as relay:
        assert ask(relay) == 200
        until(lambda: requests_written(state) == 1)
        (aside,) = state.glob("ledger.sqlite.20*Z")
        assert aside.read_bytes() == damage
        until(lambda: b"ledger_set_aside" in relay.output())
        assert str(aside).encode() in relay.output()


def test_a_file_that_is_removed_while_relayd_runs_is_begun_anew(tmp_path: Path, state: Path) -> None:
    with relay_in(tmp_path, state) as relay:
        ask(relay)
        until(lambda: requests_written(state) == 1)
        (state / "ledger.sqlite").unlink()
        for _ in range(3):
            ask(relay)
        until(lambda: requests_written(state) == 3)


def test_without_a_state_directory_costs_are_logged_and_no_file_is_written(tmp_path: Path) -> None:
    with relay_in(tmp_path, None) as relay:
        assert ask(relay) == 200
        assert relay.record(status=200)["cost"] == f"{ONE}"
    assert not list(tmp_path.rglob("ledger*"))


def test_without_prices_nothing_is_recorded(tmp_path: Path, state: Path) -> None:
    with relay_in(tmp_path, state, prices="{}") as relay:
        relay.write({"prices": None})
        reload(relay, {})
        assert ask(relay) == 200
        assert "cost" not in relay.record(status=200)
    assert not (state / "ledger.sqlite").exists()


def test_an_exchange_keeps_the_prices_with_which_it_began(tmp_path: Path, state: Path) -> None:
    gate = threading.Event()
    (tmp_path / "prices.yaml").write_text(PRICES)
    with Backend(Chat(False)) as back:
        back.brain = lambda asked: Say(("a", "b"), gate=gate, gate_after=1)
        config: dict[str, Any] = {"upstreams": {"up": None, "chat": back.section}, "prices": "prices.yaml", "routes": [{"name": "llm", "upstream": "chat"}]}
        with Relay(tmp_path, "http://127.0.0.1:1", config, environment=back_environment()) as relay, relay.client() as client:
            body = json.dumps({"model": "small", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
            client.send(request(b"/v1/chat/completions", b"Content-Type: application/json", method=b"POST", body=body))
            until(lambda: back.asked)
            (tmp_path / "prices.yaml").write_text("currency: EUR\nsmall: {input: 2, output: 20}\n")
            code, out, err = run(relay, "reload")
            assert code == 0, err
            assert "~ prices.models.small.input: 1 -> 2" in out and "~ prices.currency: USD -> EUR" in out
            back.brain = lambda asked: Say(("c",))
            ask(relay)
            assert relay.record(generation=2)["cost"] == f"{ONE * 2}"
            gate.set()
            client.answer(b"POST")
            old = relay.record(generation=1)
            assert (old["cost"], old["currency"]) == (f"{ONE}", "USD")


def test_a_typing_error_refuses_the_reload_and_the_old_prices_stay(tmp_path: Path, state: Path) -> None:
    with relay_in(tmp_path, state) as relay:
        (tmp_path / "prices.yaml").write_text("currency: USD\nsmall:\n  input: 1\n  outptu: 9\n")
        code, _, err = run(relay, "reload")
        assert code == 1
        assert f"{tmp_path}/prices.yaml:4:3: error: prices.models.small.outptu: unknown key" in err
        assert ask(relay) == 200
        assert relay.record(status=200)["cost"] == f"{ONE}"
        (tmp_path / "prices.yaml").write_text(PRICES)
