"""One attempt: recorded before it begins, and never at the cost of the certificate in use."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

pytest.importorskip("acme", reason="needs python3-acme")

from relayd import clock
from relayd.acme.client import Stopped
from relayd.acme.order import Orderer, examine
from relayd.acme.sharing import Alone
from relayd.acme.state import UNFINISHED, Record, State
from tests.aids.acme_proxy import AcmeProxy
from tests.aids.pebble import Pebble, needs_pebble
from tests.unit.acme.case import answering, spec

pytestmark = needs_pebble()


def orderer(state: State, stop: threading.Event | None = None) -> Orderer:
    return Orderer(state, os.environ, Alone(stop or threading.Event()))


def test_a_success_stores_the_certificate_and_forgets_failures(pebble: Pebble, state: State) -> None:
    with answering(pebble, state):
        record = orderer(state).attempt(spec(pebble, "a.example.org"), Record(failures=2, error="x", held={"u": 1.0}), 0.5)
    assert record == state.read_record("a.example.org")
    assert (record.failures, record.error, record.held, record.directory) == (0, "", {}, pebble.directory)
    leaf = examine(state, "a.example.org")
    assert leaf is not None and leaf.names == ("a.example.org",) and leaf.begins_s < record.renew_at < leaf.ends_s


@pytest.mark.parametrize("kind", ["tls-alpn-01", "dns-01"])
def test_a_failure_is_recorded_with_its_reason_and_pause(pebble: Pebble, state: State, tmp_path: Path, kind: str) -> None:
    hook = tmp_path / "hook"
    hook.write_text("#!/bin/sh\necho no zone; exit 1\n")
    hook.chmod(0o755)
    now = clock.wall()
    record = orderer(state).attempt(spec(pebble, "b.example.org", "http-01", kind, dns_hook=(str(hook),)), Record(failures=1), 0.0)
    assert record == state.read_record("b.example.org") and record.failures == 2
    assert ("no zone" if kind == "dns-01" else "could not verify b.example.org") in record.error, "the second challenge is used"
    assert now + 299 < record.next_try < clock.wall() + 301
    assert examine(state, "b.example.org") is None and not state.tls_challenges()


def test_a_directory_that_asked_for_a_pause_is_left_alone(pebble: Pebble, state: State) -> None:
    with AcmeProxy(pebble) as proxy:
        one = spec(pebble, "c.example.org", directory=(proxy.directory,))
        until = clock.wall() + 9999
        record = orderer(state).attempt(one, Record(held={proxy.directory: until}), 0.0)
        assert proxy.asked == [] and record.next_try == until and record.held == {proxy.directory: until}
        record = orderer(state).attempt(one, Record(held={proxy.directory: clock.wall() - 1}), 0.0)
        assert proxy.asked and record.held == {}


def test_a_stop_is_no_failure(pebble: Pebble, state: State) -> None:
    stop = threading.Event()
    stop.set()
    before = Record(failures=1)
    with pytest.raises(Stopped):
        orderer(state, stop).attempt(spec(pebble, "a.example.org"), before, 0.0)
    assert state.read_record("a.example.org") == before


def test_a_stop_while_a_hook_runs_is_no_failure(pebble: Pebble, state: State, tmp_path: Path) -> None:
    hook, started, stop = tmp_path / "hook", tmp_path / "started", threading.Event()
    os.mkfifo(started)
    hook.write_text(f"#!/bin/sh\n[ $1 = set ] && echo > {started} && exec sleep 60\n")
    hook.chmod(0o755)

    def end() -> None:
        started.read_bytes()  # returns when the hook runs
        stop.set()

    thread = threading.Thread(target=end)
    thread.start()
    before = Record(failures=1)
    with pytest.raises(Stopped):
        orderer(state, stop).attempt(spec(pebble, "h.example.org", "dns-01", dns_hook=(str(hook),)), before, 0.0)
    thread.join()
    assert state.read_record("h.example.org") == before


def test_a_crash_counts_as_a_failure(pebble: Pebble, state: State) -> None:
    class Crashed(BaseException):
        pass

    class Crashing(threading.Event):
        def is_set(self) -> bool:
            raise Crashed

    with pytest.raises(Crashed):
        orderer(state, Crashing()).attempt(spec(pebble, "a.example.org"), Record(), 0.0)
    record = state.read_record("a.example.org")
    assert (record.failures, record.error) == (1, UNFINISHED) and record.next_try > clock.wall() + 50


def test_nothing_is_ordered_if_the_state_cannot_be_written(pebble: Pebble, state: State) -> None:
    os.mkdir(f"{state.folder}/certificates/a.example.org.json.new")
    orders = pebble.orders()
    with pytest.raises(OSError):
        orderer(state).attempt(spec(pebble, "a.example.org"), Record(), 0.0)
    assert pebble.orders() == orders


def test_the_suggested_time_is_kept_while_it_lies_in_the_window(pebble: Pebble, state: State) -> None:
    with AcmeProxy(pebble) as proxy, answering(pebble, state):
        proxy.windows = [("2027-06-01T00:00:00Z", "2027-06-02T00:00:00Z")]
        one = spec(pebble, "d.example.org", directory=(proxy.directory,))
        record = orderer(state).attempt(one, Record(), 0.5)
        assert record.suggested and record.ask_at == pytest.approx(clock.wall() + 21600, abs=60)
        leaf = examine(state, "d.example.org")
        assert leaf is not None
        assert orderer(state).ask(one, record, leaf, 0.9).renew_at == record.renew_at
        proxy.windows = [("2027-07-01T00:00:00Z", "2027-07-02T00:00:00Z")]
        moved = orderer(state).ask(one, record, leaf, 0.9)
        assert moved.renew_at > record.renew_at and state.read_record("d.example.org") == moved
        proxy.windows = [("2099-07-01T00:00:00Z", "2099-07-02T00:00:00Z")]
        assert orderer(state).ask(one, moved, leaf, 0.9).renew_at < leaf.ends_s, "never after its end"
        proxy.windows = [("x", "y")]
        assert orderer(state).ask(one, moved, leaf, 0.9).renew_at == moved.renew_at, "a fault changes nothing"
        proxy.windows = []
        planned = orderer(state).ask(one, moved, leaf, 0.0)
        assert not planned.suggested and planned.renew_at == pytest.approx(leaf.begins_s + (leaf.ends_s - leaf.begins_s) * 2 / 3)


def test_a_damaged_certificate_is_set_aside_and_one_of_another_name_not_used(pebble: Pebble, state: State) -> None:
    state.write_certificate("a.example.org", b"damaged")
    assert examine(state, "a.example.org") is None and os.path.exists(state.certificate_file("a.example.org") + ".corrupt")
    with answering(pebble, state):
        orderer(state).attempt(spec(pebble, "a.example.org"), Record(), 0.0)
    os.rename(state.certificate_file("a.example.org"), state.certificate_file("b.example.org"))
    assert examine(state, "b.example.org") is None
    os.mkdir(state.certificate_file("c.example.org"))
    with pytest.raises(OSError):
        examine(state, "c.example.org")
