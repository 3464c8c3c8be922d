"""Large documents in steps: the same values and the same bytes as in one go."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.wire import json_steps
from relayd.wire.body import DECODER, inspect_scanned, is_deeper
from relayd.wire.json_scanner import scanned
from relayd.wire.json_steps import (
    Steps,
    TooWide,
    is_deeper_steps,
    parse_document_steps,
    parse_steps,
    parse_text_steps,
    write_ascii_steps,
    write_steps,
    write_text_steps,
)
from tests.aids.steps import MOST_UNITS, units_of
from tests.unit.wire.test_json_scanner import VALUES


def run(steps: Steps[Any]) -> tuple[Any, int]:
    """The result, and how many steps it took."""
    count = 1
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, count
        count += 1


def parsed(document: bytes) -> tuple[Any, int]:
    return run(parse_steps(inspect_scanned(document, scanned(document))))


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_steps, "MOST_WEIGHT", 3)
    monkeypatch.setattr(json_steps, "LONG_CHARS", 5)


TEXTS = st.text(st.sampled_from('ab"\\/\n\u00e9\u20ac\U0001f600\ud83d\ude00u'), max_size=40)
WIDE = st.recursive(
    VALUES | TEXTS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)


@pytest.mark.usefixtures("small_steps")
@given(st.dictionaries(TEXTS, WIDE, max_size=5), st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_a_document_is_parsed_to_what_it_is(value: dict[str, Any], ascii_only: bool, indent: Any) -> None:
    document = json.dumps(value, ensure_ascii=True, indent=indent)
    if not ascii_only:
        document = json.dumps(json.loads(document), ensure_ascii=False, indent=indent)
    try:
        body = document.encode()
    except UnicodeEncodeError:
        return
    for chunk_bytes in (40, 64, 97):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_steps, "CHUNK_BYTES", chunk_bytes)
            assert parsed(body)[0] == json.loads(body)


@pytest.mark.usefixtures("small_steps")
@settings(max_examples=200)
@given(WIDE)
def test_a_value_is_written_as_what_it_is(value: Any) -> None:
    written, _ = run(write_steps(value))
    assert json.loads(written) == json.loads(json.dumps(value))
    try:
        expected = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return
    assert written == expected


@pytest.mark.parametrize("value", [
    {"a": "x" * 3_000_000}, {"a": "\\\n\"" * 500_000}, {"a": ["\U0001f600" * 100_000, {"b": [[], {}] * 30_000}]},
    {"messages": [{"role": "user", "content": "hi"}] * 30_000}, {"a": {f"k{n}": n for n in range(30_000)}},
    {"a": [[[[["deep"] * 50] * 50] * 50]]}, {"a": [10**4000 - 1, -(10**4000)] * 200},
])  # fmt: skip
def test_large_documents_take_many_steps(value: dict[str, Any]) -> None:
    for ascii_only in (True, False):
        body = json.dumps(value, ensure_ascii=ascii_only).encode()
        found, steps = parsed(body)
        assert found == value and steps >= len(body) // json_steps.CHUNK_BYTES
    written, steps = run(write_steps(value))
    assert json.loads(written) == value and steps > 20


@pytest.mark.parametrize("text", ['{"a":["' + "x" * 200_000, '{"a":[' + "1," * 100_000, '{"a":{' + '"k":1,' * 30_000, "[" + "[]," * 60_000 + "}"])
def test_a_text_that_is_damaged_ends(text: str) -> None:
    with pytest.raises(ValueError):
        run(parse_text_steps(text))


def test_a_string_of_wide_characters_is_bounded() -> None:
    long = "a" * json_steps.MOST_WIDE_CHARS
    assert parsed(json.dumps({"a": long + "a"}).encode())[0] == {"a": long + "a"}
    with pytest.raises(TooWide):
        parsed(json.dumps({"a": long + "\U0001f600"}, ensure_ascii=False).encode())


def test_the_last_value_of_a_repeated_key_counts() -> None:
    body = b'{"a":1,"b":[' + b"2," * 50_000 + b'2],"a":{"c":1,"c":2}}'
    found, _ = parsed(body)
    assert found["a"] == {"c": 2} and len(found["b"]) == 50_001


MARKS = st.sampled_from(list('[]{}",:\\ \n\t01-e.') + ["\\u00", "\\ud83d", "null", "tru", "NaN", "\x01", "\u20ac", "\ud800"])


@settings(max_examples=300)
@given(WIDE, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), MARKS), max_size=2), st.booleans())
def test_a_text_of_which_nothing_is_known_is_parsed_as_at_once(value: Any, changes: list[tuple[int, int, str]], ascii_only: bool) -> None:
    """Also where it is damaged at one or two places."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=1 if len(changes) == 1 else None)
    for at, length, inserted in changes:
        text = text[:at] + inserted + text[at + length :]
    try:
        expected = [DECODER.decode(text)]
    except ValueError:
        expected = []
    for chunk_bytes in (40, 64, 97):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_steps, "CHUNK_BYTES", chunk_bytes)
            patch.setattr(json_steps, "MOST_RUN", 3)
            assert outcome(parse_text_steps(text)) == expected
            try:
                document = text.encode()
            except UnicodeEncodeError:
                continue
            assert outcome(parse_document_steps(document)) == expected


def outcome(steps: Steps[Any]) -> list[Any]:
    """The result, or nothing for a ValueError."""
    try:
        return [run(steps)[0]]
    except ValueError:
        return []


@given(WIDE, st.integers(0, 8))
def test_nesting_is_measured_as_at_once(value: Any, levels: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_steps, "MOST_RUN", 2)
        assert run(is_deeper_steps(value, levels))[0] is is_deeper(value, levels)


@pytest.mark.usefixtures("small_steps")
@given(WIDE)
def test_a_value_is_written_as_text_as_well(value: Any) -> None:
    expected = json.loads(json.dumps(value))
    assert json.loads(run(write_text_steps(value))[0]) == json.loads(run(write_ascii_steps(value))[0]) == expected


DENSE = ("1,", '"a",', '[],{},"a",', '{"a":1},', "[[],[]],", "1.5e3,", '"\\u0041",', '"\\n\\n\\n\\n",', "null ,\n", '{"a" : {"b":[1, 2]}}, ')
LARGE = [
    *(f'{{"a":{{"b":[{scrap * (3_000_000 // len(scrap))}1]}}}}' for scrap in DENSE),
    "{" + ",".join(f'"k{number}":{{}}' for number in range(200_000)) + "}",
    '{"a":"' + "x\\n" * 3_000_000 + '"}', '{"a":"' + "\U0001f600" * 700_000 + '"}', '{"a":' + " " * 3_000_000 + "1}",
    "[" * 60 + '"' + "x" * 3_000_000 + '"' + "]" * 60,
]  # fmt: skip


@pytest.mark.parametrize("text", LARGE, ids=lambda text: text[:30])
def test_no_step_takes_long(text: str) -> None:
    document = text.encode()
    assert units_of(lambda: parse_text_steps(text)) < MOST_UNITS
    assert units_of(lambda: parse_document_steps(document)) < MOST_UNITS
    value = json.loads(text)
    assert units_of(lambda: write_steps(value)) < MOST_UNITS
    assert units_of(lambda: write_ascii_steps(value)) < MOST_UNITS
    assert units_of(lambda: is_deeper_steps(value, 64)) < MOST_UNITS
