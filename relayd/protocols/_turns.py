"""Merges the assistant messages of a history: some clients store each call of a batch as a message of its own.

Endpoints require a batch of calls as one turn, followed by all results; a result before the second call of a batch
would answer an incomplete turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from relayd.protocols.canon import Message, Part, ToolCall
from relayd.wire.json_steps import Steps

STEP_MESSAGES = 1024


def _never(call: ToolCall) -> bool:
    return False


def last_calls(messages: Iterable[Message]) -> dict[str, ToolCall]:
    """The last call with each id. State stored under an id is recalled for this call only, so that a history that
    repeats an id a thousand times does not repeat the stored state."""
    return {part.id: part for message in messages for part in message.parts if isinstance(part, ToolCall)}


def call_ids(messages: Iterable[Message]) -> frozenset[str]:
    """The ids of a conversation's calls. A new call must get another id, because state is stored under a call's id, and
    some endpoints number the calls of each response anew."""
    return frozenset(part.id for message in messages for part in message.parts if isinstance(part, ToolCall))


def merge_turns(
    messages: Iterable[Message], belongs_to_batch: Callable[[ToolCall], bool] = _never
) -> Steps[tuple[Message, ...]]:
    """Merge consecutive assistant messages, in steps.

    Two assistant messages with tool results between them are merged if the second one begins with a call that
    `belongs_to_batch` of the calls before it; the results then follow the merged message.
    """
    turns: list[Message] = []
    joined: dict[int, list[Part]] = {}  # of merged turns, by index
    last = -1  # index of the last assistant turn, if only tool results have followed it
    for number, message in enumerate(messages, 1):
        if number % STEP_MESSAGES == 0:
            yield
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
