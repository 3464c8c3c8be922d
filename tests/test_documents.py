"""What README and ARCHITECTURE.md say is there, is there."""

from __future__ import annotations

import pathlib
import re

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent
README = (TOP / "README.md").read_text(encoding="utf-8")
HOUSE = (TOP / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_every_room_of_the_house_is_on_the_page() -> None:
    rooms = {path.parent.name for path in TOP.glob("relayd/*/__init__.py") if len(list(path.parent.glob("*.py"))) > 1}
    assert {room for room in rooms if f"`{room}/`" not in HOUSE} == set()


def test_every_file_that_the_page_names_exists() -> None:
    there = {path.stem for path in TOP.glob("relayd/**/*.py")}
    table = [line.split("|")[3] for line in HOUSE.splitlines() if re.match(r"\| \d ", line)]
    named = {word for cell in table for word in re.findall(r"[a-z_0-9]+(?![/`a-z_0-9])", cell.replace("(the catalogue)", ""))}
    assert named - there == set()
    for path in re.findall(r"\b((?:relayd|config|telemetry|proxy|tests)/[a-z_/]+\.py)", HOUSE):
        assert (TOP / path).exists() or (TOP / "relayd" / path).exists(), path


def test_every_word_of_make_that_the_readme_names_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    words = {word for line in re.findall(r"\bmake ((?:[a-z-]+ ?)+)", README) for word in line.split()}
    assert words & {"run", "test", "style", "types", "deb"} and words - targets == set()


@pytest.mark.parametrize("name", re.findall(r"`((?:conf|tests|debian)/[^`]+|[A-Z]+\.md|\.ci/run)`", README))
def test_a_file_that_the_readme_names_exists(name: str) -> None:
    assert (TOP / name).exists()


def test_the_two_commands_and_the_stream_are_on_the_first_screen() -> None:
    first = "\n".join(README.splitlines()[:30])
    assert "make run" in first and "make test" in first and "curl -N 127.0.0.1:8282/v1/chat/completions" in first
    assert len(README.splitlines()) < 120
