"""Assembles tool calls of one choice from fragments, whatever an endpoint does with index, id and name.

1. A fragment belongs to the call of its index, or, without an index, of its position in the list.
2. Another non-empty id under the same index is another call, and so is another name, whatever the ids are. So is the
   same name after complete arguments, if the endpoint sends no ids and does not send the same arguments again. An id
   that came before, with arguments that are not complete, goes on with its call.
3. A call begins, and gets its number, when its name is known; until then its arguments are kept.
4. Missing and repeated ids are replaced by new ones, also ids that the conversation has already: some endpoints number
   the calls of each answer anew, and what is kept of a call is found again by its id. Calls are never merged and never
   lost silently.
5. What belongs to the arguments of a call, `call_arguments` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import LONGEST_WORD, MOST_CALLS, Allowance, AnswerTooLarge, TextBuffer
from relayd.protocols.canon import Event, ToolDelta, ToolStart
from relayd.protocols.dialect import Memory
from relayd.protocols.openai_chat.call_arguments import CallArguments
from relayd.wire.json_scanner import MAX_DEPTH

MOST_ARGUMENTS_CHARS = 16 * 1024 * 1024  # of all calls of an answer


def signature_key(call_id: str) -> str:
    """The key under which the store keeps the signature of a call."""
    return f"thought_signature:{call_id}"


class _Call:
    __slots__ = ("arguments", "given", "name", "number", "pieces", "signature")

    def __init__(self, given: str, allowance: Allowance) -> None:
        self.given = given  # the endpoint's id; "" if there was none
        self.name = ""
        self.number = -1  # not begun
        self.arguments = CallArguments(allowance)
        self.pieces = TextBuffer()  # what could be passed on before it had begun
        self.signature: str | None = None


class ToolCallAssembler:
    """The calls of one choice; owned by the answer. `allowance` covers the arguments of all choices together."""

    __slots__ = ("_all", "_allowance", "_calls", "_choice", "_known", "_latest", "_memory", "_mint", "_taken", "begun",
                 "first_id", "renamed")  # fmt: skip

    def __init__(
        self, choice: int, mint: Callable[[], str], memory: Memory | None, allowance: Allowance,
        known: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        """`known` are the ids of earlier calls of the conversation."""
        self._known = known
        self.renamed: dict[str, str] = {}  # ids of the endpoint that were replaced
        self._choice, self._mint, self._memory = choice, mint, memory
        self._calls: dict[int, _Call] = {}  # the latest of each index
        self._all: list[_Call] = []
        self._taken: set[str] = set()
        self._allowance = allowance
        self._latest: _Call | None = None  # the call that began last
        self.begun = 0
        self.first_id = ""  # of the call that began first

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
        if call is not None and given and given != call.given and (earlier := self._going_on(given, name)) is not None:
            call = self._calls[index] = earlier
        if call is None or self._is_another(call, given, name, arguments):
            if len(self._taken) >= MOST_CALLS or len(self._calls) >= MOST_CALLS:
                raise AnswerTooLarge("The upstream sent too many tool calls.")
            call = self._calls[index] = _Call(given, self._allowance)
            self._all.append(call)
        elif given and not call.given:
            call.given = given
        google = _json.an_object(_json.an_object(fragment.get("extra_content")).get("google"))
        if signature := _json.a_text(google.get("thought_signature")):
            call.signature = signature
        text = call.arguments.add(arguments)
        if whole:
            text += call.arguments.close()
        if call.number >= 0:
            self._pass(call, text, events)
        else:
            call.pieces.add(text)
            if name:
                self._begin(call, name, events, is_first=place <= 0)

    def close(self, events: list[Event]) -> None:
        """The answer is complete. Raises AnswerTooLarge for a call without a name."""
        for call in self._all:
            self._close(call, events)

    def _going_on(self, given: str, name: str) -> _Call | None:
        """The call that began with this id, if a fragment can still belong to it."""
        for call in reversed(self._all):
            if call.given == given:
                return None if call.arguments.is_complete or name not in ("", call.name) else call
        return None

    def _is_another(self, call: _Call, given: str, name: str, arguments: str) -> bool:
        if given and call.given and given != call.given:
            return True
        if not name or call.number < 0:
            return False
        if name != call.name:
            return True
        if (given and call.given) or not call.arguments.is_complete or call.arguments.is_repeated_by(arguments):
            return False
        # Without an id to tell them apart, or with the first id for a call that had begun without one.
        return bool(given) or arguments.lstrip()[:1] in ("", "{")

    def _pass(self, call: _Call, text: str, events: list[Event]) -> None:
        if text:
            events.append(ToolDelta(call.number, text, self._choice))

    def _begin(self, call: _Call, name: str, events: list[Event], is_first: bool) -> None:
        """Begin a call. `is_first` is whether it is the first one of its chunk: those before it had theirs."""
        if self._latest is not None:
            self._pass(self._latest, self._latest.arguments.release(placeholder=is_first), events)
        self._latest = call
        call.name = name
        identity = call.given
        if not identity or identity in self._taken or identity in self._known:
            identity = self._mint()
            self.renamed.setdefault(call.given, identity)
        self._taken.add(identity)
        self.first_id = self.first_id or identity
        call.number = self.begun
        self.begun += 1
        if call.signature and self._memory is not None:
            self._memory.put(signature_key(identity), call.signature)
        events.append(ToolStart(call.number, identity, name, self._choice, call.signature))
        self._pass(call, call.pieces.text(), events)
        call.pieces = TextBuffer()

    def _close(self, call: _Call, events: list[Event]) -> None:
        """Ignore a call without name and arguments; arguments without a name are a fault."""
        if call.number < 0 and call.arguments:
            raise AnswerTooLarge("The upstream sent a tool call without a name.")
        self._pass(call, call.arguments.close(), events)
