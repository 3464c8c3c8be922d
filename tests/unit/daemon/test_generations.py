"""What is kept of configurations that were in force, who may read it, and what a full disk does."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.daemon.generations import KEPT, Generation, Generations

ONE = (("/etc/relayd.yaml", "listeners: {}\n"),)
TWO = (("/etc/relayd.yaml", "listeners: {a: 1}\n"), ("/etc/relayd.d/x.yaml", "routes: []\n"))


@pytest.fixture
def kept(tmp_path: Path) -> Generations:
    return Generations(str(tmp_path / "generations"))


def test_what_is_kept_is_read_back_word_for_word(kept: Generations) -> None:
    assert kept.keep(7, 12.5, TWO) == ""
    assert kept.read(7) == Generation(7, 12.5, TWO)
    assert kept.newest() == kept.read(7)


def test_the_files_are_for_the_owner_alone(kept: Generations) -> None:
    kept.keep(1, 0, ONE)
    assert kept.folder is not None
    assert stat.S_IMODE(os.stat(kept.folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.join(kept.folder, "1.json")).st_mode) == 0o600


def test_only_the_newest_ones_stay(kept: Generations) -> None:
    for number in range(1, KEPT + 6):
        kept.keep(number, 0, (("/etc/relayd.yaml", str(number)),))
    assert kept.numbers() == list(range(6, KEPT + 6))


def test_the_same_text_is_kept_once_under_its_newest_number(kept: Generations) -> None:
    kept.keep(1, 0, ONE)
    kept.keep(2, 0, ONE)
    kept.keep(3, 0, TWO)
    kept.keep(4, 0, ONE)
    assert kept.numbers() == [2, 3, 4]


def test_a_start_with_the_same_text_is_the_same_generation_and_another_text_the_next(kept: Generations) -> None:
    assert kept.next(ONE) == 1
    kept.keep(5, 0, ONE)
    assert (kept.next(ONE), kept.next(TWO)) == (5, 6)


def test_without_a_state_directory_nothing_is_kept_and_a_start_is_generation_one() -> None:
    nowhere = Generations.of_service({})
    assert (nowhere.keep(1, 0, ONE), nowhere.numbers(), nowhere.next(ONE)) == ("", [], 1)
    assert Generations.of_service({"STATE_DIRECTORY": "/var/lib/relayd:/other"}).folder == "/var/lib/relayd/generations"


def test_a_place_that_cannot_be_written_is_told_and_nothing_is_raised(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file/generations" in Generations(str(tmp_path / "file" / "generations")).keep(1, 0, ONE)


def test_a_damaged_file_is_passed_over_and_its_number_not_used_again(kept: Generations) -> None:
    kept.keep(1, 0, ONE)
    assert kept.folder is not None
    for number, text in ((2, "{"), (3, "[]"), (4, json.dumps({"generation": 4}))):
        Path(kept.folder, f"{number}.json").write_text(text)
    newest = kept.newest()
    assert newest is not None and newest.number == 1
    with pytest.raises(ValueError):
        kept.read(4)


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), min_size=1, max_size=4))
def test_any_text_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]) -> None:
    kept = Generations(str(tmp_path_factory.mktemp("g")))
    assert kept.keep(1, 0, tuple(texts)) == ""
    assert kept.read(1).texts == tuple(texts)
