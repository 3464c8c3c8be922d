"""One member of a JSON body, found and replaced without touching anything else."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.body import MAX_DEPTH, member_span, model_of, replace_member

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.sampled_from(["model", "a", "Model", "\\", '"', "mod\u00e9l"]) | st.text(), JSON, max_size=6)


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
    replaced = replace_member(body, "model", new)
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


@pytest.mark.parametrize("body", [b'{"model":"a","model":"b"}', b'{"model":"a","x":1,"mod\\u0065l":"b"}'])
def test_a_repeated_member_is_ambiguous_and_has_no_value(body: bytes) -> None:
    assert model_of(body) is None
    assert replace_member(body, "model", "c") is None


def test_nesting_is_followed_to_its_limit_and_no_further() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b',"model":"x"}'

    assert model_of(nested(MAX_DEPTH)) == "x"
    assert model_of(nested(MAX_DEPTH + 1)) is None
    assert model_of(b'{"a":' + b"[" * 500_000) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"' + b"\\" * 1_000_000,
        b'{"a":["' + b'","' * 300_000,
        b'{"a":' + b'"' * 1_000_000,
        b'{"a":[' + b"1," * 500_000,
        b'{"a":[' + b"[]," * 100_000,
        b" " * 1_000_000,
        b'{"a":' + b"1" * 1_000_000,
        b'{' + b'"a":1,' * 100_000,
    ],
)
def test_a_hostile_body_costs_linear_time(body: bytes) -> None:
    begun = time.process_time()
    assert model_of(body) is None
    assert time.process_time() - begun < 0.5


def test_a_members_place_is_told_for_values_of_every_kind() -> None:
    body = b'{"a": {"b": true}, "b" : true,"c":[1]}'
    for key, value in (("a", b'{"b": true}'), ("b", b"true"), ("c", b"[1]")):
        span = member_span(body, key)
        assert span is not None and body[span[0] : span[1]] == value
    assert member_span(body, "d") is None and member_span(b'{"a":1,"a":2}', "a") is None
