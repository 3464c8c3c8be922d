"""What is shown as YAML reads back as the same value."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from relayd.schema import Duration, Money, Secret, Size, section, setting
from relayd.schema.describe import keys
from relayd.schema.show import bounds, show_default, show_kind, show_text, show_value


@section()
class Numbers:
    """Numbers."""

    wait: Duration = setting(default=Duration(0), doc="A wait.", zero_is_off=True)
    size: Size = setting(default=Size(2048), doc="A size.", minimum=1024, maximum=1 << 20)
    count: int = setting(doc="A count.", minimum=1)
    names: tuple[str, ...] = setting(default=("a",), doc="Names.")


@given(st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.sampled_from("\n\tä€"), max_size=30))
def test_every_text_reads_back_as_itself(text: str) -> None:
    assert yaml.safe_load(f"a: {show_text(text)}") == {"a": text}
    assert yaml.safe_load(f"[{show_text(text)}]") == [text]


@pytest.mark.parametrize("text", ["off", "yes", "null", "~", "", "1.2", "0660", "1:30", "*.a", "a: b", "#a", "{a}"])
def test_a_text_that_could_be_read_as_something_else_stands_in_quotes(text: str) -> None:
    assert show_text(text).startswith('"')


@pytest.mark.parametrize(("value", "text"), [
    (True, "true"), (None, "null"), (Duration(90), "90s"), (Size(65536), "64KiB"), (Money(2_500_000_000), "2.5"), (5, "5"), (0.5, "0.5"),
    (["a", 1], "[a, 1]"), ({"a": ("b",)}, "{a: [b]}"),
])
def test_values_are_written_as_an_operator_would(value: Any, text: str) -> None:
    assert show_value(value) == text


def test_a_secret_cannot_be_shown() -> None:
    with pytest.raises(TypeError):
        show_value(Secret("sk", "env A"))


def test_defaults_bounds_and_kinds_are_told_in_words() -> None:
    wait, size, count, names = keys(Numbers)
    assert (show_default(wait), bounds(wait)) == ("off", "off for none")
    assert (show_default(size), bounds(size)) == ("2KiB", "1KiB to 1MiB")
    assert (show_default(count), bounds(count)) == ("", "at least 1")
    assert (show_default(names), bounds(names)) == ("[a]", "")
    assert show_kind(tuple[Numbers, ...]) == "list of sections"
    assert show_kind(Literal["a", "b"]) == "a | b"
    assert show_kind(Secret | None) == "secret"
