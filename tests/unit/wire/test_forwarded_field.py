"""The elements of the field Forwarded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.forwarded import quoted
from relayd.wire.forwarded_field import MAX_ELEMENT, Element, elements_from_last


def read(*lines: bytes) -> list[Element]:
    return list(elements_from_last(list(lines)))


def test_the_last_element_comes_first_over_all_fields() -> None:
    assert [one.node for one in read(b"for=1, for=2", b"for=3")] == [b"3", b"2", b"1"]


def test_parameters_are_read_in_any_case_and_without_their_quotes() -> None:
    assert read(b'FOR="[::1]";Proto=http;host="a\\"b\\\\c";by=x') == [
        Element(b'FOR="[::1]";Proto=http;host="a\\"b\\\\c";by=x', b"[::1]", b"http", b'a"b\\c')
    ]


def test_a_malformed_element_ends_the_reading() -> None:
    assert [one.node for one in read(b"for=1, bad, for=2")] == [b"2"]
    assert [one.node for one in read(b"for=1", b"bad", b"for=2")] == [b"2"]
    assert read(b"for=1;for=2") == [] and read(b"for=" + b"1" * MAX_ELEMENT) == []


@given(st.lists(st.binary(max_size=12), max_size=4), st.binary(max_size=30))
def test_no_garbage_on_the_left_changes_what_stands_behind_it(values: list[bytes], garbage: bytes) -> None:
    written = [b"for=a;host=" + quoted(value) for value in values]
    line = b", ".join([garbage, *written]) if values else garbage
    found = read(line)[: len(values)]
    assert [one.host for one in found] == values[::-1]
