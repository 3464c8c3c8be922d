"""The raw input of custom tools, decoded from fragments of JSON arguments."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols._custom_input import CustomInputDecoder
from tests.aids.growth import linear

CUTS = st.lists(st.integers(0, 400), max_size=8)


def pieces(text: str, cuts: list[int]) -> list[str]:
    bounds = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(bounds)]


def unwrapped(text: str, cuts: list[int]) -> str:
    decoder = CustomInputDecoder()
    return "".join(decoder.decode(piece) for piece in pieces(text, cuts)) + decoder.end()


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text('"\\{}[]u/nd8', max_size=30)


@given(TEXTS, CUTS, st.booleans(), st.sampled_from([None, 1]))
def test_the_raw_input_is_the_same_for_every_cut(raw: str, cuts: list[int], ascii_only: bool, indent: int | None) -> None:
    text = json.dumps({"input": raw}, ensure_ascii=ascii_only, indent=indent)
    assert unwrapped(text, cuts) == raw
    assert unwrapped(text, list(range(400))) == raw


@given(st.text('{}"input: \\x', max_size=30), CUTS)
def test_arbitrary_text_is_decoded_the_same_for_every_cut(text: str, cuts: list[int]) -> None:
    assert unwrapped(text, cuts) == unwrapped(text, [])


@pytest.mark.parametrize(
    ("text", "raw"),
    [
        ("", ""), ("plain", "plain"), ("ls {", "ls {"), ('"ls"', "ls"), ('{"other": "x", "input": "y"}', "y"), ('{"input": 7}', '{"input": 7}'),
        ('{"input": "cut', "cut"), ('{"input": "cut\\', "cut"), ('{"input": "\\ud83d"}', "�"), ('{"input": "\\ud83d', "�"),
        ('{"input": "\\udc00x"}', "�x"), ('{"input": "\\ud83dx"}', "�x"), ('{"input": "a", "more": "b"}', "a"),
        ('{"input": "\\q\\u12zz"}', "\\q\\u12zz"), ('{ "in', '{ "in'), ('{"input": "\\ud83d\\ude00"}', "\U0001f600"),
    ],
)  # fmt: skip
def test_odd_texts(text: str, raw: str) -> None:
    assert unwrapped(text, []) == unwrapped(text, list(range(60))) == raw


@pytest.mark.parametrize(
    ("value", "is_parsed"),
    [("x" * 200_000, True), ("\n" * 100_000, True), ("x" * 300_000, False), ([{}] * 15_000, True), ([{}] * 20_000, False)],
)
def test_a_late_input_is_found_if_parsing_takes_no_more_than_a_step(value: object, is_parsed: bool) -> None:
    """Parsed at once, 250 KB of brackets would hold the event loop for 40 ms."""
    text = json.dumps({"other": value, "input": "y"})
    assert unwrapped(text, []) == ("y" if is_parsed else text)


def test_the_cost_is_linear() -> None:
    def read(size: int) -> None:
        text = json.dumps({"input": 'a "line" \\ with\nmarks {}' * size})
        decoder = CustomInputDecoder()
        for start in range(0, len(text), 7):
            decoder.decode(text[start : start + 7])

    assert linear(read, 1_000)
