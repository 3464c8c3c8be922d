"""Long events in pieces: the same text and the same tokens, and no piece that is long."""

from __future__ import annotations

from typing import Any

from relayd.protocols._event_pieces import PIECE_CHARS, in_pieces, is_long, tokens_of
from relayd.protocols.canon import Finish, ReasoningDelta, RefusalDelta, TextDelta, ToolDelta

LONG = "abc" * PIECE_CHARS


def test_texts_are_cut_and_nothing_is_lost() -> None:
    for event in (TextDelta(LONG, 2), RefusalDelta(LONG, 2)):
        pieces: list[Any] = list(in_pieces(event))
        assert "".join(piece.text for piece in pieces) == LONG and not any(map(is_long, pieces))
        assert {(type(piece), piece.choice) for piece in pieces} == {(type(event), 2)}
    calls: list[Any] = list(in_pieces(ToolDelta(1, LONG)))
    assert "".join(piece.arguments for piece in calls) == LONG and {piece.index for piece in calls} == {1}


def test_the_signature_comes_with_the_last_piece_of_a_thought() -> None:
    pieces: list[Any] = list(in_pieces(ReasoningDelta(LONG, signature="s")))
    assert "".join(piece.text for piece in pieces) == LONG
    assert [piece.signature for piece in pieces] == [None] * (len(pieces) - 1) + ["s"]


def test_tokens_come_with_the_text_that_they_are() -> None:
    entries = [{"token": f"t{number} "} for number in range(1000)]
    text = "".join(entry["token"] for entry in entries)
    read: list[Any] = []
    tokens = tokens_of(entries, lambda entry: read.append(entry) or entry)  # type: ignore[func-returns-value]
    assert not read and len(tokens) == 1000
    for said in (text, text + LONG, "other words"):
        pieces: list[Any] = list(in_pieces(TextDelta(said, 0, tokens)))
        assert "".join(piece.text for piece in pieces) == said and not any(map(is_long, pieces))
        assert [token for piece in pieces for token in piece.logprobs or ()] == entries
    first: Any = next(in_pieces(TextDelta(text, 0, tokens)))
    assert first.text == "".join(token["token"] for token in first.logprobs)


def test_what_has_no_length_stays() -> None:
    assert list(in_pieces(Finish("stop"))) == [Finish("stop")] and not is_long(Finish("stop"))
