"""Saved configurations: content, permissions and a failing disk."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.daemon.generations import MAX_GENERATIONS, Generation, Generations

ONE = (("/etc/relayd.yaml", "listeners: {}\n"),)
TWO = (("/etc/relayd.yaml", "listeners: {a: 1}\n"), ("/etc/relayd.d/x.yaml", "routes: []\n"))


@pytest.fixture
def generations(tmp_path: Path) -> Generations:
    return Generations(str(tmp_path / "generations"))


def test_a_saved_generation_is_read_back_unchanged(generations: Generations) -> None:
    assert generations.save(7, 12.5, TWO) == ""
    assert generations.read(7) == Generation(7, 12.5, TWO)
    assert generations.newest() == generations.read(7)


def test_the_files_are_for_the_owner_alone(generations: Generations) -> None:
    generations.save(1, 0, ONE)
    assert generations.folder is not None
    assert stat.S_IMODE(os.stat(generations.folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.join(generations.folder, "1.json")).st_mode) == 0o600


def test_only_the_newest_ones_stay(generations: Generations) -> None:
    for number in range(1, MAX_GENERATIONS + 6):
        generations.save(number, 0, (("/etc/relayd.yaml", str(number)),))
    assert generations.numbers() == list(range(6, MAX_GENERATIONS + 6))


def test_equal_texts_are_saved_once_under_the_newest_number(generations: Generations) -> None:
    generations.save(1, 0, ONE)
    generations.save(2, 0, ONE)
    generations.save(3, 0, TWO)
    generations.save(4, 0, ONE)
    assert generations.numbers() == [2, 3, 4]


def test_a_start_with_the_same_text_is_the_same_generation_and_another_text_the_next(generations: Generations) -> None:
    assert generations.number_for(ONE) == 1
    generations.save(5, 0, ONE)
    assert (generations.number_for(ONE), generations.number_for(TWO)) == (5, 6)


def test_without_a_state_directory_nothing_is_saved_and_a_start_is_generation_one() -> None:
    nowhere = Generations.of_service({})
    assert (nowhere.save(1, 0, ONE), nowhere.numbers(), nowhere.number_for(ONE)) == ("", [], 1)
    assert Generations.of_service({"STATE_DIRECTORY": "/var/lib/relayd:/other"}).folder == "/var/lib/relayd/generations"


def test_an_unwritable_folder_is_reported_and_nothing_is_raised(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file/generations" in Generations(str(tmp_path / "file" / "generations")).save(1, 0, ONE)


def test_a_damaged_file_is_skipped_and_its_number_is_not_reused(generations: Generations) -> None:
    generations.save(1, 0, ONE)
    assert generations.folder is not None
    for number, text in ((2, "{"), (3, "[]"), (4, json.dumps({"generation": 4}))):
        Path(generations.folder, f"{number}.json").write_text(text)
    newest = generations.newest()
    assert newest is not None and newest.number == 1
    with pytest.raises(ValueError):
        generations.read(4)


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), min_size=1, max_size=4))
def test_any_text_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]) -> None:
    generations = Generations(str(tmp_path_factory.mktemp("g")))
    assert generations.save(1, 0, tuple(texts)) == ""
    assert generations.read(1).texts == tuple(texts)
