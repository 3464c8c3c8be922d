"""Assistant messages of a history put together again: some clients keep each call of a batch in a message of its own.

Endpoints take a batch of calls as one turn with the answers behind it; an answer before the second call of a batch
would answer a turn that is not complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from relayd.protocols.canon import Message, Part, ToolCall


def _never(call: ToolCall) -> bool:
    return False


def last_calls(messages: Iterable[Message]) -> dict[str, ToolCall]:
    """The last call with each id. What is remembered under an id is recalled for this call only: a history that names
    one id a thousand times must not bring in a thousand times what is remembered."""
    return {part.id: part for message in messages for part in message.parts if isinstance(part, ToolCall)}


def call_ids(messages: Iterable[Message]) -> frozenset[str]:
    """The ids of a conversation's calls. A new call gets another one: what is kept of a call is found by its id, and
    some endpoints number the calls of each answer anew."""
    return frozenset(part.id for message in messages for part in message.parts if isinstance(part, ToolCall))


def merge_turns(
    messages: Iterable[Message], belongs_to_batch: Callable[[ToolCall], bool] = _never
) -> tuple[Message, ...]:
    """The messages, assistant messages that follow each other as one.

    Where answers stand between two of them, they are one turn if the second one has nothing but calls, of which the
    first `belongs_to_batch` of the calls before it; the answers then stand behind.
    """
    turns: list[Message] = []
    joined: dict[int, list[Part]] = {}  # of turns that several messages make up
    last = -1  # the assistant's turn that nothing but answers has followed
    for message in messages:
        is_assistant = message.role == "assistant"
        if is_assistant and last >= 0 and (last == len(turns) - 1 or _continues_batch(message, belongs_to_batch)):
            joined.setdefault(last, list(turns[last].parts)).extend(message.parts)
            if message.name and not turns[last].name:
                turns[last] = replace(turns[last], name=message.name)
            continue
        if is_assistant:
            last = len(turns)
        elif message.role != "tool":
            last = -1
        turns.append(message)
    for index, parts in joined.items():
        turns[index] = replace(turns[index], parts=tuple(parts))
    return tuple(turns)


def _continues_batch(message: Message, belongs_to_batch: Callable[[ToolCall], bool]) -> bool:
    first = message.parts[0] if message.parts else None
    return isinstance(first, ToolCall) and belongs_to_batch(first)
