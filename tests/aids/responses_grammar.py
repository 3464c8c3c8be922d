"""A strict reader of Responses answers: every rule of the event grammar, written down once more, apart from relayd's code.

`read_stream(bytes)` for an event stream, `read_events(list)` for the frames of a WebSocket, `check_response(object)` for
a plain answer. Each raises Broken with the rule and the event at fault; the readers give the final response.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

RESPONSE_MEMBERS = frozenset(
    ("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id",
     "instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p",
     "presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage", "max_output_tokens",
     "max_tool_calls", "store", "background", "service_tier", "metadata", "safety_identifier", "prompt_cache_key")
)  # fmt: skip
TERMINAL = {"response.completed": "completed", "response.incomplete": "incomplete", "response.failed": "failed"}
PREFIXES = {
    "message": "msg_", "reasoning": "rs_", "function_call": "fc_", "custom_tool_call": "ctc_", "tool_search_call": "tsc_",
}  # fmt: skip
# By delta event: the key in the done event, and which places the event carries.
SPOKEN = {
    "response.output_text": ("text", "content_index", "output_text"),
    "response.refusal": ("refusal", "content_index", "refusal"),
    "response.reasoning_summary_text": ("text", "summary_index", "summary_text"),
    "response.function_call_arguments": ("arguments", None, "function_call"),
    "response.custom_tool_call_input": ("input", None, "custom_tool_call"),
}
PARTS = {"response.content_part": "content_index", "response.reasoning_summary_part": "summary_index"}


class Broken(AssertionError):
    """An answer breaks a rule."""


def need(holds: object, rule: str, at: Any = None) -> None:
    if not holds:
        raise Broken(f"{rule}: {at!r}")


def frames(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream whose frames are `event: T`, `data: {...}`; `data: [DONE]` is the last; comments pass."""
    need(stream.endswith(b"\n\n"), "the stream ends with a whole frame", stream[-40:])
    events = []
    blocks = stream.decode("utf-8").split("\n\n")[:-1]
    done = False
    for block in blocks:
        if all(line.startswith(":") for line in block.split("\n")):
            continue
        need(not done, "nothing follows [DONE]", block)
        if block == "data: [DONE]":
            done = True
            continue
        lines = block.split("\n")
        need(len(lines) == 2, "a frame is one event line and one data line", block)
        need(lines[0].startswith("event: ") and lines[1].startswith("data: "), "event line, then data line", block)
        event = json.loads(lines[1].removeprefix("data: "))
        need(event.get("type") == lines[0].removeprefix("event: "), "the event line names the type", block)
        events.append(event)
    need(done, "the stream ends with [DONE]")
    return events


def read_stream(stream: bytes) -> dict[str, Any]:
    return read_events(frames(stream))


def check_response(response: Any, status: str | None = None) -> None:
    """The whole object, as it stands in plain answers and in lifecycle events."""
    need(isinstance(response, dict), "a response is an object", response)
    missing = RESPONSE_MEMBERS - set(response)
    need(not missing, "every member is present", sorted(missing))
    need(set(response) - RESPONSE_MEMBERS <= {"user"}, "no other member", sorted(set(response) - RESPONSE_MEMBERS))
    need(response["object"] == "response" and response["id"].startswith("resp_"), "object and id", response["id"])
    if status is not None:
        need(response["status"] == status, f"status {status}", response["status"])
    status = response["status"]
    need(type(response["created_at"]) is int, "created_at is an integer", response["created_at"])
    need((type(response["completed_at"]) is int) == (status == "completed"), "completed_at", response["completed_at"])
    need((response["error"] is not None) == (status == "failed"), "an error if it failed", response["error"])
    if response["error"] is not None:
        need(all(response["error"].get(key) for key in ("code", "message")), "code and message", response["error"])
    need((response["incomplete_details"] is not None) == (status == "incomplete"), "incomplete_details", response)
    for key in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs"):
        need(type(response[key]) in (int, float), "a number, never null", (key, response[key]))
    for key in ("truncation", "service_tier"):
        need(isinstance(response[key], str), "a string, never null", (key, response[key]))
    for key in ("store", "background", "parallel_tool_calls"):
        need(type(response[key]) is bool, "a boolean, never null", (key, response[key]))
    need(isinstance(response["metadata"], dict), "metadata is an object", response["metadata"])
    need(isinstance(response["text"]["format"]["type"], str), "text.format has a type", response["text"])
    need({"effort", "summary"} <= set(response["reasoning"]), "reasoning has both members", response["reasoning"])
    for tool in response["tools"]:
        if tool["type"] == "function":
            need({"name", "description", "parameters", "strict"} <= set(tool), "a function's echo is whole", tool)
    usage = response["usage"]
    if usage is not None:
        counts = [usage[key] for key in ("input_tokens", "output_tokens", "total_tokens")]
        counts += [usage["input_tokens_details"]["cached_tokens"], usage["output_tokens_details"]["reasoning_tokens"]]
        need(all(type(count) is int for count in counts), "usage has five counts", usage)
    ids = [item["id"] for item in response["output"]]
    need(len(set(ids)) == len(ids), "ids are unique", ids)
    for item in response["output"]:
        check_item(item)
    if status in ("completed", "incomplete"):
        need(response["output"], "an answer has an item")


