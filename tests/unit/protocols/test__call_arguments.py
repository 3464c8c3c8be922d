"""The arguments of a call: pieces, placeholders, repetitions and snapshots are one JSON object."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols._bounds import Allowance, ResponseTooLarge
from relayd.protocols._call_arguments import CallArguments
from relayd.protocols.dialect import run_steps


def fold(*fragments: str, chars: int = 1 << 20) -> str:
    arguments = CallArguments(Allowance(chars))
    return "".join([run_steps(arguments.add(fragment)) for fragment in fragments]) + run_steps(arguments.close())


@pytest.mark.parametrize(
    ("fragments", "text"),
    [
        (['{"a"', ":1}"], '{"a":1}'),
        # sent again whole, at the end, in pieces, written otherwise, all in one
        (['{"a":1}', '{"a":1}'], '{"a":1}'),
        (['{"a"', ":1}", '{"a":1}'], '{"a":1}'),
        (['{"a"', ":1}", '{"a"', ":1}"], '{"a":1}'),
        (['{"a":1,"b":2}', '{"b": 2, "a": 1}'], '{"a":1,"b":2}'),
        (['{"a":1}{"a":1}'], '{"a":1}'), (['{"a":1}'] * 4, '{"a":1}'),
        # a placeholder
        (["{}", '{"a":1}'], '{"a":1}'), (["{}", '{"a"', ":1}"], '{"a":1}'), (["{ }", "", ' {"a":1}'], '{"a":1}'),
        (["{", "}", '{"a":1}'], '{"a":1}'), (['{}{"a":1}'], '{"a":1}'), (["{}", "{}", '{"a":1}', '{"a":1}'], '{"a":1}'),
        (['""', '{"a":1}'], '{"a":1}'), (['"', '"', '{"a"', ":1}"], '{"a":1}'), (["[]", '{"a":1}'], '{"a":1}'),
        (["[ ", "]", '{"a":1}', '{"a":1}'], '{"a":1}'), (["null", "null", '{"a":1}'], '{"a":1}'), (['""'], "{}"), (["[]"], "{}"),
        (["null", '{"a":1}'], '{"a":1}'), (['null{"a":1}'], '{"a":1}'), (["{}", "{}"], "{}"), (["{}"], "{}"), (["null"], "{}"), (["nu", "ll"], "{}"),
        # everything so far, with every fragment
        (["{", '{"a', '{"a":', '{"a":1', '{"a":1}'], '{"a":1}'),
        (['{"a":', '{"a":{', '{"a":{"b":', '{"a":{"b":2}}'], '{"a":{"b":2}}'),
        (['{"a":', '{"a":1}'], '{"a":1}'), (['{"a":', '{"a":', '{"a":1}'], '{"a":1}'),
        (["{}", '{"a":"h"}', '{"a":"he"}', '{"a":"he","b":[]}', '{"a":"he","b":[1]}'], '{"a":"he","b":[1]}'),
        (["{}", '{"a"', '{"a":1', '{"a":1}'], '{"a":1}'),
        # in another serialisation
        (['{"a": "h"}', '{"a":"he"}'], '{"a": "he"}'), (['{"a": 1}', '{"a":1,"b":2}'], '{"a": 1,"b":2}'),
        (['{"a": "h', '{"a":"he"}'], '{"a": "he"}'), (['{"a": "h', '{"a":"he', '{"a":"hel"}'], '{"a": "hel"}'),
        (['{"a":"é', '{"a":"\\u00e9t\\u00e9"}'], '{"a":"été"}'), (['{"a":"\\u00', '{"a":"é!"}'], '{"a":"\\u00e9!"}'),
        (['{"a":"\\ud83d', '{"a":"😀"}'], '{"a":"\\ud83d\\ude00"}'),
        (['{"a":1,"b":[2', '{"b":[2,3],"a":1}'], '{"a":1,"b":[2,3]}'),
        (['{"a":1,"b":2}', '{"b":2,"c":{},"a":1}'], '{"a":1,"b":2,"c":{}}'),
        (['{"a":1}{"a": 1, "b": 2}'], '{"a":1,"b":2}'), (['{"a":1}', '{"a"', ':1,"b":2}'], '{"a":1,"b":2}'),
        (['{"a": 1}', '{"a":1}', '{"a":1,"b":2}', '{ "b":2, "a":1 }'], '{"a": 1,"b":2}'),
        (['{"a":{"b": 1', '{"a":{"b":1,"c":[]}}'], '{"a":{"b": 1,"c":[]}}'),
        (['{"a": ', '{"a":1}'], '{"a": 1}'), (['{"a": ', '{"a":1,', '{"a":1,"b":2}'], '{"a": 1,"b":2}'),
        (['{"a":1,"b":{"c":2}}', '{"a":1,"b":', '{"c":2}}'], '{"a":1,"b":{"c":2}}'),
        (['{"a":1}', '{"a":1,"b":', '{"c":2}}'], '{"a":1,"b":{"c":2}}'),
        (['{"a": ', '{"a":1}', "}"], '{"a": {"a":1}}'), (['{"a": tr', '{"a":true}'], '{"a": true}'),
        # what looks like it, and is an object inside
        (['{"a":', '{"a":1}}'], '{"a":{"a":1}}'), (['{"a":', '{"a":', '{"a":1}}}'], '{"a":{"a":{"a":1}}}'),
        (['{"a":', '{"a":1', "}}"], '{"a":{"a":1}}'), (['{"', '{":1}'], '{"{":1}'),
        # what is behind it is dropped
        (['{"a":1}', "}"], '{"a":1}'), (['{"a":1}\n</tool_call>'], '{"a":1}'), (['{"a":1}', "\n", "x"], '{"a":1}'),
        # what is no object stays, as does what was cut off
        (["[1]"], "[1]"), (["nonsense"], "nonsense"), (['{"a":"x'], '{"a":"x'), (['{"a":{}'], '{"a":{}'), ([], ""), ([" "], ""),
        (["n", "ot"], "not"),
    ],
)  # fmt: skip
def test_the_arguments_are_one_object_however_they_are_sent(fragments: list[str], text: str) -> None:
    assert fold(*fragments) == text


@pytest.mark.parametrize("fragments", [('{"a":1}', '{"b":2}'), ('{"a": "h", "b": 1}', '{"a":"he","b":1}'), ('{"a":1}{"b":2}',), ('{"a":1}', '{"b"', ":2}")])
def test_two_different_objects_are_a_fault_and_never_a_guess(fragments: tuple[str, ...]) -> None:
    with pytest.raises(ResponseTooLarge, match="two different objects"):
        fold(*fragments)


VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='{}[]"\\ab:,', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='{"\\ab', max_size=2), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(alphabet='{"\\ab', max_size=2), VALUES, max_size=3)
CUTS = st.lists(st.integers(0, 60), max_size=8)


def pieces(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(places)]


@given(OBJECTS, CUTS, CUTS, st.booleans())
def test_pieces_snapshots_and_repetitions_mean_the_same_wherever_they_are_cut(
    value: dict[str, Any], cuts: list[int], again: list[int], placeholder: bool
) -> None:
    text = json.dumps(value)
    cut = pieces(text, cuts)
    first = ["{}"] if placeholder else []
    assert fold(*first, *cut) == text
    assert json.loads(fold(*first, *cut, text)) == value
    assert json.loads(fold(*first, *cut, *pieces(text, again))) == value
    assert json.loads(fold(*first, *itertools.accumulate(cut))) == value


def other_text(value: Any, seed: int) -> str:
    """The value in one of several serialisations."""
    def turned(one: Any) -> Any:
        if isinstance(one, dict):
            return {key: turned(one[key]) for key in sorted(one, reverse=seed % 2 == 0)}
        return [turned(item) for item in one] if isinstance(one, list) else one

    separators = [(",", ":"), (", ", ": "), (" ,\n", " : ")][seed % 3]
    return json.dumps(turned(value), ensure_ascii=seed % 4 < 2, separators=separators)


@given(OBJECTS.filter(bool), st.integers(0, 60), st.integers(0, 11), st.integers(0, 11))
def test_a_whole_object_in_another_serialisation_ends_the_call_as_that_object(
    value: dict[str, Any], cut: int, one: int, other: int
) -> None:
    text = other_text(value, one)
    assert json.loads(fold(text, other_text(value, other))) == value
    assert json.loads(fold(text[:cut], other_text(value, other))) == value


@given(st.lists(st.tuples(st.text(alphabet='ab"\\é😀{', min_size=1, max_size=3), VALUES), min_size=1, max_size=5), st.integers(0, 11))
def test_growing_objects_in_changing_serialisations_end_as_the_last_one(members: list[tuple[str, Any]], seed: int) -> None:
    grown = [dict(members[:count]) for count in range(1, len(members) + 1)]
    if len(grown[-1]) < len(members):
        return
    texts = [other_text(value, seed + number) for number, value in enumerate(grown)]
    assert json.loads(fold(*texts)) == grown[-1]


@given(st.lists(st.sampled_from(["{}", "{", "}", '{"a":', '"', "1", "null", " ", '{"a":1}', ","]), max_size=12))
def test_whatever_comes_a_complete_object_is_json(fragments: list[str]) -> None:
    arguments = CallArguments(Allowance())
    out = "".join([run_steps(arguments.add(fragment)) for fragment in fragments])
    try:
        out += run_steps(arguments.close())
    except ResponseTooLarge:
        return
    if arguments.is_complete and "," not in "".join(fragments):
        depth = out.count("{") - out.count("}")
        assert '"' in out.replace('"a"', "") or depth == 0


def test_objects_as_deep_as_a_parser_goes_raise_nothing() -> None:
    deep = '{"a":' * 900 + "1" + "}" * 900
    assert fold(deep, " " + deep) == deep


def test_buffered_text_is_charged() -> None:
    with pytest.raises(ResponseTooLarge):
        fold('{"a":1}', *["x" * 100] * 20, chars=1000)
    with pytest.raises(ResponseTooLarge):
        fold('{"a":', *['{"a":'] * 1000, '{"a":1', chars=500)


@pytest.mark.parametrize("unit", ["{}", '{"a":1}', '{"a":', "{", "[", " ", '"'])
def test_a_hostile_text_takes_linear_work(unit: str) -> None:
    for fragments in (
        ['{"a":1}' + unit * 300_000], [unit * 300_000], ['{"a":'] + [unit] * 20_000, ['{"b":1}'] + [unit] * 20_000,
        ['{"b":"'] + [unit] * 20_000,
    ):  # fmt: skip
        try:
            fold(*fragments, chars=1 << 26)
        except ResponseTooLarge:
            pass


def pieces_of(text: str, sizes: list[int]) -> list[str]:
    """A text in pieces of these sizes, over and over."""
    found: list[str] = []
    at = 0
    while at < len(text):
        size = sizes[len(found) % len(sizes)]
        found.append(text[at : at + size])
        at += size
    return found


@pytest.mark.parametrize("again", ['{"path": "/tmp/a b", "n": 1}', '{ "path" : "/tmp/a b" , "n":1 }', '{"n":1,"path":"/tmp\\/a b"}', '{\n "n": 1,\n "path": "/tmp/a\\u0020b"}'])
@pytest.mark.parametrize("sizes", [[1], [2], [3], [1, 5, 2], [7], [40]])
@pytest.mark.parametrize("cut", ['{', '{"path', '{"path"', '{"path":"', '{"path":"/tmp/a', '{"path":"/tmp/a b"', '{"path":"/tmp/a b","n'])
def test_an_open_object_that_begins_again_in_small_pieces_is_that_object(cut: str, sizes: list[int], again: str) -> None:
    assert json.loads(fold(*pieces_of(cut, [4]), *pieces_of(again, sizes))) == {"path": "/tmp/a b", "n": 1}


@given(OBJECTS.filter(lambda value: len(value) > 0 and all(key and key[0] not in ',:]} ' for key in value)), st.integers(1, 60), st.integers(0, 11), st.integers(0, 11),
       st.lists(st.integers(1, 9), min_size=1, max_size=4))  # fmt: skip
def test_an_object_that_begins_again_is_never_joined_to_another_one(value: dict[str, Any], cut: int, one: int, other: int, sizes: list[int]) -> None:
    begun, again = other_text(value, one)[:cut], other_text(value, other)
    try:
        found = fold(*pieces_of(begun, sizes), *pieces_of(again, sizes))
    except ResponseTooLarge:
        return
    try:
        joined = json.loads(found)
    except ValueError:
        return  # the client sees that the text is no object
    assert joined == value


def test_an_object_that_begins_again_where_one_may_nest_fails_the_call() -> None:
    for fragments in (('{"a":', "{", '"a"', ":1", "}"), ('{"a":[', "{", '"a":[1]}'), ('{"a":1,"b":', "{", '"a":1,"b":2}')):
        with pytest.raises(ResponseTooLarge, match="began the arguments"):
            fold(*fragments)
        arguments = CallArguments(Allowance())
        out = "".join([run_steps(arguments.add(fragment)) for fragment in fragments])
        assert out + run_steps(arguments.close(is_cut=True)) == "".join(fragments)
    with pytest.raises(ResponseTooLarge, match="two different"):
        fold('{"a":"x', "{", '"a"', ':"y"', "}")


@pytest.mark.parametrize("text", [
    '{"code":"if x {"}', '{"code":"a {","b":{"c":"{"}}', '{"code":"{\\"a\\": 1}"}', '{"a":{"a":{"a":1}},"b":[{"a":1},{"a":"{"}]}', '{"a":"{}","b":"{ }"}',
    '{"a":["{",{"b":"{"}],"c":"{ x"}', '{"a":"}{"}', '{"a":"{\\n"}',
])  # fmt: skip
@pytest.mark.parametrize("sizes", [[1], [2], [3], [1, 4], [5, 1]])
def test_brackets_in_strings_and_nested_objects_are_pieces(text: str, sizes: list[int]) -> None:
    assert fold(*pieces_of(text, sizes)) == text


def test_text_that_is_no_object_reaches_the_client_as_it_is() -> None:
    for fragments in (('{"code":"x ', '{"y"', ": 1", "}", '"}'), ('{"a":{"b":1', "}"), ('{"a" 1', "{", "}")):
        assert fold(*fragments) == "".join(fragments)
