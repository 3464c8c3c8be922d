"""Nodes keep the raw words and their places."""

from __future__ import annotations

from relayd.schema.nodes import Mapping, Mark, Scalar, Sequence, is_null, kind_of, walk

HERE = Mark("a.yaml", 3, 7)


def word(text: str, plain: bool = True) -> Scalar:
    return Scalar(text, plain, HERE)


def test_a_mark_reads_as_file_line_and_column() -> None:
    assert str(HERE) == "a.yaml:3:7"
    assert str(Mark("a.yaml")) == "a.yaml"


def test_only_an_unquoted_null_is_nothing() -> None:
    assert all(is_null(word(text)) for text in ("", "~", "null", "Null", "NULL"))
    assert not any(is_null(word(text, plain=False)) for text in ("", "~", "null"))
    assert not is_null(word("none"))
    assert not is_null(Sequence((), HERE))


def test_a_node_is_described_without_what_it_says() -> None:
    assert kind_of(word("sk-secret")) == "a single value"
    assert kind_of(word("")) == "nothing"
    assert kind_of(Sequence((), HERE)) == "a list"
    assert kind_of(Mapping((), HERE)) == "a mapping"


def test_walk_meets_keys_and_values_at_every_depth() -> None:
    tree = Mapping(((word("a"), Sequence((word("b"), Mapping(((word("c"), word("d")),), HERE)), HERE)),), HERE)
    assert [node.text for node in walk(tree) if isinstance(node, Scalar)] == ["a", "b", "c", "d"]
    assert tree.find("a") is not None
    assert tree.find("b") is None
