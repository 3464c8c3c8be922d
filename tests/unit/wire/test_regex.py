"""The parser takes a subset of Python's expressions, and means the same by it."""

from __future__ import annotations

import pytest

from relayd.wire.regex import ALPHABET, BITS, EVERY, Chars, Repeat, Sequence, Unsupported, parse


def members(text: str) -> bytes:
    tree = parse(text)
    assert isinstance(tree, Chars)
    return bytes(code for code in ALPHABET if tree.mask & BITS[code])


def test_a_set_holds_what_pythons_matcher_takes() -> None:
    assert members("[a-c]") == b"abc"
    assert members("(?i)[a-b]") == b"ABab"
    assert members("(?i:b)") == b"Bb"
    assert members("(?i)(?-i:b)") == b"b"
    assert members(r"\d") == b"0123456789"
    assert members("[]a]") == b"]a"
    assert members("[^]a]") == bytes(code for code in ALPHABET if code not in b"]a")
    assert members(r"[\]\\]") == b"\\]"
    assert members(r"\x41") == b"A"
    assert members(" ") == b""
    assert parse(".") == Chars(EVERY)


def test_a_repetition_knows_its_bounds_its_place_and_its_text() -> None:
    tree = parse("/[a-z]{2,5}+")
    assert isinstance(tree, Sequence)
    repeat = tree.parts[1]
    assert isinstance(repeat, Repeat)
    assert (repeat.least, repeat.most, repeat.possessive, repeat.position, repeat.text) == (2, 5, True, 2, "[a-z]{2,5}+")


@pytest.mark.parametrize(("text", "least", "most"), [
    ("a*", 0, None), ("a+?", 1, None), ("a?", 0, 1), ("a{3}", 3, 3), ("a{2,}", 2, None), ("a{,4}", 0, 4), ("a{,}", 0, None),
])
def test_every_form_of_repetition_is_read(text: str, least: int, most: int | None) -> None:
    tree = parse(text)
    assert isinstance(tree, Repeat) and (tree.least, tree.most) == (least, most)


@pytest.mark.parametrize(("text", "reason", "position"), [
    ("/(?=a)", "lookahead", 2), ("/(?!a)", "separate route", 2), ("/(?<=a)b", "lookbehind", 2), ("/(?<!a)b", "lookbehind", 2),
    (r"/(a)\1", "a backreference", 5), ("/(?P<n>a)(?P=n)", "a backreference", 10), ("/(a)?(?(1)b|c)", "conditional", 6),
    ("/(?#x)a", "comment", 2), (r"/a\b", r"\b", 3), ("/(?x: a)", "(?x:", 2), ("/a^b", "write \\^", 3), ("/a$b", "write \\$", 3),
    ("/u/{id}", "[^/]+", 4), ("(" * 21 + "a" + ")" * 21, "nested deeper", 21), ("(a)" * 33, "more than 32 groups", 97), ("/a)", "unmatched closing", 3),
    ("/(a", "unmatched opening", 2), ("/[a", "unterminated set", 2), ("*a", "nothing to repeat", 1), ("a**", "after a repetition", 3), ("(?m)^a", "(?m)", 1),
])
def test_what_is_not_of_the_subset_is_refused_with_its_place(text: str, reason: str, position: int) -> None:
    with pytest.raises(Unsupported) as refused:
        parse(text)
    assert reason in str(refused.value) and str(refused.value).endswith(f"at character {position}")


def test_anchors_at_both_ends_say_nothing_new() -> None:
    assert parse("^/a$") == parse("/a") == parse(r"\A/a\Z")
    assert parse("^/a$|^/b$") == parse("/a|/b")