def check_item(item: dict[str, Any]) -> None:
    """A finished output item."""
    kind = item["type"]
    need(item["id"].startswith(PREFIXES[kind]), "the id has the prefix of its kind", item)
    if kind == "message":
        need(item["role"] == "assistant" and item["status"] in ("completed", "incomplete"), "message", item)
        need("phase" not in item or item["phase"], "no phase that is null", item)
        for part in item["content"]:
            if part["type"] == "output_text":
                need(isinstance(part["text"], str) and part["annotations"] == [], "text part", part)
            else:
                need(part["type"] == "refusal" and isinstance(part["refusal"], str), "refusal part", part)
    elif kind == "reasoning":
        need(all(part["type"] == "summary_text" for part in item["summary"]), "a summary", item)
    elif kind == "tool_search_call":
        need(item["call_id"] and item["execution"] == "client", "a search of the client", item)
        need(isinstance(item["arguments"], dict), "arguments of a search are an object", item)
    else:
        need(item["call_id"] and item["name"], "a call has call_id and name", item)
        said = item["arguments" if kind == "function_call" else "input"]
        need(isinstance(said, str), "arguments are text", item)
        if kind == "function_call" and item["status"] == "completed":
            need(said.strip(), "arguments are not empty", item)


class Grammar:
    """The state of a stream; `take` it event by event, then `end`."""

    def __init__(self) -> None:
        self.number = 0
        self.response_id = ""
        self.final: dict[str, Any] | None = None
        self.done: list[dict[str, Any]] = []
        self.item: dict[str, Any] | None = None
        self.part: dict[str, Any] | None = None
        self.parts: list[dict[str, Any]] = []
        self.spoken: str | None = None  # deltas of what is being said
        self.said: str | None = None  # after its done event

    def take(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        need(self.final is None, "nothing follows the terminal event", kind)
        need(event["sequence_number"] == self.number, "numbers without gaps", (event["sequence_number"], self.number))
        self.number += 1
        if "response" in event:
            self.lifecycle(kind, event["response"])
            return
        need(self.number > 2, "created and in_progress come first", kind)
        if kind == "response.output_item.added":
            self.added(event)
        elif kind == "response.output_item.done":
            self.item_done(event)
        else:
            need(self.item is not None, "an item is open", event)
            assert self.item is not None
            need(event["output_index"] == len(self.done), "the open item's output_index", event)
            need(event["item_id"] == self.item["id"], "the open item's id", event)
            stem, _, verb = kind.rpartition(".")
            if stem in PARTS:
                self.part_event(PARTS[stem], verb, event)
            else:
                need(stem in SPOKEN, "a known event", kind)
                self.words(stem, verb, event)

    def lifecycle(self, kind: str, response: dict[str, Any]) -> None:
        if self.number <= 2:
            expected = ("response.created", "response.in_progress")[self.number - 1]
            need(kind == expected, f"event {self.number - 1} is {expected}", kind)
            check_response(response, "in_progress")
            need(response["output"] == [] and response["usage"] is None, "nothing is known yet", response)
        else:
            need(kind in TERMINAL, "a terminal event", kind)
            check_response(response, TERMINAL[kind])
            if kind != "response.failed":
                need(self.item is None, "every item is closed", self.item)
            need(response["output"] == self.done, "the output repeats the done items", response["output"])
            if kind == "response.incomplete":
                need(self.done[-1].get("status", "incomplete") == "incomplete", "the last item", self.done[-1])
            for item in self.done[: -1 if kind == "response.incomplete" else None]:
                need(item.get("status", "completed") == "completed", "a whole item", item)
            self.final = response
        need(response["id"] == (self.response_id or response["id"]), "one response id", response["id"])
        self.response_id = response["id"]

    def added(self, event: dict[str, Any]) -> None:
        need(self.item is None, "one item is open at a time", event)
        need(event["output_index"] == len(self.done), "output_index counts up", event)
        item = event["item"]
        need(item["id"] not in [one["id"] for one in self.done], "a fresh id", item)
        blanks: dict[str, dict[str, Any]] = {"message": {"content": []}, "reasoning": {"summary": []},
                 "function_call": {"arguments": ""}, "tool_search_call": {"arguments": {}}, "custom_tool_call": {"input": ""}}  # fmt: skip
        need(blanks[item["type"]].items() <= item.items(), "an item opens empty", item)
        if item["type"] != "reasoning":
            need(item["status"] == "in_progress", "an item opens in progress", item)
        self.item, self.parts, self.part, self.spoken, self.said = item, [], None, None, None

    def item_done(self, event: dict[str, Any]) -> None:
        need(self.item is not None and self.part is None, "an open item with closed parts", event)
        assert self.item is not None
        item = event["item"]
        need(event["output_index"] == len(self.done), "the open item's output_index", event)
        check_item(item)
        for key in ("type", "id", "call_id", "name", "namespace", "role"):
            need(item.get(key) == self.item.get(key), f"{key} does not change", (self.item, item))
        if item["type"] == "message":
            need(item["content"] == self.parts and self.parts, "the content is the parts", (item, self.parts))
        elif item["type"] == "reasoning":
            need(item["summary"] == self.parts, "the summary is the parts", (item, self.parts))
        elif item["type"] == "tool_search_call":
            need(self.said is None, "a search comes whole", item)
        else:
            key = "arguments" if item["type"] == "function_call" else "input"
            need(self.said is not None and item[key] == self.said, "what was said is what it has", (item, self.said))
        self.done.append(item)
        self.item = None

    def part_event(self, index: str, verb: str, event: dict[str, Any]) -> None:
        assert self.item is not None
        need(self.item["type"] == ("message" if index == "content_index" else "reasoning"), "a part of its kind", event)
        need(event[index] == len(self.parts), f"{index} counts up", event)
        part = event["part"]
        words = "refusal" if part["type"] == "refusal" else "text"
        if verb == "added":
            need(self.part is None, "one part is open at a time", event)
            need(part[words] == "", "a part opens empty", event)
            self.part, self.spoken, self.said = part, None, None
        else:
            need(verb == "done" and self.part is not None and self.said is not None, "words, then part", event)
            assert self.part is not None
            need(part["type"] == self.part["type"] and part[words] == self.said, "the part has the words", event)
            self.parts.append(part)
            self.part, self.spoken, self.said = None, None, None

    def words(self, stem: str, verb: str, event: dict[str, Any]) -> None:
        key, index, kind = SPOKEN[stem]
        assert self.item is not None
        if index is not None:
            need(self.part is not None and self.part["type"] == kind, "words of the open part", event)
            need(event[index] == len(self.parts), f"the open part's {index}", event)
        else:
            need(self.item["type"] == kind, "words of the open item", event)
        need(self.said is None, "nothing is said after done", event)
        if stem == "response.output_text":
            need(isinstance(event["logprobs"], list), "logprobs is a list", event)
        if verb == "delta":
            need(isinstance(event["delta"], str) and event["delta"], "a delta says something", event)
            self.spoken = (self.spoken or "") + event["delta"]
        else:
            need(verb == "done", "delta or done", event)
            need(event[key] == (self.spoken or ""), "done is the deltas joined", (event[key], self.spoken))
            self.said = event[key]

    def end(self) -> dict[str, Any]:
        need(self.final is not None, "a terminal event")
        assert self.final is not None
        return self.final


def read_events(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    grammar = Grammar()
    for event in events:
        grammar.take(event)
    return grammar.end()
