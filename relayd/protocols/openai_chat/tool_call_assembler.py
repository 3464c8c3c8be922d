"""Assembles the tool calls of one choice from fragments, tolerating missing and inconsistent indexes, ids and names.

1. A fragment belongs to the call of its index, or, without an index, of its position in the list.
2. Another non-empty id under the same index is another call, and so is another name, regardless of the ids. So is the
   same name after complete arguments, if the endpoint sends no ids and does not repeat the same arguments. A
   repeated id of a call whose arguments are incomplete continues that call.
3. A call begins, and gets its number, when its name is known; until then its arguments are buffered.
4. Missing and repeated ids are replaced by new ones, and so are ids that the conversation already has: some endpoints
   number the calls of each response anew, and state is stored under a call's id. Calls are never merged or silently
   dropped.
5. `call_arguments` assembles the arguments of a call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import MAX_ID_CHARS, MOST_CALLS, Allowance, ResponseTooLarge, TextBuffer
from relayd.protocols._call_arguments import CallArguments
from relayd.protocols.canon import Event, ToolDelta, ToolStart
from relayd.protocols.dialect import Memory
from relayd.wire.json_scanner import MAX_DEPTH
from relayd.wire.json_steps import Steps

LONG_ARGUMENTS_CHARS = 4096
MOST_ARGUMENTS_CHARS = 16 * 1024 * 1024  # of all calls of a response


def signature_key(call_id: str) -> str:
    """The key under which the signature of a call is stored."""
    return f"thought_signature:{call_id}"


class _Call:
    __slots__ = ("arguments", "endpoint_id", "name", "number", "pieces", "signature")

    def __init__(self, endpoint_id: str, allowance: Allowance) -> None:
        self.endpoint_id = endpoint_id  # "" if the endpoint gave no id
        self.name = ""
        self.number = -1  # not begun
        self.arguments = CallArguments(allowance)
        self.pieces = TextBuffer()  # arguments that arrived before the call began
        self.signature: str | None = None


class ToolCallAssembler:
    """The calls of one choice; owned by the decoder. `allowance` covers the arguments of all choices together."""

    __slots__ = (
        "_all", "_allowance", "_calls", "_choice", "_known_ids", "_latest", "_memory", "_new_id", "_used_ids", "begun",
        "first_id", "renamed",
    )  # fmt: skip

    def __init__(
        self, choice: int, new_id: Callable[[], str], memory: Memory | None, allowance: Allowance,
        known_ids: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        """`known_ids`: the ids of earlier calls of the conversation."""
        self._known_ids = known_ids
        self.renamed: dict[str, str] = {}  # replaced ids of the endpoint, and their replacements
        self._choice, self._new_id, self._memory = choice, new_id, memory
        self._calls: dict[int, _Call] = {}  # the latest of each index
        self._all: list[_Call] = []
        self._used_ids: set[str] = set()
        self._allowance = allowance
        self._latest: _Call | None = None  # the call that began last
        self.begun = 0
        self.first_id = ""  # of the call that began first

    def add(self, fragment: dict[str, Any], position: int, events: list[Event], whole: bool) -> Steps[None]:
        """Add one fragment, in steps. In a `whole` response every entry of the list is a call. Raises
        ResponseTooLarge."""
        index = fragment.get("index")
        if whole or index.__class__ is not int:
            index = position
        endpoint_id = _json.a_text(fragment.get("id"))[:MAX_ID_CHARS]
        function = fragment.get("function")
        if function.__class__ is not dict:
            function = {}
        name = _json.a_text(function.get("name"))
        if len(name) > MAX_ID_CHARS:
            raise ResponseTooLarge("The upstream sent a tool call with a name that is too long.")
        arguments = function.get("arguments")
        if arguments.__class__ is not str:
            if (yield from _json.is_deeper_steps(arguments, MAX_DEPTH)):
                raise ResponseTooLarge("The upstream sent arguments that are nested too deeply.")
            arguments = "" if arguments is None else (yield from _json.write_text_steps(arguments))
        call = self._calls.get(index)
        if call is not None and endpoint_id and endpoint_id != call.endpoint_id:
            earlier = self._earlier_call(endpoint_id, name)
            if earlier is not None:
                call = self._calls[index] = earlier
        if call is None or (yield from self._is_another(call, endpoint_id, name, arguments)):
            if len(self._used_ids) >= MOST_CALLS or len(self._calls) >= MOST_CALLS:
                raise ResponseTooLarge("The upstream sent too many tool calls.")
            call = self._calls[index] = _Call(endpoint_id, self._allowance)
            self._all.append(call)
        elif endpoint_id and not call.endpoint_id:
            call.endpoint_id = endpoint_id
        google = _json.an_object(_json.an_object(fragment.get("extra_content")).get("google"))
        if signature := _json.a_text(google.get("thought_signature")):
            call.signature = signature
        if len(arguments) > LONG_ARGUMENTS_CHARS:
            yield
        text = yield from call.arguments.add(arguments)
        if whole:
            text += yield from call.arguments.close(is_cut=True)
        if call.number >= 0:
            self._emit(call, text, events)
        else:
            call.pieces.add(text)
            if name:
                self._begin(call, name, events, is_first=position <= 0)

    def close(self, events: list[Event], is_cut: bool = False) -> Steps[None]:
        """The response is complete, in steps. `is_cut`: it met its limit. Raises ResponseTooLarge for a call without a
        name."""
        for call in self._all:
            yield from self._close(call, events, is_cut)

    @property
    def is_cut(self) -> bool:
        """Whether the arguments of a call end in the middle; read it after `close`."""
        return any(call.arguments.is_cut for call in self._all)

    def _earlier_call(self, endpoint_id: str, name: str) -> _Call | None:
        """The call that began with this id, if a fragment can still belong to it."""
        for call in reversed(self._all):
            if call.endpoint_id == endpoint_id:
                return None if call.arguments.is_complete or name not in ("", call.name) else call
        return None

    def _is_another(self, call: _Call, endpoint_id: str, name: str, arguments: str) -> Steps[bool]:
        if endpoint_id and call.endpoint_id and endpoint_id != call.endpoint_id:
            return True
        if not name or call.number < 0:
            return False
        if name != call.name:
            return True
        if endpoint_id and call.endpoint_id:
            return False
        if not call.arguments.is_complete or (yield from call.arguments.is_repeated_by(arguments)):
            return False
        # The fragment has no id, or it has the first id for a call that began without one.
        return bool(endpoint_id) or arguments.lstrip()[:1] in ("", "{")

    def _emit(self, call: _Call, text: str, events: list[Event]) -> None:
        if text:
            events.append(ToolDelta(call.number, text, self._choice))

    def _begin(self, call: _Call, name: str, events: list[Event], is_first: bool) -> None:
        """Begin a call. `is_first`: it is the first call of its chunk."""
        if self._latest is not None:
            self._emit(self._latest, self._latest.arguments.release(placeholder=is_first), events)
        self._latest = call
        call.name = name
        identity = call.endpoint_id
        if not identity or identity in self._used_ids or identity in self._known_ids:
            identity = self._new_id()
            self.renamed.setdefault(call.endpoint_id, identity)
        self._used_ids.add(identity)
        self.first_id = self.first_id or identity
        call.number = self.begun
        self.begun += 1
        if call.signature and self._memory is not None:
            self._memory.put(signature_key(identity), call.signature)
        events.append(ToolStart(call.number, identity, name, self._choice, call.signature))
        self._emit(call, call.pieces.text(), events)
        call.pieces = TextBuffer()

    def _close(self, call: _Call, events: list[Event], is_cut: bool) -> Steps[None]:
        """Ignore a call without name and arguments; arguments without a name are an error."""
        if call.number < 0 and call.arguments:
            raise ResponseTooLarge("The upstream sent a tool call without a name.")
        self._emit(call, (yield from call.arguments.close(is_cut)), events)
