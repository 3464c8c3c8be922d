"""The difference between a captured exchange and its replay.

1. Same means: the status, the media type and the content of the body are equal. Of an AI API the content is what a
   client sees: text, reasoning, tool calls, refusals and the reason of the end, of streams as of documents; not ids
   and times. Of other JSON it is the value, else the bytes.
2. Other fields, tokens and times are shown, and do not count: they differ between any two responses.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

from relayd.cli.captured import Document, field, fields_of, plain_body
from relayd.cli.output import json_text, paint, plain
from relayd.protocols import registry
from relayd.protocols.canon import (
    Event,
    Failure,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    Request,
    TextDelta,
    ToolDelta,
    ToolStart,
)
from relayd.protocols.dialect import Options
from relayd.protocols.no_memory import NoMemory

VOLATILE = frozenset((
    "date", "age", "x-request-id", "x-process-time", "content-length", "transfer-encoding", "connection",
    "server-timing", "request-id", "cf-ray", "openai-processing-ms", "set-cookie", "etag",
))  # fmt: skip
LINES = 400
COMPARED = 5000  # lines of each side whose difference is shown: finding it takes quadratic time


class Difference:
    """What differs. `incomplete` says why the bodies cannot be compared, empty if they can."""

    def __init__(self, original: Document, replayed: Document) -> None:
        self.original, self.replayed = original, replayed
        first, second = original["response"], replayed["response"]
        self.status = (first["status"], second["status"])
        self.media = media_type(first), media_type(second)
        self.incomplete = next((
            f"{one['body']['missing']} of {one['body']['size']} bytes of {name} were not kept"
            for name, one in (("the captured response", first), ("the replayed response", second))
            if one["body"]["missing"]
        ), "")
        dialect = str(original["request"]["dialect"])
        self.contents = content_lines(first, dialect), content_lines(second, dialect)

    @property
    def is_same(self) -> bool:
        """True if the responses are the same, as a whole."""
        return not self.incomplete and self.status[0] == self.status[1] and self.media[0] == self.media[1] and (
            self.contents[0] == self.contents[1])

    def body_diff(self) -> list[str]:
        """The difference of the contents as a unified diff."""
        first, second = (one[:COMPARED] for one in self.contents)
        found = [plain(line) for line in difflib.unified_diff(first, second, "captured", "replayed", lineterm="")]
        if max(map(len, self.contents)) > COMPARED and self.contents[0] != self.contents[1]:
            found.append(f"... lines after the first {COMPARED} are not shown; they count for the result")
        return found

    def fields(self) -> Iterator[tuple[str, str, str]]:
        """The fields that differ: name, captured value, replayed value; empty for none."""
        both = [_fields(one["response"]) for one in (self.original, self.replayed)]
        for name in sorted({*both[0], *both[1]} - VOLATILE):
            values = both[0].get(name, ""), both[1].get(name, "")
            if values[0] != values[1]:
                yield name, *values

    def describe(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "same": self.is_same, "status": self.status, "media_type": self.media,
            "upstream": [one["record"]["upstream"] for one in (self.original, self.replayed)],
            "fields": [{"name": name, "captured": one, "replayed": other} for name, one, other in self.fields()],
            "body": self.body_diff(),
            "tokens": [_tokens(one) for one in (self.original, self.replayed)],
            "first_byte_ms": [one["record"]["first_byte_ms"] for one in (self.original, self.replayed)],
            "total_ms": [one["record"]["total_ms"] for one in (self.original, self.replayed)],
        }

    def lines(self) -> Iterator[str]:
        """As text."""
        data = self.describe()
        for name, values in (
            ("upstream", data["upstream"]), ("status", self.status), ("media type", self.media),
            ("tokens", [f"{one[0]}+{one[1]}" if one else "-" for one in data["tokens"]]),
            ("first byte", [_milliseconds(one) for one in data["first_byte_ms"]]),
            ("total", [_milliseconds(one) for one in data["total_ms"]]),
        ):
            first, second = (plain(str(one)) or "-" for one in values)
            yield f"{name:<11} {first}" if first == second else f"{name:<11} {first} -> {second}"
        for name, one, other in self.fields():
            yield f"field       {plain(name)}: {plain(one) or '(none)'} -> {plain(other) or '(none)'}"
        diff = self.body_diff()
        for line in diff[:LINES]:
            colour = {"-": "red", "+": "green"}.get(line[:1])
            yield paint(line, colour) if colour else line
        if len(diff) > LINES:
            yield f"... {len(diff) - LINES} more lines; --json has them"
        if self.incomplete:
            yield paint("not compared", "yellow")
        elif self.is_same:
            yield paint("the same", "green")
        else:
            yield paint("different", "red")


def media_type(message: Document) -> str:
    """The media type of a message, without parameters."""
    return field(message["fields"], "content-type").partition(";")[0].strip().lower()


def content_lines(message: Document, dialect: str) -> list[str]:
    """The content of a response as lines."""
    data, _ = plain_body(message)
    if not data:
        return []
    if dialect and message["status"] < 300:
        found = answer_lines(data, dialect, field(message["fields"], "content-type"))
        if found is not None:
            return found
    try:
        return json_text(json.loads(data), indent=2, sort_keys=True).split("\n")
    except (ValueError, RecursionError):
        pass
    try:
        return data.decode().split("\n")
    except UnicodeDecodeError:
        return [f"{len(data)} bytes", data.hex()]


def answer_lines(data: bytes, name: str, media_type: str) -> list[str] | None:
    """The content of an AI response: lines of what was said, one paragraph for each kind. None if it cannot be read."""
    dialect = registry.load(name)
    if dialect.reader is None:
        return None
    is_stream = media_type.startswith(("text/event-stream", "application/x-ndjson", "application/ndjson"))
    request = Request("", (), stream=is_stream)
    reader = dialect.reader(request, Options(), NoMemory())
    events: list[Event] = reader.decode(data)
    while reader.has_more:
        events += reader.decode(b"")
    events += reader.finish()
    if any(isinstance(event, Failure) for event in events) and not any(isinstance(one, TextDelta) for one in events):
        return None
    return list(_told(events))


def _told(events: list[Event]) -> Iterator[str]:
    texts: dict[str, list[str]] = {}
    ends: list[str] = []
    for event in events:
        if isinstance(event, TextDelta):
            texts.setdefault(f"text {event.choice}", []).append(event.text)
        elif isinstance(event, ReasoningDelta):
            texts.setdefault(f"reasoning {event.choice}", []).append(event.text)
        elif isinstance(event, RefusalDelta):
            texts.setdefault(f"refusal {event.choice}", []).append(event.text)
        elif isinstance(event, ToolStart):
            texts.setdefault(f"call {event.index}: {event.name}", [])
        elif isinstance(event, ToolDelta):
            name = next((one for one in texts if one.startswith(f"call {event.index}:")), f"call {event.index}:")
            texts.setdefault(name, []).append(event.arguments)
        elif isinstance(event, Failure):
            ends.append(f"error: {event.message}")
        elif isinstance(event, Finish):
            ends.append(f"finish {event.choice}: {event.reason}")
    for name, parts in sorted(texts.items()):
        yield f"# {name}"
        yield from "".join(parts).split("\n")
    yield from (f"# {one}" for one in ends)


def _fields(message: Document) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in fields_of(message["fields"]):
        low = name.lower()
        found[low] = f"{found[low]}, {value}" if low in found else value
    return found


def _tokens(document: Document) -> tuple[int, int] | None:
    record = document["record"]
    return (record["tokens_input"], record["tokens_output"]) if "tokens_input" in record else None


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
