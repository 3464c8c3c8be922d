"""The scanner of JSON bodies and the parser in steps against a slow, obvious reader, on texts that are nearly JSON.

Laws that are searched for a counterexample:
1. The scanner and the slow reader agree: verdict, number of values, keys, places of values, lengths of lists.
2. No cut of the input changes anything.
3. What the scanner takes, the parser in steps reads as Python's own parser does, and the look at a small body agrees.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.protocols.dialect import run_steps
from relayd.wire.body import JsonBody, inspect_json, inspect_scanned
from relayd.wire.json_scanner import MAX_DEPTH, JsonScanner
from relayd.wire.json_steps import parse_steps, write_steps
from tests.aids.scanning import scan
from tests.fuzz.oracles import cuts, until_time_is_up

WORDS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"a"', b'"model"', b'"Model"', b'"mod\\u0065l"', b'"\\ud83d\\ude00"', b'"\xc3\xa4"',
    b'"', b"\\", b"1", b"-0", b"1.5e+3", b"01", b"true", b"null", b"NaN", b" ", b"\n", b"\t", b"\0", b"\xff", b"\xef\xbb\xbf", b"[]", b"{}",
    b'{"a":1}', b"[1,[2,[3,[4]]]]", b'"x"', b'{"a":{"b":{"c":{"d":1}}}}', b'"stream":true', b",,", b'"\\q"', b'"\n"',
)  # fmt: skip


class SlowFault(Exception):
    pass


class Slow:
    """A reader by recursive descent, one byte after the other."""

    def __init__(self, data: bytes) -> None:
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            raise SlowFault from None
        self.data, self.at, self.values = data, 0, 0
        self.spans: dict[str, tuple[int, int]] = {}
        self.repeated: set[str] = set()
        self.items: dict[str, int] = {}
        self.is_object = data.lstrip(b" \t\r\n")[:1] == b"{"
        self.blanks()
        self.value(0)
        self.blanks()
        if self.at != len(data):
            raise SlowFault

    def peek(self) -> bytes:
        return self.data[self.at : self.at + 1]

    def blanks(self) -> None:
        while self.peek() in (b" ", b"\t", b"\r", b"\n"):
            self.at += 1

    def take(self, wanted: bytes) -> None:
        if self.peek() != wanted:
            raise SlowFault
        self.at += 1

    def value(self, depth: int) -> int:
        """How many items a list has."""
        self.values += 1
        if self.peek() in (b"[", b"{"):
            if depth == MAX_DEPTH:
                raise SlowFault
            return self.container(depth + 1)
        if self.peek() == b'"':
            self.string()
            return -1
        for word in (b"true", b"false", b"null"):
            if self.data.startswith(word, self.at):
                self.at += len(word)
                return -1
        self.number()
        return -1

    def container(self, depth: int) -> int:
        is_list = self.peek() == b"["
        self.at += 1
        count = 0
        self.blanks()
        while self.peek() != (b"]" if is_list else b"}"):
            if count:
                self.take(b",")
                self.blanks()
            key = ""
            if not is_list:
                key = self.string()
                self.blanks()
                self.take(b":")
                self.blanks()
            start = self.at
            items = self.value(depth)
            if depth == 1 and not is_list:
                self.member(key, start, items)
            count += 1
            self.blanks()
        self.at += 1
        return count if is_list else -1

    def member(self, key: str, start: int, items: int) -> None:
        if key in self.spans:
            self.repeated.add(key)
        self.spans[key] = (start, self.at)
        self.items.pop(key, None)
        if items >= 0:
            self.items[key] = items

    def string(self) -> str:
        start = self.at
        self.take(b'"')
        while self.peek() != b'"':
            byte = self.peek()
            if not byte or byte < b" ":
                raise SlowFault
            self.at += 1
            if byte == b"\\":
                escape = self.peek()
                self.at += 1
                if escape == b"u":
                    digits = self.data[self.at : self.at + 4]
                    if len(digits) < 4 or digits.strip(b"0123456789abcdefABCDEF"):
                        raise SlowFault
                    self.at += 4
                elif not escape or escape not in b'"\\/bfnrt':
                    raise SlowFault
        self.at += 1
        return str(json.loads(self.data[start : self.at].decode("utf-8")))

    def digits(self) -> None:
        start = self.at
        while self.peek().isdigit():
            self.at += 1
        if self.at == start:
            raise SlowFault

    def number(self) -> None:
        if self.peek() == b"-":
            self.at += 1
        if self.peek() == b"0":
            self.at += 1
        else:
            self.digits()
        if self.peek() == b".":
            self.at += 1
            self.digits()
        if self.peek() in (b"e", b"E"):
            self.at += 1
            if self.peek() in (b"+", b"-"):
                self.at += 1
            self.digits()


def known(found: Slow | JsonScanner | None) -> Any:
    return None if found is None else (found.values, found.spans, found.repeated, found.items, found.is_object)


def said(look: JsonBody) -> tuple[Any, ...]:
    return bool(look.fault), look.ambiguity, look.model_fault, look.model, {key: look.span(key) for key in look.spans}, look.flag("stream")


def finite(digits: str) -> float:
    """A number that is too large for a double becomes the largest one: JSON has no infinity."""
    return max(-sys.float_info.max, min(sys.float_info.max, float(digits)))


def check(rng: random.Random, data: bytes) -> bool:
    """Hold one text against the laws; True if it is JSON."""
    try:
        slow: Slow | None = Slow(data)
    except SlowFault:
        slow = None
    whole = scan([data])
    assert known(whole) == known(slow), data
    for _ in range(2):
        assert known(scan(cuts(rng, data))) == known(slow), data
    if whole is None or not whole.is_object:
        assert inspect_json(data).fault, data
        return False
    large = inspect_scanned(data, whole)
    assert said(inspect_json(data)) == said(large), data
    value = json.loads(data)
    assert run_steps(parse_steps(large)) == value, data
    assert json.loads(run_steps(write_steps(value))) == json.loads(data, parse_float=finite), data
    return True


def nearly(rng: random.Random) -> bytes:
    """A text of JSON's words, in the outermost object or not."""
    text = b"".join(rng.choices(WORDS, k=rng.randrange(12)))
    around = rng.randrange(5)
    if around == 1:
        return b'{"a":' + text + b"}"
    if around == 2:
        return b'{"a":[' + text + b'],"model":"x"}'
    if around == 3:
        return b'{"a":[1,{"b":[' + text + b"]},[]]}"
    return text


