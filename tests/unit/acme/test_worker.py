"""The thread that orders: what it orders when, and what it survives."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

pytest.importorskip("acme", reason="needs python3-acme")

from relayd import clock
from relayd.acme.spec import CertificateSpec
from relayd.acme.state import Record, State
from relayd.acme.worker import Standing, Worker
from tests.aids.pebble import Pebble, needs_pebble
from tests.unit.acme.case import answering, spec

pytestmark = needs_pebble()


class Case:
    """A worker, and the standings that it has reported."""

    def __init__(self, state: State) -> None:
        self.state, self.reported = state, queue.SimpleQueue[Standing]()
        self.allowed = True
        self.worker = Worker(state, os.environ, self.reported.put, lambda: self.allowed)

    def until(self, wanted: Callable[[Standing], bool]) -> Standing:
        while not wanted(one := self.reported.get(timeout=60)):
            pass
        return one


@pytest.fixture
def case(state: State) -> Iterator[Case]:
    one = Case(state)
    yield one
    one.worker.stop()
    one.worker.join(60)


@pytest.fixture
def wanted(pebble: Pebble, state: State) -> Iterator[CertificateSpec]:
    with answering(pebble, state):
        yield spec(pebble, "a.example.org")


def test_a_missing_certificate_is_ordered_once_and_again_on_request(case: Case, wanted: CertificateSpec, pebble: Pebble) -> None:
    orders = pebble.orders()
    case.worker.apply((wanted,))
    first = case.until(lambda one: one.event == "issued")
    assert first.ends_s > first.record.renew_at > clock.wall() and first.urgency == ""
    case.worker.wake()
    case.until(lambda one: one.event == "")
    assert pebble.orders() == orders + 1
    case.worker.renew(["a.example.org"])
    case.until(lambda one: one.event == "issued")
    assert pebble.orders() == orders + 2


def test_what_a_reload_removes_while_another_one_is_ordered_is_not_ordered(case: Case, wanted: CertificateSpec, pebble: Pebble) -> None:
    other = spec(pebble, "removed.example.org")
    reload = [(wanted,)]

    def report(one: Standing) -> None:
        if reload:
            case.worker.renew([other.name])
            case.worker.apply(reload.pop())
        case.reported.put(one)

    case.worker._report = report
    case.worker.apply((wanted, other))
    case.until(lambda one: one.event == "issued")
    case.until(lambda one: one.event == "")  # the next round
    assert case.state.read_record(other.name) == Record()
    case.state.write_record(other.name, Record(next_try=clock.wall() + 9999))
    case.worker.apply((wanted, other))
    assert case.until(lambda one: one.name == other.name).record.failures == 0, "the request to renew it has gone with it"


def test_a_certificate_of_a_directory_that_is_not_used_any_more_is_replaced(case: Case, wanted: CertificateSpec, pebble: Pebble) -> None:
    case.worker.apply((wanted,))
    case.until(lambda one: one.event == "issued")
    record = case.state.read_record("a.example.org")
    case.state.write_record("a.example.org", replace(record, directory="https://staging.example/dir"))
    case.worker.wake()
    assert case.until(lambda one: one.event == "issued").record.directory == pebble.directory


def test_a_pause_is_kept_and_a_late_renewal_is_due(case: Case, wanted: CertificateSpec) -> None:
    case.state.write_record("a.example.org", Record(failures=3, next_try=clock.wall() + 600, error="x"))
    case.worker.apply((wanted,))
    one = case.until(lambda one: True)
    assert (one.event, one.urgency, one.ends_s) == ("", "error", 0.0)
    case.state.write_record("a.example.org", Record(failures=3, next_try=clock.wall() - 1, error="x"))
    case.worker.wake()
    case.until(lambda one: one.event == "issued")
    issued = case.state.read_record("a.example.org")
    case.state.write_record("a.example.org", replace(issued, renew_at=clock.wall() - 1))
    case.worker.wake()
    case.until(lambda one: one.event == "issued")


def test_the_authority_is_asked_when_its_time_has_come(case: Case, wanted: CertificateSpec) -> None:
    case.worker.apply((wanted,))
    case.until(lambda one: one.event == "issued")
    issued = case.state.read_record("a.example.org")
    case.state.write_record("a.example.org", replace(issued, ask_at=clock.wall() - 1))
    case.worker.wake()
    case.until(lambda one: one.record.ask_at > clock.wall())


def test_while_another_instance_has_the_lock_nothing_is_ordered(case: Case, wanted: CertificateSpec, pebble: Pebble) -> None:
    orders = pebble.orders()
    with State(case.state.folder).lock():
        case.worker.apply((wanted,))
        case.worker.join(0.5)
        assert pebble.orders() == orders
    case.until(lambda one: one.event == "issued")


def test_a_process_that_ends_orders_nothing(case: Case, wanted: CertificateSpec, pebble: Pebble) -> None:
    orders, case.allowed = pebble.orders(), False
    case.worker.apply((wanted,))
    case.until(lambda one: one.event == "")
    assert pebble.orders() == orders


def test_a_state_that_cannot_be_written_is_reported_and_tried_again_later(case: Case, wanted: CertificateSpec) -> None:
    blocking = f"{case.state.folder}/certificates/a.example.org.json.new"
    os.mkdir(blocking)
    case.worker.apply((wanted,))
    one = case.until(lambda one: one.event == "failed")
    assert one.urgency == "error" and case.state.folder in one.record.error and one.record.next_try > clock.wall() + 30
    os.rmdir(blocking)
    case.worker.renew(["a.example.org"])
    case.until(lambda one: one.event == "issued")


def test_the_fault_of_a_state_is_reported_until_its_pause_is_over(case: Case, wanted: CertificateSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look meanwhile, which reads what is on the disk, must not hide it: `relayd certs renew` waits for it."""
    case.worker.apply((wanted,))
    case.until(lambda one: one.event == "issued")
    reserve = case.state.reserve

    def full(name: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(case.state, "reserve", full)
    begun = clock.wall()
    case.worker.renew(["a.example.org"])
    failed = case.until(lambda one: one.event == "failed")
    case.worker.wake()
    looked = case.until(lambda one: one.event == "")
    assert failed.record == looked.record and "No space left" in looked.record.error
    assert looked.urgency == "error" and looked.record.tried_at >= begun and looked.ends_s > begun
    monkeypatch.setattr(case.state, "reserve", reserve)
    case.worker.renew(["a.example.org"])
    assert case.until(lambda one: one.event == "issued").record.error == ""
    case.worker.wake()
    assert case.until(lambda one: one.event == "").record.error == ""


def test_a_folder_that_cannot_be_made_is_a_reported_fault(tmp_path_factory: pytest.TempPathFactory, wanted: CertificateSpec) -> None:
    file = tmp_path_factory.mktemp("x") / "file"
    file.touch()
    one = Case(State(str(file / "acme")))
    one.worker.apply((wanted,))
    assert "NotADirectoryError" in one.until(lambda found: found.event == "fault").record.error
    one.worker.stop()
    one.worker.join(60)


def test_without_certificates_there_is_no_thread(case: Case) -> None:
    case.worker.apply(())
    case.worker.renew(["a"])
    case.worker.join(0.0)
    assert case.reported.empty()
