"""Arguments of calls in pieces: where their object ends, and what a custom tool gets."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols._tool_arguments import (
    MOST_PENDING_CHARS,
    ObjectEndFinder,
    arguments_object,
    object_text,
)
from tests.aids.growth import linear

CUTS = st.lists(st.integers(0, 400), max_size=8)
VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='{}[]"\\ab', max_size=6) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='{"\\', max_size=2), inner, max_size=3),
    max_leaves=8,
)


def pieces(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(places)]


@given(st.dictionaries(st.text(max_size=2), VALUES, max_size=3), CUTS, st.booleans(), st.booleans())
def test_an_object_is_complete_at_its_last_character_and_not_before(
    value: object, cuts: list[int], ascii_only: bool, asked_often: bool
) -> None:
    text = " " + json.dumps(value, ensure_ascii=ascii_only)
    end = ObjectEndFinder()
    for piece in pieces(text[:-1], cuts):
        end.add(piece)
        assert not (asked_often and end.is_complete)
    assert not end.is_complete
    end.add(text[-1])
    assert end.is_complete and not end.is_empty


def test_an_empty_piece_behind_a_backslash_changes_nothing() -> None:
    end = ObjectEndFinder()
    for piece in ('{"a": "\\', "", '"'):
        end.add(piece)
        assert end.is_in_string and not end.is_complete
    end.add('"}')
    assert end.is_complete


@pytest.mark.parametrize("text", ["", " \n", "[1]", "[{}]", "7", '"{}"', '{"a": "}', '{"a": "\\"}"', "}"])
def test_what_is_no_whole_object_is_never_complete(text: str) -> None:
    end = ObjectEndFinder()
    for sign in text:
        end.add(sign)
    assert not end.is_complete and end.is_empty is (not text.strip())


def test_what_waits_to_be_scanned_is_bounded_and_the_cost_is_linear() -> None:
    def add(count: int) -> None:
        end = ObjectEndFinder()
        end.add('{"a": "')
        for _ in range(count):
            end.add("{}[] \\\\")
            assert end._pending_chars <= MOST_PENDING_CHARS
        end.add('"}')
        assert end.is_complete

    assert linear(add, MOST_PENDING_CHARS // 16)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", {}), (" ", {}), ("null", {}), (" null ", {}), ('"null"', {}), ('{"a":1}', {"a": 1}), ('"{\\"a\\":1}"', {"a": 1}),
        ('{"a":"half', {"unparsed_arguments": '{"a":"half'}), ("[1]", {"unparsed_arguments": "[1]"}), ('"x"', {"unparsed_arguments": '"x"'}),
    ],
)  # fmt: skip
def test_a_history_always_has_an_object_as_arguments(text: str, value: object) -> None:
    assert arguments_object(text) == value and json.loads(object_text(text)) == value


def test_an_object_in_a_history_stays_as_it_was_written() -> None:
    assert object_text('{ "a" : 1.0 }') == '{ "a" : 1.0 }'
    assert arguments_object("[" * 5000) == {"unparsed_arguments": "[" * 5000}


def test_the_depth_counts_open_objects_and_lists() -> None:
    end = ObjectEndFinder()
    for text, depth in (("{", 1), ('"a":[{"b', 3), ('":"}"', 3), ("}", 2), ("]}", 0)):
        end.add(text)
        assert end.depth == depth
