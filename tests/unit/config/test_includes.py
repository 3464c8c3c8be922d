"""Files that are included: which, in which order, and how they come together."""

from __future__ import annotations

import pathlib

from relayd.config.includes import FILES, joined, named_files, patterns
from relayd.schema.nodes import Mapping, Mark, Node, Scalar, Sequence


def mark(file: str) -> Mark:
    return Mark(file, 1, 1)


def node(value: object, file: str = "main") -> Node:
    if isinstance(value, dict):
        return Mapping(tuple((Scalar(name, True, mark(file)), node(inner, file)) for name, inner in value.items()), mark(file))
    if isinstance(value, list):
        return Sequence(tuple(node(item, file) for item in value), mark(file))
    return Scalar("" if value is None else str(value), True, mark(file))


def root(value: object, file: str = "main") -> Mapping:
    made = node(value, file)
    assert isinstance(made, Mapping)
    return made


class Told:
    """Collects what is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __call__(self, mark: Mark, path: str, message: str, hint: str) -> None:
        self.said.append(f"{mark.file} {path} {message} {hint}".strip())


def test_globs_are_sorted_and_a_plain_name_is_kept_though_it_is_missing(tmp_path: pathlib.Path) -> None:
    for name in ("b.yaml", "a.yaml", "c.txt"):
        (tmp_path / name).write_text("")
    told = Told()
    files = named_files(root({"include": ["*.yaml", "none.yaml", "gone*.yaml", "a.yaml"]}), str(tmp_path), "main", told)
    assert [pathlib.Path(path).name for path, _ in files] == ["a.yaml", "b.yaml", "none.yaml"]
    assert told.said == []


def test_a_file_does_not_include_itself_and_not_hundreds(tmp_path: pathlib.Path) -> None:
    for number in range(FILES + 1):
        (tmp_path / f"{number}.yaml").write_text("")
    told = Told()
    assert named_files(root({"include": "0.yaml"}), str(tmp_path), str(tmp_path / "0.yaml"), told) == []
    assert named_files(root({"include": "*.yaml"}), str(tmp_path), "main", told) == []
    assert [line.split(" ", 2)[2] for line in told.said] == ["includes this file itself", f"includes more than {FILES} files"]


def test_what_is_not_a_word_is_left_to_the_schema() -> None:
    assert patterns(root({"include": {"a": "b"}})) == []
    assert patterns(root({"include": None})) == []
    assert [path for path, _ in patterns(root({"include": ["a", ["b"], "c"]}))] == ["include[0]", "include[2]"]


def test_sections_are_joined_and_routes_stand_one_behind_the_other() -> None:
    told = Told()
    made = joined([root({"routes": ["a"], "upstreams": {"x": "1"}, "models": None}),
                   root({"routes": "b", "upstreams": {"y": "2"}, "models": {"m": "3"}, "daemon": None}, "other")], told)
    routes, upstreams, models = (made.find(name) for name in ("routes", "upstreams", "models"))
    assert routes is not None
    assert isinstance(routes[1], Sequence)
    assert [item.text for item in routes[1].items if isinstance(item, Scalar)] == ["a", "b"]
    assert upstreams is not None
    assert isinstance(upstreams[1], Mapping)
    assert [key.text for key, _ in upstreams[1].entries] == ["x", "y"]
    assert models is not None
    assert isinstance(models[1], Mapping)
    assert told.said == []


def test_a_key_in_two_files_names_both() -> None:
    told = Told()
    joined([root({"upstreams": {"x": "1"}, "admin": "a"}), root({"upstreams": {"x": "2"}, "admin": "b"}, "other")], told)
    assert told.said == ["other upstreams.x stands in two files also in main:1:1", "other admin stands in two files also in main:1:1"]


def test_an_included_file_includes_nothing() -> None:
    told = Told()
    joined([root({}), root({"include": "x"}, "other")], told)
    assert told.said == ["other include an included file cannot include others"]
