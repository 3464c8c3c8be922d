"""What the tests of this dialect ask with: a memory, an Ask, short ways to read and to run."""

from __future__ import annotations

import itertools
import json
from typing import Any

from relayd.protocols._response_reader import ResponseReader
from relayd.protocols.canon import Event, ReasoningDelta, Request, TextDelta, ToolDelta
from relayd.protocols.dialect import RequestContext
from relayd.protocols.openai_chat.read_request import read_request
from relayd.protocols.openai_chat.reader import ChatDecoder
from tests.aids.memories import Kept


def an_ask() -> RequestContext:
    return RequestContext("POST", "/v1/chat/completions", "", {}, "r-1", Kept())


def context(**members: Any) -> Request:
    """The request that a client's body is read into."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **members}
    return read_request(json.dumps(body).encode(), an_ask())


def reader(memory: Kept | None = None) -> ResponseReader:
    """A reader that mints call_0, call_1, ..."""
    numbers = itertools.count()
    return ResponseReader(ChatDecoder(memory, lambda: f"call_{next(numbers)}"), stream=True)


def run(data: bytes, cuts: list[int] | None = None, memory: Kept | None = None) -> list[Event]:
    """The events of an answer that arrives cut at these places."""
    one = reader(memory)
    events: list[Event] = []
    places = [0, *sorted(cut for cut in cuts or () if cut < len(data)), len(data)]
    for start, stop in itertools.pairwise(places):
        events += one.decode(data[start:stop])
    return events + one.finish()


def frames(*chunks: Any, done: bool = True) -> bytes:
    """A stream of these chunks."""
    lines = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    return b"".join(lines) + (b"data: [DONE]\n\n" if done else b"")


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    """One chunk of choice `index`."""
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m-1", "choices": [choice],
            **more}  # fmt: skip


def joined(events: list[Event]) -> list[Event]:
    """The events with neighbouring pieces of one kind and place joined: what does not depend on the cutting of text."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, ToolDelta) and isinstance(last, ToolDelta) and (event.index, event.choice) == (
            last.index, last.choice
        ):  # fmt: skip
            found[-1] = ToolDelta(event.index, last.arguments + event.arguments, event.choice)
        elif isinstance(event, TextDelta) and isinstance(last, TextDelta) and event.choice == last.choice:
            found[-1] = TextDelta(last.text + event.text, event.choice)
        elif isinstance(event, ReasoningDelta) and isinstance(last, ReasoningDelta) and event.choice == last.choice:
            found[-1] = ReasoningDelta(last.text + event.text, event.choice)
        else:
            found.append(event)
    return found
