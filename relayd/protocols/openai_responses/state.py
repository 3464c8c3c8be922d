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

from relayd.protocols.dialect import Memory, RequestContext, run_steps
from relayd.wire.json_steps import Steps

_RESPONSE, _ITEM, _LATEST = "response:", "response_item:", "latest_response"
LONGEST_ID = 256
_OWN = "_" + b"relay".hex()
OWN_REASONING = "rs" + _OWN


def new_id(prefix: str) -> str:
    """An id that nobody can guess, and by which relayd knows what it has written itself."""
    return f"{prefix}{_OWN}{secrets.token_hex(19)}"


def recall(ask: RequestContext, response_id: str) -> Steps[dict[str, Any] | None]:
    """What is remembered of a response that may be continued, in steps."""
    if ask.socket is not None:
        latest = yield from ask.socket.get_steps(_LATEST)
        if latest is not None and latest["response"]["id"] == response_id:
            return dict(latest)
    return (yield from stored_steps(ask, response_id))


def stored(ask: RequestContext, response_id: str) -> dict[str, Any] | None:
    """What is stored of a response of this consumer."""
    return run_steps(stored_steps(ask, response_id))


def stored_steps(ask: RequestContext, response_id: str) -> Steps[dict[str, Any] | None]:
    """The same in steps."""
    if len(response_id) > LONGEST_ID:
        return None
    found = yield from ask.memory.get_steps(_RESPONSE + response_id)
    return dict(found) if found is not None else None


def why_lost(ask: RequestContext, response_id: str) -> str:
    """What to add where a response is not found: why it could not be stored, as far as that is known."""
    why = ask.memory.lost(_RESPONSE + response_id) if len(response_id) <= LONGEST_ID else ""
    return f" It could not be stored: {why}." if why else ""


def keep_steps(
    ask: RequestContext, response: Mapping[str, Any], items: Sequence[Mapping[str, Any]], store: bool, is_large: bool
) -> Steps[bool]:
    """Remember a finished response and its conversation, without the output, which is the response's own.

    False where it was to be stored and could not be. What `is_large` takes many steps, everything else one.
    """
    if ask.socket is None and not store:
        return True
    record = {"response": dict(response), "items": [*(with_id(item) for item in items), *response["output"]]}
    if ask.socket is not None:
        yield from _put_steps(ask.socket, _LATEST, record, is_large)
    if store:
        yield from _put_steps(ask.memory, _RESPONSE + response["id"], record, is_large)
        if ask.memory.lost(_RESPONSE + response["id"]):
            return False
        for item in response["output"]:
            ask.memory.put(_ITEM + item["id"], response["id"])
    return True


def _put_steps(memory: Memory, key: str, value: Any, is_large: bool) -> Steps[None]:
    if is_large:
        yield from memory.put_steps(key, value)
    else:
        memory.put(key, value)


def forget(ask: RequestContext, response_id: str) -> bool:
    """Delete a stored response; whether it was there."""
    record = stored(ask, response_id)
    if record is None:
        return False
    for item in record["response"]["output"]:
        ask.memory.delete(_ITEM + item["id"])
    forget_latest(ask, response_id)
    return ask.memory.delete(_RESPONSE + response_id)


def forget_latest(ask: RequestContext, response_id: str | None) -> None:
    """A connection's continuation has failed: what it referred to is gone from the connection's memory."""
    if ask.socket is not None and response_id is not None:
        latest = ask.socket.get(_LATEST)
        if latest is not None and latest["response"]["id"] == response_id:
            ask.socket.delete(_LATEST)


class References:
    """The items that item_references of one request mean; owned by the reading of it.

    Each stored response is read once, however many of its items are referred to.
    """

    def __init__(self, ask: RequestContext) -> None:
        self._ask = ask
        self._records: dict[str, dict[str, Mapping[str, Any]]] = {}  # by response id, its items by theirs

    def find(self, item_id: str, items: Sequence[Mapping[str, Any]]) -> Steps[Mapping[str, Any] | None]:
        """One item of the conversation, else one of a stored response's output; in steps."""
        for item in items:
            if item.get("id") == item_id:
                return item
        response_id = self._ask.memory.get(_ITEM + item_id) if len(item_id) <= LONGEST_ID else None
        if not isinstance(response_id, str):
            return None
        if response_id not in self._records:
            record = yield from stored_steps(self._ask, response_id)
            output = record["response"]["output"] if record is not None else ()
            self._records[response_id] = {item["id"]: item for item in output if isinstance(item.get("id"), str)}
        return self._records[response_id].get(item_id)


def with_id(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item as it is listed: with an id, a status where it is a message, and its words as parts."""
    kind = item["type"]
    shown = {**item, "id": item.get("id") or new_id(_PREFIXES.get(kind, "item"))}
    if kind == "message":
        shown.setdefault("status", "completed")
        if isinstance(shown.get("content"), str):
            said = {"type": "input_text", "text": shown["content"]}
            if shown["role"] == "assistant":
                said = {"type": "output_text", "text": shown["content"], "annotations": [], "logprobs": []}
            shown["content"] = [said]
    return shown


_PREFIXES = {
    "message": "msg", "function_call": "fc", "function_call_output": "fco", "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco", "reasoning": "rs", "compaction": "cmp",
    "tool_search_call": "tsc", "tool_search_output": "tso", "additional_tools": "at", "agent_message": "amsg",
}  # fmt: skip
