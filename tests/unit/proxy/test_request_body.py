"""The request body: whole, streamed, buffered, replayed."""

from __future__ import annotations

import collections
from typing import Any

import pytest

from relayd.errors import ExchangeError
from relayd.limits.request_buffers import RequestBuffers
from relayd.proxy.request_body import HIGH, LOW, RequestBody
from tests.unit.proxy.fakes import Client


class Transfer:
    """The part of a slot that a body uses."""

    def __init__(self) -> None:
        self.queue: collections.deque[bytes] = collections.deque()
        self.read_at = 0.0
        self.done = False

    @property
    def queued(self) -> int:
        return sum(map(len, self.queue))

    def feed(self, data: bytes, last: bool = False) -> None:
        self.queue.append(data)
        self.done = last


class BodyOwner:
    """The owner of the body."""

    def fail(self, fault: ExchangeError) -> None:
        raise AssertionError(fault)


def streamed() -> tuple[RequestBody, Client, Any]:
    client = Client()
    return RequestBody(client, RequestBuffers(), None, True), client, Transfer()


@pytest.mark.parametrize(("data", "present", "whole", "complete"), [
    (None, False, True, True), (b"x", True, True, True), (None, True, False, False),
])
def test_what_is_there_from_the_beginning_is_whole(data: bytes | None, present: bool, whole: bool, complete: bool) -> None:
    body = RequestBody(Client(), RequestBuffers(), data, present)
    assert (body.whole, body.complete) == (whole, complete)


def test_pieces_that_come_before_a_transfer_wait_with_the_client_paused() -> None:
    body, client, transfer = streamed()
    body.receive(b"a", False, None, True)
    body.receive(b"b", True, None, True)
    assert client.ended == ["pause"]
    body.attach(transfer)
    assert list(transfer.queue) == [b"ab"] and transfer.done


def test_a_body_that_arrives_while_a_phase_waits_is_whole_afterwards() -> None:
    body, client, _ = streamed()
    body.hold()
    body.receive(b"a", False, None, False)
    body.receive(b"b", True, None, False)
    assert not body.whole and client.ended == ["pause"]
    body.end_hold()
    assert body.whole and body.data == b"ab" and not body.is_held


def test_what_arrived_while_a_phase_waited_is_buffered() -> None:
    body, client, _ = streamed()
    ended: list[bytes | None] = []
    body.hold()
    body.receive(b"a", False, None, False)
    body.end_hold()
    body.start_buffering(0, lambda: ended.append(body.data), BodyOwner(), None)
    body.receive(b"b", False, None, False)  # in order, also before the replay
    body.replay_held()
    assert client.ended == ["pause", "resume"] and not ended
    body.receive(b"c", True, None, False)
    assert ended == [b"abc"]


def test_what_arrived_while_a_phase_waited_is_bounded() -> None:
    body, _, _ = streamed()
    body.hold()
    body.receive(b"abc", False, None, False)
    body.start_buffering(2, lambda: None, BodyOwner(), None)
    with pytest.raises(ExchangeError):
        body.replay_held()


def test_what_arrived_while_a_phase_waited_goes_to_the_transfer() -> None:
    body, client, transfer = streamed()
    body.hold()
    body.receive(b"a", False, None, False)
    body.end_hold()
    body.attach(transfer)
    assert list(transfer.queue) == [b"a"] and client.ended == ["pause", "resume"]
    body.receive(b"b", True, transfer, True)
    assert list(transfer.queue) == [b"a", b"b"] and transfer.done


def test_a_body_that_is_whole_or_buffered_is_not_held() -> None:
    whole = RequestBody(Client(), RequestBuffers(), b"x", True)
    whole.hold()
    body, _, _ = streamed()
    body.start_buffering(0, lambda: None, BodyOwner(), None)
    body.hold()
    assert not whole.is_held and not body.is_held


def test_an_endpoint_that_does_not_read_holds_back_the_client() -> None:
    body, client, transfer = streamed()
    body.attach(transfer)
    body.receive(b"x" * (HIGH + 1), False, transfer, True)
    assert client.ended == ["pause"] and body.paused
    transfer.queue.clear()
    transfer.queue.append(b"x" * LOW)
    body.on_drained(transfer)
    assert body.paused
    transfer.queue.clear()
    body.on_drained(transfer)
    assert client.ended == ["pause", "resume"]


def test_what_the_endpoint_has_not_read_can_be_sent_once_more() -> None:
    body, _, transfer = streamed()
    body.attach(transfer)
    body.receive(b"a", False, transfer, True)
    assert body.detach(transfer)
    body.receive(b"b", True, None, True)
    second: Any = Transfer()
    body.attach(second)
    assert b"".join(second.queue) == b"ab" and second.done


def test_what_the_endpoint_has_read_cannot() -> None:
    body, _, transfer = streamed()
    body.attach(transfer)
    body.receive(b"a", False, transfer, True)
    transfer.read_at = 1.0
    assert not body.detach(transfer)


def test_a_changed_body_is_changed_once_however_often_it_is_sent() -> None:
    class Louder:
        def feed(self, data: bytes, last: bool) -> bytes:
            return data.upper() + (b"!" if last else b"")

    body, _, transfer = streamed()
    body.transform = Louder()
    body.attach(transfer)
    body.receive(b"a", False, transfer, True)
    assert list(transfer.queue) == [b"A"] and body.detach(transfer)
    second: Any = Transfer()
    body.transform = Louder()
    body.attach(second)
    body.receive(b"b", True, second, True)
    assert b"".join(second.queue) == b"AB!"


def test_a_gathered_body_goes_on_when_it_is_whole() -> None:
    body, _, _ = streamed()
    gathered: list[bytes | None] = []
    body.start_buffering(10, lambda: gathered.append(body.data), BodyOwner(), None)
    body.receive(b"a", False, None, False)
    assert body.is_buffering and not gathered
    body.receive(b"b", True, None, False)
    assert gathered == [b"ab"] and body.whole and not body.is_buffering


def test_a_probe_ends_the_gathering_early_and_nothing_is_lost() -> None:
    class Enough:
        reads_all = False

        def feed(self, data: bytes) -> bool:
            return b"!" in data

    body, _, transfer = streamed()
    gathered: list[bool] = []
    body.start_buffering(10, lambda: gathered.append(body.whole), BodyOwner(), None, Enough())
    body.receive(b"a", False, None, False)
    body.receive(b"b!", False, None, False)
    assert gathered == [False]
    body.attach(transfer)
    body.receive(b"c", True, transfer, True)
    assert b"".join(transfer.queue) == b"ab!c"


def test_a_gathered_body_has_a_bound() -> None:
    body, _, _ = streamed()
    body.start_buffering(3, lambda: None, BodyOwner(), None)
    with pytest.raises(ExchangeError) as refused:
        body.receive(b"abcd", False, None, False)
    assert refused.value.kind.code == "body_too_large"
