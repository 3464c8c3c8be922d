"""Responses that are remembered: by id for a consumer, and the latest one of a WebSocket connection.

Laws:
1. What is remembered is `{response, items}`: the finished response, and every item of its conversation in order, those
   of earlier links and its own output included. No link depends on another one that may be forgotten or deleted.
2. A consumer finds its own responses only: the memory is its name space.
3. A connection remembers one response, the latest, also when it is not to be stored.
4. A response that could not be stored says so: `store` is false in it, and who asks for it later is told why.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from relayd.protocols.dialect import Ask

_RESPONSE, _ITEM, _LATEST = "response:", "response_item:", "latest_response"
MAX_ID_CHARS = 256
_OWN_ID = "_" + b"relay".hex()
OWN_REASONING_PREFIX = "rs" + _OWN_ID


def new_id(prefix: str) -> str:
    """An id that nobody can guess, and by which relayd knows what it has written itself."""
    return f"{prefix}{_OWN_ID}{secrets.token_hex(19)}"


def find_response(ask: Ask, response_id: str) -> dict[str, Any] | None:
    """What is remembered of a response that may be continued."""
    if ask.socket is not None:
        latest = ask.socket.get(_LATEST)
        if latest is not None and latest["response"]["id"] == response_id:
            return dict(latest)
    return stored_response(ask, response_id)


def stored_response(ask: Ask, response_id: str) -> dict[str, Any] | None:
    """What is stored of a response of this consumer."""
    if len(response_id) > MAX_ID_CHARS:
        return None
    record = ask.memory.get(_RESPONSE + response_id)
    return dict(record) if record is not None else None


def storage_failure(ask: Ask, response_id: str) -> str:
    """What to add where a response is not found: why it could not be stored, as far as that is known."""
    reason = ask.memory.lost(_RESPONSE + response_id) if len(response_id) <= MAX_ID_CHARS else ""
    return f" It could not be stored: {reason}." if reason else ""


def store_response(ask: Ask, response: Mapping[str, Any], items: Sequence[Mapping[str, Any]], store: bool) -> bool:
    """Remember a finished response and its conversation, without the output, which is the response's own.

    False where it was to be stored and could not be.
    """
    if ask.socket is None and not store:
        return True
    record = {"response": dict(response), "items": [*(listed_item(item) for item in items), *response["output"]]}
    if ask.socket is not None:
        ask.socket.put(_LATEST, record)
    if store:
        ask.memory.put(_RESPONSE + response["id"], record)
        if ask.memory.lost(_RESPONSE + response["id"]):
            return False
        for item in response["output"]:
            ask.memory.put(_ITEM + item["id"], response["id"])
    return True


def delete_response(ask: Ask, response_id: str) -> bool:
    """Delete a stored response; whether it was there."""
    record = stored_response(ask, response_id)
    if record is None:
        return False
    for item in record["response"]["output"]:
        ask.memory.delete(_ITEM + item["id"])
    delete_latest(ask, response_id)
    return ask.memory.delete(_RESPONSE + response_id)


def delete_latest(ask: Ask, response_id: str | None) -> None:
    """A connection's continuation has failed: what it referred to is gone from the connection's memory."""
    if ask.socket is not None and response_id is not None:
        latest = ask.socket.get(_LATEST)
        if latest is not None and latest["response"]["id"] == response_id:
            ask.socket.delete(_LATEST)


class References:
    """The items that item_references of one request mean; owned by the reading of it.

    Each stored response is read once, however many of its items are referred to.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._records: dict[str, dict[str, Mapping[str, Any]]] = {}  # by response id, its items by theirs

    def find(self, item_id: str, items: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """One item of the conversation, else one of a stored response's output."""
        for item in items:
            if item.get("id") == item_id:
                return item
        response_id = self._ask.memory.get(_ITEM + item_id) if len(item_id) <= MAX_ID_CHARS else None
        if not isinstance(response_id, str):
            return None
        if response_id not in self._records:
            record = stored_response(self._ask, response_id)
            output = record["response"]["output"] if record is not None else ()
            self._records[response_id] = {item["id"]: item for item in output if isinstance(item.get("id"), str)}
        return self._records[response_id].get(item_id)


def listed_item(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item as it is listed: with an id, a status where it is a message, and its words as parts."""
    kind = item["type"]
    listed = {**item, "id": item.get("id") or new_id(_PREFIXES.get(kind, "item"))}
    if kind == "message":
        listed.setdefault("status", "completed")
        if isinstance(listed.get("content"), str):
            part = {"type": "input_text", "text": listed["content"]}
            if listed["role"] == "assistant":
                part = {"type": "output_text", "text": listed["content"], "annotations": [], "logprobs": []}
            listed["content"] = [part]
    return listed


_PREFIXES = {
    "message": "msg", "function_call": "fc", "function_call_output": "fco", "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco", "reasoning": "rs", "compaction": "cmp",
    "tool_search_call": "tsc", "tool_search_output": "tso", "additional_tools": "at", "agent_message": "amsg",
}  # fmt: skip
