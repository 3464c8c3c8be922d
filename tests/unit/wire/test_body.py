"""One member of a JSON body, found and replaced without touching anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire import body as peeking
from relayd.wire.body import flag_member, inspect_json, member_span, pop_parsed_object, replace_member
from relayd.wire.json_scanner import MAX_DEPTH
from tests.aids.growth import linear

T = TypeVar("T")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.sampled_from(["model", "a", "Model", "\\", '"', "mod\u00e9l"]) | st.text(), JSON, max_size=6)


def by_both_ways(ask: Callable[[bytes], T], body: bytes) -> T:
    """What is said of a body that is parsed, and of the same body were it too large for that."""
    parsed = ask(bytes(bytearray(body)))
    usual, peeking.PARSED_BYTES = peeking.PARSED_BYTES, -1
    try:
        skipped = ask(bytes(bytearray(body)))
    finally:
        peeking.PARSED_BYTES = usual
    assert parsed == skipped
    return parsed


def model_of(body: bytes) -> str | None:
    return by_both_ways(peeking.model_of, body)


@given(OBJECTS, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_the_model_is_the_one_that_a_full_parse_finds(value: dict[str, Any], ascii_only: bool, indent: Any) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    model = value.get("model")
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return
    assert model_of(body) == (model if isinstance(model, str) else None)


@given(OBJECTS.map(lambda value: value | {"model": "x"}), st.text(), st.booleans())
def test_a_replaced_member_changes_its_own_bytes_only(value: dict[str, Any], new: str, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    replaced = by_both_ways(lambda one: replace_member(one, "model", new), body)
    assert replaced is not None
    old_value, new_value = b'"x"', json.dumps(new).encode()
    assert len(replaced) == len(body) - len(old_value) + len(new_value)
    assert json.loads(replaced.decode("utf-8", "surrogatepass")) == value | {"model": new}
    assert list(json.loads(replaced.decode("utf-8", "surrogatepass"))) == list(value)


def test_blanks_escapes_and_numbers_around_the_member_stay_as_written() -> None:
    body = b'\n{ "a" : 1.50e+2 ,"mod\\u0065l"\t:  "old" , "z":"\\/\\u00e9", "n": -0 }\n'
    assert replace_member(body, "model", 'n"w') == body.replace(b'"old"', b'"n\\"w"')
    assert model_of(body) == "old"


def test_a_value_of_any_kind_is_replaced() -> None:
    assert replace_member(b'{"model":{"a":["}"]},"b":1}', "model", "x") == b'{"model":"x","b":1}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b'"model"',
        b'[{"model":"x"}]',
        b"{}",
        b'{"a":{"model":"x"}}',
        b'{"a":"\\"model\\":\\"x\\""}',
        b'{"model":"x"',
        b'{"model":"x",}',
        b'{"model":"x"} {}',
        b'{"model":"x"}x',
        b'{"model" "x"}',
        b"{'model':'x'}",
        b'{"model":"x","a":[}',
        b'{"model":"x","a":[}]}',
        b'{"model":"x","a":nul}',
        b'{"model":"x","a":01}',
        b'{"model":"a\nb"}',
        b'{"model":"\\q"}',
        b'{"model":"\xff"}',
        '{"model":"x"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"model":"x"}',
    ],
)
def test_what_is_no_plain_object_with_a_model_has_none(body: bytes) -> None:
    assert model_of(body) is None


def test_every_beginning_of_a_body_has_a_fault() -> None:
    body = b' { "model" : "x" , "a\\u0062" : [1, {"c": null}] , "tools":[{"n":1}], "d" : {} }'
    assert not inspect_json(body).fault and model_of(body) == "x"
    for end in range(len(body)):
        assert inspect_json(body[:end]).fault, body[:end]


@pytest.mark.parametrize("body", [b'{"model":"a","model":"b"}', b'{"model":"a","x":1,"mod\\u0065l":"b"}'])
def test_a_repeated_member_is_ambiguous_and_has_no_value(body: bytes) -> None:
    assert model_of(body) is None
    assert replace_member(body, "model", "c") is None


def test_nesting_is_followed_to_its_limit_and_no_further() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b',"model":"x"}'

    assert model_of(nested(MAX_DEPTH)) == "x"
    for depth in (MAX_DEPTH + 1, 900, 5_000, 100_000):
        assert peeking.model_of(nested(depth)) in ("x", None)
    assert peeking.model_of(nested(200_000)) is None
    assert model_of(b'{"a":' + b"[" * 200_000) is None
    assert model_of(b'{"a":' + b"[" * 500_000) is None


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b'{"a":"', b"\\"),
        (b'{"a":["', b'","'),
        (b'{"a":', b'"'),
        (b'{"a":[', b"1,"),
        (b'{"a":[', b"[],"),
        (b"", b" "),
        (b'{"a":', b"1"),
        (b"{", b'"a":1,'),
    ],
)
def test_a_hostile_body_costs_linear_time(begin: bytes, more: bytes) -> None:
    def look(size: int) -> None:
        assert model_of(begin + more * (size // len(more))) is None

    assert linear(look, 60_000)


def test_the_position_of_a_member_is_found_for_values_of_every_kind() -> None:
    body = b'{"a": {"b": true}, "b" : true,"c":[1]}'
    for key, value in (("a", b'{"b": true}'), ("b", b"true"), ("c", b"[1]")):
        span = by_both_ways(lambda one, key=key: member_span(one, key), body)  # type: ignore[misc]
        assert span is not None and body[span[0] : span[1]] == value
    assert member_span(body, "d") is None and member_span(b'{"a":1,"a":2}', "a") is None


@pytest.mark.parametrize(("body", "expected"), [
    (b'{"stream": true}', True), (b'{"stream":"true"}', False), (b'{"stream":1}', False), (b"{}", False),
    (b'{"stream":true,"stream":true}', False), (b'{"a":{"stream":true}}', False), (b'{"str\\u0065am":true}', True),
])
def test_a_flag_is_true_only_if_it_occurs_once_and_is_true(body: bytes, expected: bool) -> None:
    assert by_both_ways(lambda one: flag_member(one, "stream"), body) is expected


def test_what_was_parsed_for_a_look_is_taken_over_once() -> None:
    body = b'{"model":"x","a":[1,{"b":2}]}'
    assert pop_parsed_object(body) is None
    assert peeking.model_of(body) == "x"
    assert pop_parsed_object(body) == {"model": "x", "a": [1, {"b": 2}]} and pop_parsed_object(body) is None
    assert peeking.model_of(body) == "x"  # and is looked at again where somebody asks


@pytest.mark.parametrize("body", [
    b'{"model":"x","a":NaN}', b'{"model":"x","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"[1]", b'{"model":"x",}',
    b'{"model":"x" "a":1}', b'{"model":"x"}}', b'{"model":"x",1:2}', b'{"model":"\\ud800"', b"",
])
def test_what_cannot_be_parsed_is_not_handed_on(body: bytes) -> None:
    assert peeking.model_of(body) is None and pop_parsed_object(body) is None


def test_the_place_of_a_member_is_found_among_others_of_its_name() -> None:
    body = b'{"tools":[{"model":{"type":"string"}}],"x":"model","model":"old"}'
    assert replace_member(body, "model", "new") == body.replace(b'"old"', b'"new"')
    escaped = b'{"a":{"model":"old"},"mod\\u0065l":"old"}'
    assert replace_member(escaped, "model", "new") == b'{"a":{"model":"old"},"mod\\u0065l":"new"}'


def look(body: bytes) -> tuple[str, str | None]:
    """Whether readers could dispute the body, and its model."""
    return by_both_ways(lambda one: (bool(peeking.inspect_json(one).refusal_reason) * "unclear", peeking.inspect_json(one).model), body)


@pytest.mark.parametrize("body", [
    b'{"model":"x","Model":"y"}', b'{"MODEL":"y"}', b'{"model":"x","mod\\u0065l":"y"}', b'{"model":"x","mo-d_el":"y"}', b'{"model":"x"," model":1}',
    b'{"model":"x","model\\u0000y":1}', b'{"model":"x","model[]":1}', b'{"stream":true,"stream":true}', '{"\u017ftream":true}'.encode(),
    b'{"STREAM":1}', b'{"model":1}', b'{"model":null}', b'{"model":["x"]}', b'{"model":"x\\u0000"}', b'{"model":" x"}', b'{"model":"x\\n"}',
    b'{"model":"\\ud800"}', b'{"model":"' + b"x" * 1025 + b'"}', b'{"model":"' + b"x" * 70_000 + b'"}', b"[]", b"", b" ", b"null",
    b'{"a":1}x', b'{"model":"x","a":NaN}', b'\xef\xbb\xbf{}', b"{", b"{\n", b'{"a":1,', b'{"a"', b"{" + b'"a":1,' * 1024 + b'"b":1}',
])  # fmt: skip
def test_what_readers_could_dispute_is_unclear(body: bytes) -> None:
    assert look(body)[0] == "unclear"


@pytest.mark.parametrize(("body", "model"), [
    (b"{}", None), (b" {\n} ", None), (b'{"model":"x"}', "x"), (b'{"a":{"model":1,"Model":2},"mod\\u0065l":"x"}', "x"), (b'{"model":""}', ""),
    (b'{"model":"org/x y:latest","models":1,"model_id":2,"streams":3}', "org/x y:latest"), ('{"model":"gr\u00f6\u00dfe"}'.encode(), "gr\u00f6\u00dfe"),
    (b'{"a":1,"a":2,"model":"x"}', "x"), (b'{"model":"x","stream":false}\n', "x"), (b'{"model":"' + b"x" * 1024 + b'"}', "x" * 1024),
])  # fmt: skip
def test_what_all_readers_read_alike_is_clear(body: bytes, model: str | None) -> None:
    assert look(body) == ("", model)


def test_several_places_are_edited_in_one_copy() -> None:
    body = b'{"a":1,"b":2}'
    assert peeking.edited(body, [(11, 12, b"[3]"), (5, 6, b"{}")]) == b'{"a":{},"b":[3]}' and peeking.edited(body, []) == body
