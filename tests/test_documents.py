"""README and ARCHITECTURE.md name only files and commands that exist."""

from __future__ import annotations

import pathlib
import re

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent
README = (TOP / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (TOP / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_every_package_is_in_the_architecture_page() -> None:
    packages = {path.parent.name for path in TOP.glob("relayd/*/__init__.py") if len(list(path.parent.glob("*.py"))) > 1}
    assert {package for package in packages if f"`{package}/`" not in ARCHITECTURE} == set()


def test_every_file_that_the_page_names_exists() -> None:
    there = {path.stem for path in TOP.glob("relayd/**/*.py")}
    table = [line.split("|")[3] for line in ARCHITECTURE.splitlines() if re.match(r"\| \d ", line)]
    named = {word for cell in table for word in re.findall(r"[a-z_0-9]+(?![/`a-z_0-9])", cell.replace("(the catalogue)", ""))}
    assert named - there == set()
    for path in re.findall(r"\b((?:relayd|config|telemetry|proxy|tests)/[a-z_/]+\.py)", ARCHITECTURE):
        assert (TOP / path).exists() or (TOP / "relayd" / path).exists(), path


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    targets_named = {word for line in re.findall(r"\bmake ((?:[a-z-]+ ?)+)", README) for word in line.split()}
    assert targets_named & {"run", "test", "style", "types", "deb"} and targets_named - targets == set()


@pytest.mark.parametrize("name", re.findall(r"`((?:conf|tests|debian)/[^`]+|[A-Z]+\.md|\.ci/run)`", README))
def test_a_file_that_the_readme_names_exists(name: str) -> None:
    assert (TOP / name).exists()


def test_the_two_commands_and_the_stream_are_on_the_first_screen() -> None:
    first = "\n".join(README.splitlines()[:30])
    assert "make run" in first and "make test" in first and "curl -N 127.0.0.1:8282/v1/chat/completions" in first
    assert len(README.splitlines()) < 120
