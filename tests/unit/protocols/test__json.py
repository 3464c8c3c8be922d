"""JSON of requests and answers: what is wrong is named, what is odd is borne."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.protocols import _json
from relayd.protocols.dialect import Refused, run_steps
from relayd.wire import json_steps
from relayd.wire.json_steps import Steps
from tests.aids.steps import MOST_UNITS, units_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_is_read_again(value: Any) -> None:
    assert _json.parse(_json.write(value)) == value
    assert _json.parse(_json.write_text(value)) == value


def test_half_a_surrogate_pair_is_escaped_and_everything_else_is_utf_8() -> None:
    assert _json.write({"a": "é"}) == '{"a":"é"}'.encode()
    assert _json.write({"a": "\ud83d"}) == b'{"a":"\\ud83d"}'


@pytest.mark.parametrize("text", ['{"a":1e400}', '[-1e400,{"b":[1e999]}]', '{"a":NaN}', '[Infinity,-Infinity,"\\ud83d"]'])
def test_what_is_written_is_json_whatever_numbers_were_read(text: str) -> None:
    def never(name: str) -> None:
        raise AssertionError(name)

    value = json.loads(text)
    for written in (_json.write(value), _json.write_text(value), _json.write_with({"x": value}, "y", b"1")):
        json.loads(written, parse_constant=never)
    assert _json.write({"a": (1e400, -1e400, float("nan"))}) == b'{"a":[1.7976931348623157e+308,-1.7976931348623157e+308,null]}'


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":"x\xffy","b":1}', {"a": "x\ufffdy", "b": 1}),
        (b'{"a":NaN,"b":[-Infinity,Infinity,1]}', {"a": None, "b": [None, None, 1]}),
        (b'{"a":' + b"9" * 5000 + b',"b":1}', {"a": None, "b": 1}),
        (b'{"a":"x\ty"}', {"a": "x\ty"}),
        (b'{"a\xe9":NaN}', {"a\ufffd": None}),
    ],
)
def test_one_odd_value_does_not_cost_an_answer_and_is_refused_in_a_request(data: bytes, value: Any) -> None:
    assert _json.parse_lenient(data) == value
    with pytest.raises(ValueError):
        _json.parse(data)


@pytest.mark.parametrize("data", [b'{"a":NaN', b"nan", b"", b"[" * 200_000, b"[NaN," + b"1," * 2_000_000 + b"1]", b'{"a":\xff}'])
def test_what_is_no_json_at_all_is_none_in_an_answer_either(data: bytes) -> None:
    with pytest.raises(ValueError):
        _json.parse_lenient(data)


@given(st.binary(max_size=60))
def test_no_body_raises_anything_but_a_refusal(body: bytes) -> None:
    try:
        assert isinstance(_json.read_object(body), dict)
    except Refused as refused:
        assert refused.status == 400 and refused.code == "invalid_json"


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1', "line 1 column 8"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": "\xff"}', "not UTF-8: byte 7"),
        (b"[]", "must be an object, not a list"),
        (b"null", "not null"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "nested more than 64"),
    ],
)
def test_an_unreadable_body_is_refused_with_a_reason(body: bytes, names: str) -> None:
    with pytest.raises(Refused, match=names):
        _json.read_object(body)


def test_the_deepest_body_that_is_allowed_is_read() -> None:
    body = b'{"a":' + b"[" * 63 + b"]" * 63 + b"}"
    assert _json.read_object(body) == json.loads(body)


@given(VALUES, st.integers(0, 6))
def test_depth_is_counted_as_a_slow_reader_counts_it(value: Any, levels: int) -> None:
    def depth(one: Any) -> int:
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    assert _json.is_deeper(value, levels) == (depth(value) > levels)


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        ("x", "a string", "x"), (3, "an integer", 3), (3.0, "an integer", 3), (3, "a number", 3), (0.5, "a number", 0.5),
        (False, "a boolean", False), ({}, "an object", {}), ([], "a list", []),
    ],
)  # fmt: skip
def test_a_member_of_the_right_kind_is_read(value: Any, kind: str, read: Any) -> None:
    assert _json.optional({"k": value}, "k", kind) == read
    assert _json.required({"k": value}, "k", kind) == read
    assert _json.optional({"k": None}, "k", kind) is None


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, "a string"), (True, "an integer"), (True, "a number"), (1.5, "an integer"), (1e300, "an integer"),
        (1, "a boolean"), ([], "an object"), ({}, "a list"), ("1", "a number"),
    ],
)  # fmt: skip
def test_a_member_of_another_kind_is_refused_with_its_path(value: Any, kind: str) -> None:
    with pytest.raises(Refused) as caught:
        _json.optional({"k": value}, "k", kind, "tools[3].")
    assert caught.value.param == "tools[3].k" and kind in caught.value.message


def test_a_missing_member_is_named() -> None:
    for members in ({}, {"k": None}):
        with pytest.raises(Refused) as caught:
            _json.required(members, "k", "a string", "a.")
        assert (caught.value.param, caught.value.code) == ("a.k", "missing_required_parameter")


@given(VALUES)
def test_the_lenient_half_takes_any_value(value: Any) -> None:
    assert isinstance(_json.an_object(value), dict) and isinstance(_json.a_list(value), list)
    assert isinstance(_json.a_text(value), str) and _json.a_count(value) >= 0


@pytest.mark.parametrize(("value", "count"), [(7, 7), (7.0, 7), (7.5, 0), (-1, 0), (True, 0), ("7", 0), (1 << 60, 0)])
def test_a_count_is_a_count(value: Any, count: int) -> None:
    assert _json.a_count(value) == count


def test_json_inside_of_a_message_is_bounded() -> None:
    long = "x" * (_json.MOST_TEXT_CHARS - 10)
    assert _json.parse_bounded('{"a":"%s"}' % long) == {"a": long}  # noqa: UP031
    for text in ('{"a":"%s"}' % (long + "0123456789"), "[" + "[]," * 300_000 + "1]", '{"a":"' + '\\"' * 100_000, "{" + '"' * 99_999):
        with pytest.raises(ValueError):
            _json.parse_bounded(text)


def test_a_list_that_is_too_long_is_refused_with_its_length() -> None:
    _json.no_more_than(2, [1, 2], "x")
    with pytest.raises(Refused, match="3 entries; at most 2"):
        _json.no_more_than(2, [1, 2, 3], "x")


# ---- in steps


def outcome(work: Any, data: Any) -> list[Any]:
    """The result, or nothing for a ValueError."""
    try:
        found = work(data)
        return [run_steps(found) if isinstance(found, Generator) else found]
    except ValueError:
        return []


ODD = st.sampled_from([b"[", b"]", b"{", b"}", b'"', b",", b":", b"\\", b"\xff", b"\xe2\x82", b"\xed\xa0\x80", b"NaN", b"-Infinity", b"\x01", b"\n", b"0", b"\xef\xbb\xbf"])


@settings(max_examples=300)
@given(VALUES, st.lists(st.tuples(st.integers(0, 300), st.integers(0, 2), ODD), max_size=2), st.booleans())
def test_an_endpoints_document_is_parsed_in_steps_as_at_once(value: Any, changes: list[tuple[int, int, bytes]], ascii_only: bool) -> None:
    """Also where it is damaged, is no UTF-8, or has values that JSON does not know."""
    data = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "replace")
    for at, length, inserted in changes:
        data = data[:at] + inserted + data[at + length :]
    expected = outcome(_json.parse_lenient, data)
    for chunk_bytes in (40, 97):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_steps, "CHUNK_BYTES", chunk_bytes)
            patch.setattr(_json, "CHUNK_BYTES", chunk_bytes)
            assert outcome(_json.parse_lenient_steps, data) == expected


@given(VALUES, st.lists(st.tuples(st.integers(0, 300), st.sampled_from(list('[]{}",\\')))))
def test_a_text_inside_of_a_message_is_parsed_in_steps_as_at_once(value: Any, changes: list[tuple[int, str]]) -> None:
    text = json.dumps(value)
    for at, inserted in changes:
        text = text[:at] + inserted + text[at:]
    expected = outcome(_json.parse, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_steps, "CHUNK_BYTES", 40)
        patch.setattr(_json, "CHUNK_BYTES", 40)
        assert outcome(_json.parse_bounded_steps, text) == expected


@pytest.mark.parametrize("text", [
    '{"a":"' + "x\\n" * 1_300_000 + '"}', '{"a":[' + '"",' * 400_000 + "1]}", '{"a":[' + "{}," * 170_000 + "1]}", '{"a":' + " " * 400_000 + "1}",
    '{"a":"' + '\\"' * 1_900_000, '"' + "\U0001f600" * 900_000 + '"',
], ids=["escapes", "quotes", "objects", "blanks", "no end", "wide"])  # fmt: skip
def test_no_step_takes_long(text: str) -> None:
    def tried(steps: Steps[Any]) -> Steps[Any]:
        try:
            return (yield from steps)
        except ValueError:
            return None

    assert units_of(lambda: tried(_json.parse_bounded_steps(text))) < MOST_UNITS
    for data in (text.encode(), text.encode() + b"\xff", text.replace("x", "\t").encode()):
        assert units_of(lambda: tried(_json.parse_lenient_steps(data))) < MOST_UNITS  # noqa: B023
