"""The table answers exactly what asking every rule in order would answer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.errors import ExchangeError
from relayd.routing.matchers import MAX_OTHER_PATHS, Matcher, matcher
from relayd.routing.table import Table
from relayd.wire.path import readings
from tests.aids.growth import linear


@dataclass
class Asked:
    method: bytes = b"GET"
    path: bytes = b"/"
    host: bytes = b"a.example"
    fields: dict[bytes, bytes] = field(default_factory=dict)
    model: str | None = None
    query: bytes = b""
    overrides: tuple[bytes, ...] = ()

    def get(self, name_lower: bytes, /) -> bytes | None:
        return self.fields.get(name_lower)

    def get_all(self, name_lower: bytes, /) -> list[bytes]:
        return [self.fields[name_lower]] if name_lower in self.fields else []

    get_alike = get_all


def in_order(rules: list[tuple[Matcher, int]], head: Asked) -> int | None:
    return next((value for rule, value in rules if rule.failing(head, head.path) is None), None)


# Everything is drawn from a list that holds all there is: what costs time in such a test is the number of draws.
SEGMENTS = ("a", "b", "ab", "v1", ".", "%2f", "")
LONGEST = 3
# As many of each length: a short path often means another rule's.
PATHS = [
    "/" + "/".join(parts)
    for length in range(LONGEST + 1)
    for parts in itertools.product(SEGMENTS, repeat=length)
    for _ in range(len(SEGMENTS) ** (LONGEST - length))
]
# What a configuration may hold: whole segments, in any spelling; of the last one any beginning.
WRITTEN = [f"{path}/{beginning}" for path in PATHS for beginning in ("", "a", "v", "ab")]
HOSTS = [(), (), ("a.example",), ("*.example",), ("b.example", "*.a.example")]
METHODS = [(), (), ("GET",), ("POST", "PUT")]
FIELDS = [{}, {}, {"X-A": "1"}, {"x-b": "*"}]
CONDITIONS = list(itertools.product(HOSTS, METHODS, FIELDS, (False, True)))


def made(kind: str, path: str, conditions: tuple[tuple[str, ...], tuple[str, ...], dict[str, str], bool]) -> Matcher:
    where = {"path": {"path": path}, "prefix": {"prefix": path}, "regex": {"regex": "/a.*|/v1/[ab]"}, "none": {}}[kind]
    host, method, header, preflight = conditions
    return matcher(**where, host=host, method=method, header=header, preflight=preflight)


MATCHERS = st.builds(
    made, st.sampled_from(["path", "prefix", "regex", "none"]), st.sampled_from(WRITTEN), st.sampled_from(CONDITIONS)
)
VALUES = (None, b"1", b"2", b"GET")
LINES = [
    {name: value for name, value in zip((b"x-a", b"x-b", b"origin", b"access-control-request-method"), values, strict=True) if value}
    for values in itertools.product(VALUES, repeat=4)
]
START_LINES = list(itertools.product((b"GET", b"POST", b"OPTIONS"), (b"a.example", b"x.a.example", b"b.example", b"")))
HEADS = st.builds(
    lambda start, path, fields: Asked(start[0], path, start[1], fields),
    st.sampled_from(START_LINES), st.sampled_from([*(path.encode() for path in PATHS), *[b"*"] * (len(PATHS) // 10)]), st.sampled_from(LINES),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(MATCHERS, max_size=12), st.lists(HEADS, min_size=1, max_size=6))
def test_the_table_returns_what_a_scan_in_order_returns(rules: list[Matcher], heads: list[Asked]) -> None:
    numbered = [(rule, number) for number, rule in enumerate(rules)]
    table = Table(numbered)
    for head in heads:
        assert table.match(head) == in_order(numbered, head)


@pytest.mark.parametrize("kind", ["path", "prefix"])
def test_a_table_is_compiled_in_linear_time(kind: str) -> None:
    rules = [(matcher(path=f"/r{number}/x") if kind == "path" else matcher(prefix=f"/r{number}/"), number) for number in range(3200)]
    assert linear(lambda size: Table(rules[:size]), 200)


def test_the_first_match_wins_over_a_longer_prefix_behind_it() -> None:
    table = Table([(matcher(prefix="/"), "all"), (matcher(prefix="/v1/"), "v1"), (matcher(path="/v1/x"), "x")])
    assert table.match(Asked(path=b"/v1/x")) == "all"


def test_a_failed_condition_falls_through_to_the_next_rule() -> None:
    table = Table([(matcher(path="/x", method=["POST"]), "post"), (matcher(prefix="/"), "all")])
    assert table.match(Asked(path=b"/x")) == "all"
    assert table.match(Asked(path=b"/x", method=b"POST")) == "post"


def test_no_match_is_none() -> None:
    assert Table([(matcher(path="/x"), 1)]).match(Asked(path=b"/y")) is None
    assert Table[int]([]).match(Asked()) is None


def test_match_takes_another_path_with_the_same_head() -> None:
    table = Table([(matcher(prefix="/secret/"), "secret"), (matcher(), "all")])
    head = Asked(path=b"/open/../secret/x")
    assert table.match(head) == "all"
    assert table.match(head, b"/secret/x") == "secret"


@pytest.mark.parametrize(("path", "reading"), [
    (b"/open/../secret/x", b"/secret/x"), (b"/;/secret/x", b"/secret/x"), (b"/secret;a/x", b"/secret/x"), (b"/open/..%5csecret/x", b"/secret/x"),
    (b"/open/../secret/%252e%252e/x", b"/secret/%252e%252e/x"),
])
def test_a_reading_that_reaches_another_rule_is_a_contradiction(path: bytes, reading: bytes) -> None:
    table = Table([(matcher(prefix="/secret/"), "secret"), (matcher(), "all")])
    found = table.contradiction(Asked(path=path), "all")
    assert found is not None and table.match(Asked(), found) == "secret" and reading in list(readings(path))


@pytest.mark.parametrize("path", [b"/open/../x", b"/a;b=c/d", b"/secret/a%2fb", b"/secret/x;y", b"/a%20b"])
def test_a_path_with_agreeing_readings_has_no_contradiction(path: bytes) -> None:
    table = Table([(matcher(prefix="/secret/"), "secret"), (matcher(), "all")])
    assert table.contradiction(Asked(path=path), table.match(Asked(path=path))) is None


@pytest.mark.parametrize("path", ["/a.b", "/a+b", "/(", "/[x]", "/$"])
def test_regular_expression_characters_in_a_prefix_are_literal(path: str) -> None:
    table = Table([(matcher(prefix=path), 1)])
    assert table.match(Asked(path=path.encode() + b"/y")) == 1
    assert table.match(Asked(path=b"/axb")) is None


def test_the_candidates_are_all_that_may_be_the_first_once_the_model_is_known() -> None:
    table = Table([
        (matcher(prefix="/v1/", model=["gpt-*"]), 1), (matcher(prefix="/v1/", method=["PUT"], model=["a"]), 2),
        (matcher(prefix="/v2/", model=["b"]), 3), (matcher(path="/v1/x", model=["c"]), 4), (matcher(prefix="/v1/"), 5),
        (matcher(), 6),
    ])
    assert table.candidates(Asked(path=b"/v1/x")) == [1, 4, 5]
    assert table.candidates(Asked(path=b"/v1/y", method=b"PUT")) == [1, 2, 5]
    assert table.candidates(Asked(path=b"/v2/y")) == [3, 6] and table.candidates(Asked(path=b"/")) == [6]
    for model in ("gpt-1", "a", "c", ""):
        for path in (b"/v1/x", b"/v1/y", b"/v2/y"):
            assert table.match(Asked(path=path, model=model)) in table.candidates(Asked(path=path))


def table_of_secrets() -> Table[str]:
    return Table([(matcher(prefix="/secret/"), "secret"), (matcher(), "all")])


@pytest.mark.parametrize("line", [
    b"X-Original-URL: /secret/x", b"x_rewrite_url:/secret/x?y", b"X-Original-URI: http://any.test/secret/x", b"X-Forwarded-Uri: secret/%78",
])
def test_a_path_that_a_field_names_for_some_servers_is_a_reading(line: bytes) -> None:
    table = table_of_secrets()
    found = table.contradiction(Asked(path=b"/open", overrides=(line,)), "all")
    assert found is not None and found.startswith(b"/secret/")
    assert table.contradiction(Asked(path=b"/secret/y", overrides=(line,)), "secret") is None


def test_the_number_of_other_paths_is_bounded() -> None:
    lines = (b"X-Original-URL: /open",) * MAX_OTHER_PATHS
    assert table_of_secrets().contradiction(Asked(path=b"/open", overrides=lines), "all") is None
    with pytest.raises(ExchangeError) as refused:
        table_of_secrets().contradiction(Asked(path=b"/open", overrides=(*lines, lines[0])), "all")
    assert refused.value.kind.code == "ambiguous_path"
