"""Assembles tool calls of one choice from fragments, whatever an endpoint does with index, id and name.

1. A fragment belongs to the call of its index, or, without an index, of its position in the list.
2. Another non-empty id under the same index is another call. So is a name after complete arguments, if the endpoint
   sends no ids.
3. A call begins, and gets its number, when its name is known; until then its arguments are kept.
4. Missing and repeated ids are replaced by new ones. Calls are never merged and never lost silently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import LONGEST_WORD, MOST_CALLS, Allowance, AnswerTooLarge, TextBuffer
from relayd.protocols._tool_arguments import ObjectEnd
from relayd.protocols.canon import Event, ToolDelta, ToolStart
from relayd.protocols.dialect import Memory
from relayd.wire.body import MAX_DEPTH

MOST_ARGUMENTS_CHARS = 16 * 1024 * 1024  # of all calls of an answer


def signature_key(call_id: str) -> str:
    """The key under which the store keeps the signature of a call."""
    return f"thought_signature:{call_id}"


class _Call:
    __slots__ = ("end", "given", "number", "pieces", "signature")

    def __init__(self, given: str) -> None:
        self.given = given  # the endpoint's id; "" if there was none
        self.number = -1  # not begun
        self.pieces, self.end = TextBuffer(), ObjectEnd()
        self.signature: str | None = None


class ToolCallAssembler:
    """The calls of one choice; owned by the answer. `allowance` covers the arguments of all choices together."""

    __slots__ = ("_allowance", "_calls", "_choice", "_memory", "_mint", "_taken", "begun")

    def __init__(self, choice: int, mint: Callable[[], str], memory: Memory | None, allowance: Allowance) -> None:
        self._choice, self._mint, self._memory = choice, mint, memory
        self._calls: dict[int, _Call] = {}
        self._taken: set[str] = set()
        self._allowance = allowance
        self.begun = 0

    def add(self, fragment: dict[str, Any], place: int, events: list[Event], whole: bool) -> None:
        """Add one fragment. In a `whole` answer every entry of the list is a call. Raises AnswerTooLarge."""
        index = fragment.get("index")
        if whole or index.__class__ is not int:
            index = place
        given = _json.a_text(fragment.get("id"))[:LONGEST_WORD]
        function = fragment.get("function")
        if function.__class__ is not dict:
            function = {}
        name = _json.a_text(function.get("name"))
        if len(name) > LONGEST_WORD:
            raise AnswerTooLarge("The upstream sent a tool call with a name that is too long.")
        arguments = function.get("arguments")
        if arguments.__class__ is not str:
            if _json.is_deeper(arguments, MAX_DEPTH):
                raise AnswerTooLarge("The upstream sent arguments that are nested too deeply.")
            arguments = "" if arguments is None else _json.write_text(arguments)
        call = self._calls.get(index)
        if call is None or self._is_another(call, given, name, arguments):
            if call is not None:
                self._drop_unnamed(call)
            if len(self._taken) >= MOST_CALLS or len(self._calls) >= MOST_CALLS:
                raise AnswerTooLarge("The upstream sent too many tool calls.")
            call = self._calls[index] = _Call(given)
        elif given and not call.given:
            call.given = given
        google = _json.an_object(_json.an_object(fragment.get("extra_content")).get("google"))
        if signature := _json.a_text(google.get("thought_signature")):
            call.signature = signature
        if arguments:
            self._allowance.take(len(arguments))
            call.pieces.add(arguments)
            call.end.add(arguments)
        if call.number >= 0:
            if arguments:
                events.append(ToolDelta(call.number, arguments, self._choice))
        elif name:
            self._begin(call, name, events)

    def close(self, events: list[Event]) -> None:
        """The answer is complete. Raises AnswerTooLarge for a call without a name."""
        for call in self._calls.values():
            self._drop_unnamed(call)

    def _is_another(self, call: _Call, given: str, name: str, arguments: str) -> bool:
        if given and call.given:
            return given != call.given
        if not name or call.number < 0:
            return False
        if given:  # the first id for a call that had begun without one
            return call.end.is_complete
        return not call.given and arguments.lstrip()[:1] in ("", "{") and call.end.is_complete

    def _begin(self, call: _Call, name: str, events: list[Event]) -> None:
        identity = call.given
        if not identity or identity in self._taken:
            identity = self._mint()
        self._taken.add(identity)
        call.number = self.begun
        self.begun += 1
        if call.signature and self._memory is not None:
            self._memory.put(signature_key(identity), call.signature)
        events.append(ToolStart(call.number, identity, name, self._choice, call.signature))
        if call.pieces:
            events.append(ToolDelta(call.number, call.pieces.text(), self._choice))

    def _drop_unnamed(self, call: _Call) -> None:
        """Ignore a call without name and arguments; arguments without a name are a fault."""
        if call.number < 0 and call.pieces:
            raise AnswerTooLarge("The upstream sent a tool call without a name.")
