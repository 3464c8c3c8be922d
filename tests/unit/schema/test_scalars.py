"""A word means what the expected type says, not what YAML 1.1 would make of it."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.schema import Duration, Money, Size, section, setting
from relayd.schema.describe import Key, keys
from relayd.schema.nodes import Mark, Scalar
from relayd.schema.scalars import ScalarError, meant, parse_scalar, shown


@section()
class Words:
    """Keys with rules."""

    name: str = setting(default="", doc="A name.", pattern="[a-z]+")
    text: str = setting(default="", doc="A text.", multiline=True)
    limit: Duration = setting(default=Duration(1), doc="A limit.", zero_is_off=True, minimum=1, maximum=60)
    wait: Duration = setting(default=Duration(1), doc="A wait.")
    count: int = setting(default=1, doc="A count.", minimum=1, maximum=9)
    size: Size = setting(default=Size(1), doc="A size.", maximum=1024)
    amount: Money = setting(default=Money(1), doc="An amount.", minimum=1_000_000_000)


KEY: dict[str, Key] = {key.name: key for key in keys(Words)}


def read(text: str, kind: Any, key: str | None = None, plain: bool = True) -> Any:
    return parse_scalar(Scalar(text, plain, Mark("a")), kind, KEY[key] if key else None)


@pytest.mark.parametrize("text", ["off", "on", "yes", "no", "true", "1:30", "0660", "1.2", "1e3", "2024-01-01", "0x10"])
def test_a_text_keeps_the_words_that_yaml_would_turn_into_something_else(text: str) -> None:
    assert read(text, str) == text


@pytest.mark.parametrize(("text", "value"), [("true", True), ("Yes", True), ("on", True), ("false", False), ("OFF", False)])
def test_truth_is_any_of_the_words_of_yaml(text: str, value: bool) -> None:
    assert read(text, bool) is value


@pytest.mark.parametrize(("text", "plain"), [("maybe", True), ("1", True), ("true", False), ("y", True)])
def test_what_is_not_clearly_true_or_false_is_refused(text: str, plain: bool) -> None:
    with pytest.raises(ScalarError):
        read(text, bool, plain=plain)


@pytest.mark.parametrize("text", ["1:30", "010", "0x10", "1_000", "1e3", "1.0", "٣", "", "9" * 30, "+1", "--1"])
def test_a_number_has_no_second_reading(text: str) -> None:
    with pytest.raises(ScalarError):
        read(text, int)


def test_numbers_stay_within_their_bounds() -> None:
    assert read("9", int, "count") == 9
    for text, message in (("0", "must be at least 1"), ("10", "must be at most 9")):
        with pytest.raises(ScalarError, match=message):
            read(text, int, "count")
    with pytest.raises(ScalarError, match="must be at most 2147483647"):
        read("2147483648", int)
    with pytest.raises(ScalarError, match="must be at most 1KiB"):
        read("2KiB", Size, "size")


def test_off_and_zero_switch_off_only_where_that_is_allowed() -> None:
    assert read("off", Duration, "limit") == 0
    assert read("0", Duration, "limit") == 0
    with pytest.raises(ScalarError, match="must be at least 1s"):
        read("500ms", Duration, "limit")
    for text in ("off", "0"):
        with pytest.raises(ScalarError):
            read(text, Duration, "wait")


def test_a_choice_is_one_of_its_words_and_a_near_miss_is_named() -> None:
    kind = Literal["round_robin", "random"]
    assert read("random", kind) == "random"
    assert read("308", Literal[307, 308]) == 308
    assert read("1.2", Literal["1.2", "1.3"]) == "1.2"
    with pytest.raises(ScalarError) as caught:
        read("roundrobin", kind)
    assert caught.value.suggestion == "did you mean round_robin?"


def test_nothing_is_not_a_word() -> None:
    for kind in (str, int, bool, Duration, Size, Literal["a"]):
        with pytest.raises(ScalarError, match="needs a value"):
            read("", kind)
    assert read("null", str, plain=False) == "null"


def test_a_pattern_holds_for_the_whole_text() -> None:
    assert read("abc", str, "name") == "abc"
    for text in ("abc1", "abc\n", ""):
        with pytest.raises(ScalarError):
            read(text, str, "name", plain=False)


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\0b", "a\x7fb", "a\tb", "\x1b[31m"])
def test_a_text_holds_no_control_character(text: str) -> None:
    with pytest.raises(ScalarError, match="control character"):
        read(text, str, plain=False)


def test_a_text_of_several_lines_is_allowed_where_declared() -> None:
    assert read("a\n\tb", str, "text", plain=False) == "a\n\tb"
    with pytest.raises(ScalarError):
        read("a\rb", str, "text", plain=False)


def test_a_quoted_word_in_a_message_is_short_and_has_no_control_bytes() -> None:
    assert len(shown("x" * 500)) < 70
    assert "\x1b" not in shown("\x1b[31m")
    assert meant("zzz", ["round_robin"]) == ""


@given(st.text(max_size=60), st.booleans(), st.sampled_from([str, bool, int, float, Duration, Size, Literal["a", "b"]]))
def test_any_word_is_a_value_or_a_word_error(text: str, plain: bool, kind: Any) -> None:
    try:
        read(text, kind, plain=plain)
    except ScalarError as fault:
        assert "\n" not in fault.message
