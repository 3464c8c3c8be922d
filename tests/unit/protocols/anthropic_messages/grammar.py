"""The grammar of a Messages stream, read strictly: a test aid. Whatever an SDK may lean on is a rule here."""

from __future__ import annotations

import json
import re
from typing import Any

from relayd.protocols.canon import Message, Request, Text
from relayd.protocols.dialect import RequestContext
from tests.aids.memories import Kept

_DELTAS = {
    "text": {"text_delta": "text"},
    "thinking": {"thinking_delta": "thinking", "signature_delta": "signature"},
    "tool_use": {"input_json_delta": "partial_json"},
    "redacted_thinking": {},
}
_STOP_REASONS = {"end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"}


def context(method: str = "POST", path: str = "/v1/messages", memory: Kept | None = None) -> RequestContext:
    return RequestContext(method, path, "beta=true", {}, "req_1", memory or Kept())


def request(stream: bool = True, messages: tuple[Message, ...] = (Message("user", (Text("Hi"),)),)) -> Request:
    return Request("claude-test", messages, stream=stream, max_tokens=100)


def frames(stream: bytes) -> list[dict[str, Any]]:
    """The data of every frame; comments are skipped, everything else must have both lines and end in a blank one."""
    assert stream.endswith(b"\n\n")
    found = []
    for block in stream[:-2].split(b"\n\n"):
        if block.startswith(b":"):
            continue
        match = re.fullmatch(rb"event: ([a-z_]+)\ndata: (\{.*\})", block)
        assert match, block
        value = json.loads(match[2])
        assert value["type"] == match[1].decode(), block
        found.append(value)
    return found


def check_usage(usage: dict[str, Any]) -> None:
    members = {"input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"}
    details = usage.get("output_tokens_details", {"thinking_tokens": 0})
    assert set(usage) - {"output_tokens_details"} == members and details.keys() == {"thinking_tokens"}
    counts = [*(usage[name] for name in members), details["thinking_tokens"]]
    assert all(type(count) is int and count >= 0 for count in counts)


def check_message(message: dict[str, Any]) -> None:
    members = {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"}
    assert set(message) == members
    assert message["type"] == "message" and message["role"] == "assistant" and message["model"]
    assert re.fullmatch(r"msg_\w+", message["id"])
    check_usage(message["usage"])


def check(stream: bytes) -> dict[str, Any]:
    """The message that a complete stream makes; raises AssertionError where it breaks a rule."""
    found = [one for one in frames(stream) if one["type"] != "ping"]
    assert found[0].keys() == {"type", "message"} and found[0]["type"] == "message_start"
    message: dict[str, Any] = found[0]["message"]
    check_message(message)
    assert message["content"] == [] and message["stop_reason"] is None and message["stop_sequence"] is None
    assert [one["type"] for one in found[-2:]] == ["message_delta", "message_stop"]
    assert found[-1] == {"type": "message_stop"}
    position = 1
    while position < len(found) - 2:
        position = _check_block(found, position, message["content"])
    last = found[-2]
    assert last.keys() == {"type", "delta", "usage"} and last["delta"].keys() == {"stop_reason", "stop_sequence"}
    assert last["delta"]["stop_reason"] in _STOP_REASONS
    assert (last["delta"]["stop_reason"] == "stop_sequence") == (last["delta"]["stop_sequence"] is not None)
    check_usage(last["usage"])
    ids = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
    assert len(set(ids)) == len(ids) and all(ids)
    assert message["content"], "clients look at the first block"
    return {**message, **last["delta"], "usage": last["usage"]}


def _check_block(found: list[dict[str, Any]], position: int, content: list[dict[str, Any]]) -> int:
    start = found[position]
    assert start["type"] == "content_block_start" and start.keys() == {"type", "index", "content_block"}, start
    index, block = start["index"], start["content_block"]
    assert index == len(content)
    kind = block["type"]
    if kind == "text":
        assert block == {"type": "text", "text": ""}
    elif kind == "thinking":
        assert block == {"type": "thinking", "thinking": "", "signature": ""}
    elif kind == "redacted_thinking":
        assert block.keys() == {"type", "data"} and isinstance(block["data"], str)
    else:
        assert kind == "tool_use" and block.keys() == {"type", "id", "name", "input"} and block["input"] == {}
        assert block["name"]
    position += 1
    pieces: dict[str, list[str]] = {member: [] for member in _DELTAS[kind].values()}
    while found[position]["type"] == "content_block_delta":
        one = found[position]
        assert one.keys() == {"type", "index", "delta"} and one["index"] == index
        member = _DELTAS[kind][one["delta"]["type"]]
        assert one["delta"].keys() == {"type", member}
        assert not pieces.get("signature"), "the signature is the last of a thought"
        pieces[member].append(one["delta"][member])
        position += 1
    assert found[position] == {"type": "content_block_stop", "index": index}
    if kind == "tool_use":
        text = "".join(pieces["partial_json"])
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if value is None and text.strip() in ("", "null"):
            value = {}
        block["input"] = value if isinstance(value, dict) else {"unparsed_arguments": text}
    elif kind == "thinking":
        assert len(pieces["signature"]) == 1, "one signature for each thought"
        block["thinking"], block["signature"] = "".join(pieces["thinking"]), pieces["signature"][0]
    elif kind == "text":
        block["text"] = "".join(pieces["text"])
    content.append(block)
    return position + 1


def check_failed(stream: bytes) -> dict[str, Any]:
    """The error that a broken stream ends in."""
    found = frames(stream)
    assert found[-1]["type"] == "error"
    assert not any(one["type"] in ("message_delta", "message_stop", "error") for one in found[:-1])
    error: dict[str, Any] = found[-1]["error"]
    assert error.keys() == {"type", "message"}
    return error
