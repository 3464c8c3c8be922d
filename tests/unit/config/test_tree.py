"""The tree is bounded while it grows."""

from __future__ import annotations

import pytest

from relayd.config.tree import DEPTH, NODES, Stop, Tree
from relayd.schema.nodes import Mapping, Mark, Scalar, Sequence

HERE = Mark("t", 1, 1)


class Told:
    """Collects what the tree tells."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def __call__(self, mark: Mark, message: str, suggestion: str) -> None:
        self.messages.append(message)


def words(tree: Tree, *texts: str) -> None:
    for text in texts:
        tree.scalar(text, True, HERE, None)


def test_events_become_nodes() -> None:
    tree = Tree(Told())
    tree.begin(True, HERE, None)
    words(tree, "a")
    tree.begin(False, HERE, None)
    words(tree, "b", "c")
    tree.end()
    tree.end()
    assert isinstance(tree.root, Mapping)
    found = tree.root.find("a")
    assert found is not None
    assert isinstance(found[1], Sequence)
    assert [item.text for item in found[1].items if isinstance(item, Scalar)] == ["b", "c"]


def test_depth_is_bounded_while_it_grows() -> None:
    told = Told()
    tree = Tree(told)
    for _ in range(DEPTH):
        tree.begin(False, HERE, None)
    with pytest.raises(Stop):
        tree.begin(False, HERE, None)
    assert "nested deeper" in told.messages[0]


def test_an_alias_counts_as_all_that_it_stands_for() -> None:
    told = Told()
    tree = Tree(told)
    tree.begin(False, HERE, None)
    tree.begin(False, HERE, "many")
    words(tree, *["x"] * (NODES // 2))
    tree.end()
    with pytest.raises(Stop):
        tree.alias("many", HERE)
    assert "aliases counted" in told.messages[0]


def test_an_alias_to_its_own_list_is_refused() -> None:
    told = Told()
    tree = Tree(told)
    tree.begin(False, HERE, "self")
    with pytest.raises(Stop):
        tree.alias("self", HERE)
    assert told.messages == ["refers to itself"]


def test_a_merge_adds_what_is_not_written() -> None:
    told = Told()
    tree = Tree(told)
    tree.begin(True, HERE, None)
    words(tree, "a", "own", "<<")
    tree.begin(True, HERE, None)
    words(tree, "a", "other", "b", "merged")
    tree.end()
    words(tree, "a", "twice")
    tree.end()
    assert isinstance(tree.root, Mapping)
    assert [(key.text, value.text) for key, value in tree.root.entries if isinstance(value, Scalar)] == [
        ("a", "own"), ("b", "merged")]
    assert told.messages == ["duplicate key 'a'"]


def test_half_a_character_is_refused() -> None:
    with pytest.raises(Stop):
        Tree(Told()).scalar("\ud800", False, HERE, None)
