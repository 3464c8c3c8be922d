"""Long events of an answer as several short ones, so that their renderer has a bounded amount of work at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, overload

from relayd.protocols.canon import Event, ReasoningDelta, RefusalDelta, TextDelta, ToolDelta

PIECE_CHARS = 32 * 1024
PIECE_TOKENS = 64
_TOKEN_CHARS = PIECE_CHARS // PIECE_TOKENS // 2


class LazyTokens(Sequence[Any]):
    """The tokens of a long list, each read when somebody asks for it, so that nobody reads all of them at once."""

    __slots__ = ("_entries", "_read")

    def __init__(self, entries: Sequence[Any], read: Callable[[Any], Any]) -> None:
        self._entries, self._read = entries, read

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        found = self._entries[index]
        return tuple(map(self._read, found)) if isinstance(index, slice) else self._read(found)


def tokens_of(entries: Sequence[Any], read: Callable[[Any], Any]) -> Sequence[Any]:
    """Entries of logprobs as tokens; a long list is read piece by piece."""
    return tuple(map(read, entries)) if len(entries) <= PIECE_TOKENS else LazyTokens(entries, read)


def size_of(event: Event) -> int:
    """How much work an event is, in characters."""
    if isinstance(event, TextDelta):
        return len(event.text) + _TOKEN_CHARS * len(event.logprobs or ())
    if isinstance(event, ToolDelta):
        return len(event.arguments)
    if isinstance(event, ReasoningDelta | RefusalDelta):
        return len(event.text)
    return 0


def is_long(event: Event) -> bool:
    """Whether an event is more than a piece."""
    return size_of(event) > PIECE_CHARS


def in_pieces(event: Event) -> Iterator[Event]:
    """The same in pieces; what ends a thought comes with the last one."""
    if isinstance(event, TextDelta) and event.logprobs:
        yield from _tokens(event, event.logprobs)
    elif isinstance(event, TextDelta | RefusalDelta):
        for text in _cut(event.text):
            yield replace(event, text=text)
    elif isinstance(event, ToolDelta):
        for text in _cut(event.arguments):
            yield replace(event, arguments=text)
    elif isinstance(event, ReasoningDelta):
        *begin, last = _cut(event.text)
        for text in begin:
            yield ReasoningDelta(text, event.choice)
        yield replace(event, text=last)
    else:
        yield event


def _cut(text: str) -> list[str]:
    return [text[start : start + PIECE_CHARS] for start in range(0, len(text), PIECE_CHARS)] or [text]


def _tokens(event: TextDelta, tokens: Sequence[Any]) -> Iterator[Event]:
    """Tokens with the text that they are, as far as the text agrees; what is left of it follows."""
    position = 0
    for start in range(0, len(tokens), PIECE_TOKENS):
        some = tokens[start : start + PIECE_TOKENS]
        text = "".join(_token_text(token) for token in some)
        if len(text) > PIECE_CHARS // 2 or not event.text.startswith(text, position):
            text = ""
        position += len(text)
        yield TextDelta(text, event.choice, some)
    if position < len(event.text):
        for text in _cut(event.text[position:]):
            yield TextDelta(text, event.choice)


def _token_text(token: Any) -> str:
    text = token.get("token") if token.__class__ is dict else None
    return text if text.__class__ is str else ""
