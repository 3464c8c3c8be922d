"""Values in lines: escaped once, never able to begin a line of their own."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from relayd.telemetry.text import MAX_QUOTED, QUOTED, Stamp, plain, quoted, safe


@given(st.text())
def test_any_text_becomes_one_json_string_without_control_characters(text: str) -> None:
    line = f'"{quoted(text)}"'
    read = json.loads(line)
    assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in read)
    assert "\n" not in line


@given(st.text())
def test_any_text_becomes_a_part_of_one_line(text: str) -> None:
    assert len(f"a{safe(text)}b".splitlines()) == 1
    assert '"' not in safe(text)


@given(st.text())
def test_plain_text_is_just_what_needs_no_escaping(text: str) -> None:
    if plain(text):
        assert quoted(text) == safe(text) == text == json.loads(f'"{text}"')


def test_quotes_and_backslashes_and_line_ends_are_escaped() -> None:
    assert safe('a"\\\n\x1b[31m') == "a\\x22\\x5c\\x0a\\x1b[31m"
    assert json.loads(f'"{quoted(chr(10))}"') == "\\x0a"


def test_the_values_that_clients_choose_are_cached_up_to_a_bound() -> None:
    long = '"' * 257
    assert QUOTED[long] == quoted(long) and long not in QUOTED
    assert QUOTED['a"b'] == QUOTED['a"b'] == quoted('a"b')
    for number in range(MAX_QUOTED + 9):
        assert QUOTED[f"model-{number}"] == f"model-{number}"
    assert len(QUOTED) == MAX_QUOTED and QUOTED["another\n"] == quoted("another\n")
    QUOTED.clear()


def test_the_stamp_is_utc_with_milliseconds_and_goes_on_within_and_across_seconds() -> None:
    stamp = Stamp()
    assert stamp.format(1_700_000_000.25) == "2023-11-14T22:13:20.250Z"
    assert stamp.format(1_700_000_000.9999) == "2023-11-14T22:13:20.999Z"
    assert stamp.format(1_700_000_001.0) == "2023-11-14T22:13:21.000Z"
    assert stamp.format(1_700_000_000.0) == "2023-11-14T22:13:20.000Z"


def test_an_apostrophe_is_no_quote_of_any_line() -> None:
    assert safe("doesn't\n") == "doesn't\\x0a"
    assert quoted("doesn't \"x\"") == "doesn't \\\\x22x\\\\x22"
    assert plain("doesn't")
