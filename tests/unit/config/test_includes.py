"""Files that are included: which, in which order, and how they come together."""

from __future__ import annotations

import os
import pathlib

import pytest

from relayd.config.includes import FILES, merged, named_files, patterns
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

    def __call__(self, mark: Mark, path: str, message: str, suggestion: str) -> None:
        self.said.append(f"{mark.file} {path} {message} {suggestion}".strip())


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
    made = merged([root({"routes": ["a"], "upstreams": {"x": "1"}, "models": None}),
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
    merged([root({"upstreams": {"x": "1"}, "admin": "a"}), root({"upstreams": {"x": "2"}, "admin": "b"}, "other")], told)
    assert told.said == ["other upstreams.x is in two files also in main:1:1", "other admin is in two files also in main:1:1"]


def test_an_included_file_includes_nothing() -> None:
    told = Told()
    merged([root({}), root({"include": "x"}, "other")], told)
    assert told.said == ["other include an included file cannot include others"]


def found(folder: pathlib.Path, words: object) -> tuple[list[str], list[str], list[str]]:
    """Names of the files, faults, warnings."""
    faults, warnings = Told(), Told()
    files = named_files(root({"include": words}), str(folder), "main", faults, warnings)
    return [str(pathlib.Path(path).relative_to(folder)) for path, _ in files], faults.said, warnings.said


def test_a_folder_that_is_not_there_is_a_warning_and_an_empty_one_is_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").mkdir()
    names, faults, warnings = found(tmp_path, ["empty/*.yaml", "relayd.dd/*.yaml", "*/deep/*.yaml"])
    assert (names, faults) == ([], [])
    assert len(warnings) == 1 and f"{tmp_path}/relayd.dd does not exist" in warnings[0] and "include[1]" in warnings[0]


def test_a_folder_that_cannot_be_read_is_a_fault_at_any_depth(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("closed", "open", "parent/inner"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.yaml").write_text("")
    real, real_stat = os.scandir, os.lstat

    def scandir(path: str) -> object:
        if path.endswith(("closed", "inner")):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    def lstat(path: str) -> os.stat_result:
        if "/closed/" in str(path):
            raise PermissionError(13, "Permission denied", path)
        return real_stat(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "lstat", lstat)
    for words, place in (("closed/*.yaml", "closed"), ("parent/*/*.yaml", "parent/inner"), ("*/a.yaml", "closed/a.yaml")):
        names, faults, warnings = found(tmp_path, words)
        assert warnings == [] and "closed/a.yaml" not in names
        assert len(faults) == 1 and f"{tmp_path}/{place} cannot be read: Permission denied" in faults[0]


def test_a_file_in_the_place_of_the_folder_is_a_fault(tmp_path: pathlib.Path) -> None:
    (tmp_path / "relayd.d").write_text("")
    names, faults, _ = found(tmp_path, "relayd.d/*.yaml")
    assert names == [] and "Not a directory" in faults[0]


def test_globs_mean_what_they_mean_in_a_shell(tmp_path: pathlib.Path) -> None:
    for name in ("a.yaml", ".hidden.yaml", "B.yaml", "t1/x.yaml", "t2/x.yaml", "t2/y.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert found(tmp_path, "*.yaml")[0] == ["B.yaml", "a.yaml"]
    assert found(tmp_path, ".h*.yaml")[0] == [".hidden.yaml"]
    assert found(tmp_path, ["[ab].yaml", "t?/x.yaml"])[0] == ["a.yaml", "t1/x.yaml", "t2/x.yaml"]
    assert found(tmp_path, f"{tmp_path}/t*/*.y*ml")[0] == ["t1/x.yaml", "t2/x.yaml", "t2/y.yml"]
