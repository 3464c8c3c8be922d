"""The scanner of JSON documents, against Python's own parser, however the document is cut."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relayd.wire import json_scanner
from relayd.wire.json_scanner import (
    MAX_DEPTH,
    MOST_KEY_BYTES,
    MOST_MEMBERS,
    MOST_NUMBER_CHARS,
    STEP_BYTES,
    JsonFault,
    JsonScanner,
    scanned,
)
from tests.aids.growth import TIMES, linear
from tests.aids.scanning import scan

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=25,
)
SCRAPS = st.lists(
    st.sampled_from([
        b"{", b"}", b"[", b"]", b",", b":", b'"', b'"a"', b'"a":', b'"\\u00e9"', b"\\", b"\\n", b"\\u12", b"1", b"-", b"0.5",
        b"1e", b"+", b"01", b"true", b"null", b"nul", b"NaN", b"-Infinity", b" ", b"\n", b"\x0c", b"\0", b"\xc3\xa4", b"\xc3",
        b"\xef\xbb\xbf", b"[]", b"{}", b'{"a":1}', b"[1,2]",
    ]),
    max_size=14,
).map(b"".join)
CUTS = st.lists(st.integers(1, 9), max_size=40)


def cut(document: bytes, sizes: Sequence[int]) -> list[bytes]:
    """The document in pieces of these sizes, and the rest."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(document[at : at + size])
        at += size
    return [*pieces, document[at:]]


def _no_constant(word: str) -> Any:
    raise ValueError(word)


