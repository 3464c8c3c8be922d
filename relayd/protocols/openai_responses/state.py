"""Stored responses: by id for each consumer, and the latest response of a WebSocket connection.

Laws:
1. A record is `{response, items}`: the finished response, and all items of its conversation in order, including those
   of previous responses and its own output. No record depends on another one, which may expire or be deleted.
2. A consumer finds its own responses only: each consumer has its own name space.
3. A connection keeps one response, the latest, also with `store: false`.
4. If a response could not be stored, its `store` is false, and a later request for it is answered with the reason.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from relayd.lazy_regex import lazy_regex
from relayd.protocols.dialect import Memory, RequestContext
from relayd.wire.json_steps import Steps

_RESPONSE, _ITEM, _LATEST, _LATEST_ID = "response:", "response_item:", "latest_response", "latest_response_id"
MAX_ID_CHARS = 256
GENERATED_MARK = "_" + b"relay".hex()
_GENERATED_ID = lazy_regex("[a-z]+" + GENERATED_MARK + "[0-9a-f]{38}")


def new_id(prefix: str) -> str:
    """Return an id that cannot be guessed, with a mark by which relayd recognises its own ids."""
    return f"{prefix}{GENERATED_MARK}{secrets.token_hex(19)}"


def is_generated_id(identity: Any) -> bool:
    """Return whether this is an id from `new_id`."""
    return isinstance(identity, str) and _GENERATED_ID.fullmatch(identity) is not None


def find_response(context: RequestContext, response_id: str) -> Steps[dict[str, Any] | None]:
    """Return the record of a response to continue, in steps: the latest one of the connection, else a stored one."""
    if context.socket is not None and context.socket.get(_LATEST_ID) == response_id:
        latest = yield from context.socket.get_steps(_LATEST)
        if latest is not None:
            return dict(latest)
    return (yield from stored_response_steps(context, response_id))


def stored_response_steps(context: RequestContext, response_id: str) -> Steps[dict[str, Any] | None]:
    """Return the record of a stored response of this consumer, in steps; None if it does not exist."""
    if len(response_id) > MAX_ID_CHARS:
        return None
    record = yield from context.memory.get_steps(_RESPONSE + response_id)
    return dict(record) if record is not None else None


def item_key(identity: str) -> str:
    """The key under which the id of the response is stored to which a response's id or an item's id belongs."""
    return _ITEM + identity


def is_known(context: RequestContext, identity: Any) -> bool:
    """Return whether this is the id of a response, or of an output item of one, that this relayd has stored for the
    consumer, or failed to store. Another relayd behind this one has ids of the same form."""
    if not is_generated_id(identity):
        return False
    if context.socket is not None and context.socket.get(_LATEST_ID) == identity:
        return True
    return context.memory.get(_ITEM + identity) is not None or bool(context.memory.lost(_RESPONSE + identity))


def storage_failure(context: RequestContext, response_id: str) -> str:
    """Return a sentence with the reason why a missing response was not stored; empty if the reason is unknown."""
    reason = context.memory.lost(_RESPONSE + response_id) if len(response_id) <= MAX_ID_CHARS else ""
    return f" It could not be stored: {reason}." if reason else ""


def store_steps(
    context: RequestContext, response: Mapping[str, Any], items: Sequence[Mapping[str, Any]], store: bool,
    is_large: bool,
) -> Steps[bool]:
    """Store a finished response and its conversation; `items` are the items without the response's output.

    Returns False if storing failed. If `is_large`, it takes many steps, else one.
    """
    if context.socket is None and not store:
        return True
    record = {"response": dict(response), "items": [*(listed_item(item) for item in items), *response["output"]]}
    if context.socket is not None:
        yield from _put_steps(context.socket, _LATEST, record, is_large)
        context.socket.put(_LATEST_ID, response["id"])
    if store:
        yield from _put_steps(context.memory, _RESPONSE + response["id"], record, is_large)
        if context.memory.lost(_RESPONSE + response["id"]):
            return False
        context.memory.put(_ITEM + response["id"], response["id"])
        for item in response["output"]:
            context.memory.put(_ITEM + item["id"], response["id"])
            yield
    return True


def _put_steps(memory: Memory, key: str, value: Any, is_large: bool) -> Steps[None]:
    if is_large:
        yield from memory.put_steps(key, value)
    else:
        memory.put(key, value)


def delete_steps(context: RequestContext, record: Mapping[str, Any]) -> Steps[None]:
    """Delete the stored response with this record, in steps."""
    response_id = record["response"]["id"]
    delete_latest(context, response_id)
    context.memory.delete(_RESPONSE + response_id)
    context.memory.delete(_ITEM + response_id)
    for item in record["response"]["output"]:
        yield
        context.memory.delete(_ITEM + item["id"])


def delete_latest(context: RequestContext, response_id: str | None) -> None:
    """Delete this response from the connection's memory if it is the latest: its continuation has failed."""
    if context.socket is not None and response_id is not None and context.socket.get(_LATEST_ID) == response_id:
        context.socket.delete(_LATEST_ID)
        context.socket.delete(_LATEST)


class References:
    """Resolves the item references of one request; owned by the reading of the request.

    Each stored response is read once, regardless of the number of references to its items.
    """

    def __init__(self, context: RequestContext) -> None:
        self._context = context
        self._records: dict[str, dict[str, Mapping[str, Any]]] = {}  # output items by response id and item id

    def find(self, item_id: str, items: Sequence[Mapping[str, Any]]) -> Steps[Mapping[str, Any] | None]:
        """Return an item of the conversation, else an output item of a stored response, else None; in steps."""
        for item in items:
            if item.get("id") == item_id:
                return item
        response_id = None
        if len(item_id) <= MAX_ID_CHARS:
            response_id = self._context.memory.get(_ITEM + item_id)
            if response_id is None:
                response_id = yield from self._context.memory.get_steps(_ITEM + item_id)
        if not isinstance(response_id, str):
            return None
        if response_id not in self._records:
            record = yield from stored_response_steps(self._context, response_id)
            output = record["response"]["output"] if record is not None else ()
            self._records[response_id] = {item["id"]: item for item in output if isinstance(item.get("id"), str)}
        return self._records[response_id].get(item_id)


def listed_item(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item as input_items lists it: with an id, and a message with a status and its content as parts."""
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
