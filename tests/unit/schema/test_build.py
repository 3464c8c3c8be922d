"""From nodes to sections: every fault at once, each at its place, none the echo of another."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st

from relayd.errors import Finding
from relayd.schema import Duration, Secret, Size, nodes, section, setting
from relayd.schema.build import Builder


@section(shorthand="url")
class Place:
    """A place."""

    url: str = setting(doc="Where.")
    weight: int = setting(default=1, doc="How much.", minimum=1)


@section(one_of=True)
class Way:
    """One way or the other."""

    left: str | None = setting(default=None, doc="Left.")
    right: str | None = setting(default=None, doc="Right.")


@section()
class Group:
    """A group."""

    places: tuple[Place, ...] = setting(doc="Places.")
    way: Way | None = setting(default=None, doc="A way.")
    key: Secret | None = setting(default=None, doc="A key.")
    wait: Duration = setting(default=Duration(1), doc="A wait.", zero_is_off=True)
    limit: Size = setting(default=Size(1), doc="A limit.")
    kind: Literal["plain", "fancy"] = setting(default="plain", doc="A kind.")
    later: int = setting(default=0, doc="To come.", pending="spring")
    class_: str = setting(default="", key="class", doc="A class.")

    def check(self) -> Iterable[tuple[str, str]]:
        if self.kind == "fancy" and len(self.places) < 2:
            yield "places[0].url", "fancy needs two places"

    def caution(self) -> Iterable[tuple[str, str]]:
        if not self.wait:
            yield "wait", "waits for ever"


@section()
class Root:
    """The root."""

    groups: Mapping[str, Group] = setting(factory=dict, doc="Groups.")
    order: tuple[str, ...] = setting(default=(), doc="Their order.")

    def check(self) -> Iterable[tuple[str, str]]:
        for place, name in enumerate(self.order):
            if name not in self.groups:
                yield f"order[{place}]", f"no group {name}"


class Text:
    """Makes nodes of Python values; each scalar gets a line of its own, so that a place can be told."""

    def __init__(self) -> None:
        self.line = 0

    def node(self, value: Any) -> nodes.Node:
        self.line += 1
        mark = nodes.Mark("t", self.line, 1)
        if isinstance(value, dict):
            return nodes.Mapping(tuple((self.word(name), self.node(inner)) for name, inner in value.items()), mark)
        if isinstance(value, list):
            return nodes.Sequence(tuple(map(self.node, value)), mark)
        return nodes.Scalar("" if value is None else str(value), True, mark)

    def word(self, text: str) -> nodes.Scalar:
        return nodes.Scalar(text, True, nodes.Mark("t", self.line, 1))


def build(value: Any, folder: str = "") -> tuple[Any, list[Finding]]:
    builder = Builder(folders={"t": folder})
    return builder.build(Root, Text().node(value)), builder.findings


def paths(findings: list[Finding], level: str = "error") -> list[str]:
    return [one.path for one in findings if one.level == level]


def test_a_whole_tree_becomes_sections_of_the_right_types() -> None:
    made, findings = build({"groups": {"a": {
        "places": ["x", {"url": "y", "weight": "3"}], "way": {"left": "on"}, "wait": "off", "limit": "2KiB", "class": "no",
    }}, "order": "a"})
    assert paths(findings) == []
    group = made.groups["a"]
    assert group.places == (Place(url="x"), Place(url="y", weight=3))
    assert (group.way, group.limit, group.class_) == (Way(left="on"), 2048, "no")
    assert isinstance(group.wait, Duration)
    assert made.order == ("a",)


def test_all_faults_are_told_at_once_and_none_twice() -> None:
    _, findings = build({
        "groups": {"a": {"plces": "x", "kind": "fanzy"}, "b": {"places": [{"url": "u", "weight": 0}], "wait": "5"}},
        "order": ["a", "b", "c"], "extra": 1,
    })
    assert sorted(paths(findings)) == [
        "extra", "groups.a.kind", "groups.a.places", "groups.a.plces", "groups.b.places[0].weight", "groups.b.wait",
        "order[2]",
    ]
    hints = {one.path: one.suggestion for one in findings}
    assert hints["groups.a.plces"] == "did you mean places?"
    assert hints["groups.a.kind"] == "did you mean fancy?"


def test_a_rule_of_a_section_waits_until_the_section_could_be_read() -> None:
    _, findings = build({"groups": {"a": {"places": "x", "kind": "fancy", "limit": "many"}}})
    assert paths(findings) == ["groups.a.limit"]
    _, findings = build({"groups": {"a": {"places": "x", "kind": "fancy"}}})
    assert paths(findings) == ["groups.a.places[0].url"]


def test_the_outermost_rules_run_beside_faults_elsewhere_but_not_on_a_key_that_could_not_be_read() -> None:
    _, findings = build({"groups": {"a": {}}, "order": ["a", "b"]})
    assert paths(findings) == ["groups.a.places", "order[1]"]
    _, findings = build({"groups": ["a"], "order": ["a", "b"]})
    assert paths(findings) == ["groups"]


def test_a_rule_of_a_place_that_was_not_written_is_told_at_its_nearest_parent() -> None:
    _, findings = build({"groups": {"a": {"places": "x", "wait": "0", "kind": "fancy"}}})
    warning = next(one for one in findings if one.level == "warning")
    assert warning.path == "groups.a.wait"
    builder = Builder(marks={"": nodes.Mark("t", 1, 1), "a": nodes.Mark("t", 2, 1), "a[0]": nodes.Mark("t", 3, 1)})
    assert builder.mark_of("a[0].b.c").line == 3
    assert builder.mark_of("a[1]").line == 2
    assert builder.mark_of("z.y").line == 1


def test_exactly_one_key_is_written_where_there_is_one_way() -> None:
    for way in ({}, {"left": "a", "right": "b"}):
        _, findings = build({"groups": {"a": {"places": "x", "way": way}}})
        assert [one.message for one in findings] == ["needs exactly one of left, right"]


def test_a_key_that_is_not_in_force_yet_is_warned_of_when_it_is_written() -> None:
    made, findings = build({"groups": {"a": {"places": "x", "later": "3"}}})
    assert made.groups["a"].later == 3
    assert [(one.path, one.message) for one in findings] == [
        ("groups.a.later", "not in force yet (waits for: spring)")]
    _, findings = build({"groups": {"a": {"places": "x"}}})
    assert findings == []


def test_a_section_or_list_with_nothing_in_it_counts_as_not_written() -> None:
    made, findings = build({"groups": None, "order": None})
    assert (made, findings) == (Root(), [])
    made, findings = build({"groups": {"a": {"places": "x", "way": None, "key": None}}})
    assert findings == []
    _, findings = build({"groups": {"a": {"places": None, "limit": None}}})
    assert sorted(paths(findings)) == ["groups.a.limit", "groups.a.places"]
    _, findings = build({"groups": {"a": {"places": []}}})
    assert [one.message for one in findings] == ["must not be empty"]


def test_a_variable_that_other_programs_would_replace_is_warned_of_and_stays_as_it_is() -> None:
    for text in ("http://${HOST}:1", "${A_B:-x}"):
        made, findings = build({"groups": {"a": {"places": text}}})
        assert made.groups["a"].places[0].url == text and paths(findings, "warning") == ["groups.a.places[0].url"]
        assert "is not replaced" in findings[0].message and "{env: NAME}" in findings[0].suggestion
    for text in ("a$b", "${", "a{2}$", "$HOME", "${1}"):
        assert build({"groups": {"a": {"places": text}}})[1] == []
    made, findings = build({"groups": {"${NAME}": {"places": "x"}}})
    assert list(made.groups) == ["${NAME}"] and paths(findings, "warning") == ["groups.${NAME}"]


def test_a_secret_is_never_repeated_in_a_finding() -> None:
    for wrong in ("sk-4711", ["sk-4711"], {"sk-4711": None}, {"file": {"sk-4711": "a"}}, {"value": "sk-4711"}):
        _, findings = build({"groups": {"a": {"places": "x", "key": wrong}}})
        assert len(findings) == 1
        assert "sk-4711" not in str(findings[0])
        assert paths(findings)[0].startswith("groups.a.key")


def test_a_secret_is_read_while_building_and_a_readable_file_is_warned_of(tmp_path: pathlib.Path) -> None:
    (tmp_path / "k").write_text("sk-4711\n")
    (tmp_path / "k").chmod(0o644)
    made, findings = build({"groups": {"a": {"places": "x", "key": {"file": "k"}}}}, folder=str(tmp_path))
    assert made.groups["a"].key.reveal() == "sk-4711"
    assert paths(findings, "warning") == ["groups.a.key.file"]
    _, findings = build({"groups": {"a": {"places": "x", "key": {"file": "gone", "env": "A"}}}})
    assert "exactly one" in findings[0].message


def test_a_name_with_control_characters_is_no_name() -> None:
    made, findings = build({"groups": {"a\x1b": {"places": "x"}, "": {"places": "x"}}})
    assert made.groups == {}
    assert len(findings) == 2
    assert "\x1b" not in str(findings[0])


def test_another_kind_of_node_is_named_without_its_content() -> None:
    _, findings = build({"groups": {"a": {"places": "x", "way": "sk-4711", "limit": ["sk-4711"]}}, "order": {"a": "b"}})
    assert sorted(paths(findings)) == ["groups.a.limit", "groups.a.way", "order[0]"]
    assert not any("4711" in str(one) for one in findings)


WORDS = st.sampled_from(["groups", "places", "url", "a", "way", "left", "key", "file", "off", "5s", "", "null", "1", "wait"])
TREES = st.recursive(WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=20)


@given(TREES)
def test_any_tree_gives_a_section_or_faults(tree: Any) -> None:
    made, findings = build(tree)
    assert isinstance(made, Root)
    for finding in findings:
        assert finding.file == "t"
        assert finding.line > 0
        assert finding.message
