"""The event stream: events in order, a new connection with the id of the last event, actions, faults in words."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relayd.cli.top.feed import Feed, FeedEvent, Refused, whole_state
from tests.unit.cli.top.streaming import Streaming


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Streaming]:
    with Streaming(tmp_path) as serving:
        yield serving


def options(path: str) -> argparse.Namespace:
    return argparse.Namespace(socket=path, instance=None, config=None, timeout=5.0)


class Reader:
    """A feed whose events are waited for."""

    def __init__(self, path: str) -> None:
        self._woken = threading.Event()
        self.feed = Feed(options(path), self._woken.set)
        self.events: list[FeedEvent] = []

    def __enter__(self) -> Reader:
        self.feed.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.feed.close()

    def wait(self, condition: Callable[[FeedEvent], bool]) -> FeedEvent:
        while True:
            self._woken.clear()
            self.events += self.feed.taken()
            for one in self.events:
                if condition(one):
                    return one
            assert self._woken.wait(60), self.events


def test_events_arrive_in_order_and_a_new_stream_begins_after_the_last_one(server: Streaming) -> None:
    with Reader(server.path) as reader:
        server.event("state", {"x": 1}, 1)
        server.pieces.put(b":\n\n")
        server.event("change", {"x": 2}, 2)
        reader.wait(lambda one: one.kind == "change")
        assert [one.kind for one in reader.events] == ["session", "state", "change"]
        assert reader.events[0].data == {"may_write": True} and reader.events[1].data == {"x": 1}
        server.pieces.put(None)
        lost = reader.wait(lambda one: one.kind == "lost")
        assert lost.text == "relayd stops or is replaced"
        server.event("change", {"x": 3}, 3)
        reader.wait(lambda one: one.data == {"x": 3})
        assert server.last_ids == ["", "e-2"]


def test_an_action_is_answered_by_an_event(server: Streaming) -> None:
    with Reader(server.path) as reader:
        reader.feed.act("/streams/a/cancel")
        done = reader.wait(lambda one: one.kind == "done")
        assert (done.text, done.is_fault) == ("done", False) and "POST /streams/a/cancel" in server.asked
        server.action = (404, {"error": {"message": "No exchange in flight has the id 'a'."}})
        reader.feed.act("/streams/a/cancel")
        reader.wait(lambda one: one.is_fault and one.text == "No exchange in flight has the id 'a'.")
        server.action = (500, [])
        reader.feed.act("/streams/a/cancel")
        reader.wait(lambda one: one.is_fault and one.text.startswith("not done: "))


@pytest.mark.parametrize("status, words", [(503, "too many dashboards are open"), (404, "it may be an older one")])
def test_a_refused_stream_says_why_and_is_tried_again(server: Streaming, status: int, words: str) -> None:
    server.status = status
    with pytest.raises(Refused, match=words):
        whole_state(options(server.path))
    with Reader(server.path) as reader:
        assert words in reader.wait(lambda one: one.kind == "lost").text
        server.status = 200
        server.event("state", {}, 1)
        reader.wait(lambda one: one.kind == "state")


def test_the_state_is_read_once(server: Streaming) -> None:
    server.event("state", {"tables": {}}, 1)
    assert whole_state(options(server.path)) == {"tables": {}}
    for _ in range(2):  # for the stream before, too
        server.pieces.put(None)
    with pytest.raises(Refused, match="ended without a state"):
        whole_state(options(server.path))
    with pytest.raises(Refused, match="No such file"):
        whole_state(options(server.path + "x"))


def test_data_that_are_no_json_end_the_connection(server: Streaming) -> None:
    with Reader(server.path) as reader:
        server.pieces.put(b"event: state\ndata: {\n\n")
        assert "Expecting property name" in reader.wait(lambda one: one.kind == "lost").text
        server.pieces.put(None)


def test_a_relayd_that_is_not_there_is_a_lost_connection(tmp_path: Path) -> None:
    with Reader(str(tmp_path / "none")) as reader:
        assert "No such file" in reader.wait(lambda one: one.kind == "lost").text