def valid(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(8 if depth < 6 else 5)
    if kind > 5:
        return [valid(rng, depth + 1) for _ in range(rng.randrange(5))]
    if kind > 4:
        return {rng.choice(("a", "model", "MODEL", "stream", "\u00e9", "\\")): valid(rng, depth + 1) for _ in range(rng.randrange(5))}
    return rng.choice((None, True, 1, -2.5e10, "", "a\\\"\n", "\U0001f600\u20ac" * rng.randrange(9), "x" * rng.randrange(2000), 10**40))


def mutant(rng: random.Random) -> bytes:
    """A valid document, with a byte changed now and then."""
    members = {f"k{number}" if number else "model": valid(rng) for number in range(rng.randrange(5))}
    data = bytearray(json.dumps(members, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, None, 1))).encode())
    for _ in range(rng.randrange(3)):
        place = rng.randrange(len(data))
        data[place : place + rng.randrange(2)] = rng.choice(WORDS)
    return bytes(data)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 40))
def test_scanner_and_parser_read_what_a_slow_reader_reads(seed: int) -> None:
    rng = random.Random(seed)
    check(rng, nearly(rng))
    check(rng, mutant(rng))


@pytest.mark.fuzz
def test_scanner_and_parser_for_a_long_time() -> None:
    corpus = tuple(mutant(random.Random(seed)) for seed in range(50))
    taken = 0
    for rng, data in until_time_is_up(9, corpus):
        taken += check(rng, data) + check(rng, nearly(rng)) + check(rng, mutant(rng))
    assert taken