def parse(document: bytes) -> tuple[list[tuple[str, Any]] | None, int] | None:
    """The members of the outermost object and the number of values; None for what is no JSON."""
    counted = 0

    def pairs(members: list[tuple[str, Any]]) -> Any:
        nonlocal counted
        counted += sum(not isinstance(value, Members) for _, value in members)
        counted += 1
        return Members(members)

    try:
        value = json.loads(document.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return None
    if document.startswith(b"\xef\xbb\xbf"):
        return None
    return (list(value) if isinstance(value, Members) else None), count(value)


class Members(list[tuple[str, Any]]):
    """An object as it was written."""


def count(value: Any) -> int:
    if isinstance(value, Members):
        return 1 + sum(count(inner) for _, inner in value)
    return 1 + sum(map(count, value)) if isinstance(value, list) else 1


def agrees(document: bytes, sizes: Sequence[int]) -> None:
    expected, found = parse(document), scan(cut(document, sizes))
    assert (found is None) == (expected is None)
    if found is None or expected is None:
        return
    members, values = expected
    assert found.values == values and found.is_object is (members is not None)
    last = dict(members or ())
    names = [name for name, _ in members or ()]
    assert set(found.spans) == set(last) and found.repeated == {name for name in names if names.count(name) > 1}
    for name, (start, end) in found.spans.items():
        assert json.loads(document[start:end].decode(), object_pairs_hook=Members) == last[name]
        assert document[start:end].strip() == document[start:end]
    assert found.items == {name: len(value) for name, value in last.items() if type(value) is list}


@given(VALUES, CUTS, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_a_document_is_known_alike_however_it_is_cut(value: Any, sizes: list[int], ascii_only: bool, indent: Any) -> None:
    document = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    agrees(document, sizes)


@given(SCRAPS, CUTS)
@example(b"[1.", [2])
@example(b'{"a":[1e5,-0.5E-3]}', [1] * 19)
@example(b'[[[["a"]]],1]', [])
@example(b'{"a":{"b":{"c":{"d":[]}}},"a":[1]}', [])
@example(b'["a":1]', [])
@example(b'{"a":["b",]}', [])
@example(b'{"a":{"b"}}', [])
@example(b'[{"a":1,}]', [])
@example(b"[truefalse]", [])
@example(b"[1 2]", [])
@example(b"[s]", [])
@example(b'["a\\q","b"]', [])
@example(b'[["\\""],"\\\\"]', [4])
@example(b"[]]", [])
@example(b"1 1", [])
def test_scraps_of_json_are_judged_as_the_parser_judges_them(document: bytes, sizes: list[int]) -> None:
    agrees(document, sizes)
    agrees(b'{"x":' + document + b"}", sizes)
    agrees(b'{"x":[' + document + b',{"y":[' + document + b"]}]}", sizes)


@pytest.mark.parametrize("size", [97, STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1, 1 << 20])
def test_tokens_that_lie_across_steps_are_read_whole(size: int) -> None:
    long = "x" * (STEP_BYTES - 20)
    value = {
        "a": [long, {"b\u00e9" * 3000: [1.5e300, -12345678901234567890] * 3000}, [[], {}, "\\\"\u20ac\n" * 2000, [None, True, False]] * 500],
        "messages": [{"role": "user", "content": [[["deep", [1, [2, [3]]]]]]}] * 1000, "z": long * 3,
    }
    document = json.dumps(value, ensure_ascii=False).encode()
    agrees(document, [size] * (len(document) // size))


@pytest.mark.parametrize(("document", "reason"), [
    (b"", "empty"), (b" ", "truncated"), (b'{"a":1', "truncated"), (b'{"a":1} {}', "after its end"), (b'{"a":1}\0', "null bytes"),
    (b'{"a":NaN}', "NaN"), (b'{"a":[-Infinity]}', "Infinity"), (b'{"a":"\xff"}', "UTF-8"), (b'{"a":"\xed\xa0\x80"}', "UTF-8"),
    (b'\xef\xbb\xbf{}', "byte order mark"), ('{"a":1}'.encode("utf-16"), "byte order mark"),
    ('{"a":1}'.encode("utf-16-le"), "UTF-8"), ('{"a":1}'.encode("utf-32-be"), "UTF-8"), (b'{"a":"\n"}', "control character"),
    (b'{"a":["\t"]}', "control character"), (b'{"a":"\\q"}', "escape"), (b'{"a":["\\u12g4"]}', "escape"),
    (b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "nested"), (b"[" * 1_000_000, "nested"),
    (b'{"a":' + b'{"a":' * MAX_DEPTH, "nested"), (b"1" * (MOST_NUMBER_CHARS + 1), "number"),
    (b'{"a":[1,' + b"1" * 1_000_000, "number"), (b"{" + b'"a":1,' * MOST_MEMBERS + b'"a":1}', "members"),
    (b'{"' + b"a" * MOST_KEY_BYTES, "key"), (b"[" + b"0," * (1 << 20), "values"),
])  # fmt: skip
def test_a_fault_is_named(document: bytes, reason: str) -> None:
    with pytest.raises(JsonFault, match=reason):
        scanned(document)
    with pytest.raises(JsonFault):
        small = JsonScanner()
        for at in range(0, min(len(document), 3000)):
            small.feed(document[at : at + 1])
            small.step()
        small.feed(document[3000:])
        while small.pending:
            small.step()
        small.end()


def test_what_is_at_its_bound_is_taken() -> None:
    inner = MAX_DEPTH - 1
    assert scanned(b'{"a":' + b"[" * inner + b"]" * inner + b"}").values == MAX_DEPTH
    assert len(scanned(b"{" + b",".join(b'"%d":1' % n for n in range(MOST_MEMBERS)) + b"}").spans) == MOST_MEMBERS
    assert scanned(b'{"a":[' + b"1" * MOST_NUMBER_CHARS + b"]}").values == 3
    scanner = JsonScanner(most_values=5)
    scanner.feed(b'{"a":[1,2,3]}')
    scanner.step()
    scanner.end()
    assert scanner.values == 5


def test_keys_are_known_by_what_their_escapes_mean() -> None:
    found = scanned(b'{"mod\\u0065l":1,"model":2,"\\ud800":3}')
    assert found.repeated == {"model"} and set(found.spans) == {"model", "\ud800"}


def test_a_document_that_is_refused_is_refused_at_once() -> None:
    """What comes behind the place of the fault is never looked at."""
    for beginning in (b"[" * 100, b'{"a":' + b'"' * 9, b"[" + b"[],{}," * 600_000, b"{" + b'"k":1,' * 2000):
        scanner = JsonScanner()
        scanner.feed(beginning + b" " * 20_000_000)
        steps = 0
        with pytest.raises(JsonFault):
            while scanner.pending:
                scanner.step()
                steps += 1
        assert steps <= len(beginning) // STEP_BYTES + 1


@pytest.mark.parametrize("part", [
    b'[],{},"a",', b"[[[[[]]]]],", b"[" * 61 + b"]" * 61 + b",", b'{"a":{"a":{"a":{}}}},', b"1,", b'"\\"",', b"1e5,",
    b'{"role":"user","content":"hi"},',
])  # fmt: skip
def test_a_step_costs_alike_at_the_beginning_and_behind_a_million_values(part: bytes) -> None:
    """The work of a step depends on its bytes alone: nothing grows with what has passed."""
    scanner = JsonScanner(most_values=1 << 30)
    scanner.feed(b'{"a":[')
    scanner.step()
    held = []
    for _ in range(40):
        scanner.feed(part * (64 * 1024 // len(part)))
        while scanner.pending:
            scanner.step()
        held.append(len(scanner._buffer) + len(scanner._stack) + len(scanner.spans))
    assert max(held) < 200 and json_scanner.STEP_BYTES <= 16 * 1024


@pytest.mark.parametrize("sign", [b"7", b"0.5", b"1e+", b"-"])
def test_a_long_number_costs_no_more_than_its_length(sign: bytes) -> None:
    def scan(size: int) -> None:
        with contextlib.suppress(JsonFault):
            scanned(b'{"a":[' + b",".join([(sign * size)[:size]] * 40) + b"]}")

    assert linear(scan, MOST_NUMBER_CHARS // TIMES)


def test_no_pattern_repeats_a_group_possessively() -> None:
    """Python 3.11.2, which Debian 12 has, matches too little then."""
    root = Path(json_scanner.__file__).parent.parent
    for file in root.rglob("*.py"):
        assert not re.search(r"(?<!\()\)(?:[*+?]|\{\d*,?\d*\})\+(?!\s)", file.read_text()), file
