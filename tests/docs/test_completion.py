"""Completions: every verb and every option is in them, and the shells read them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from relayd.cli.main import verbs
from tests.docs.completion import bash, options, zsh

PLAYED = """
_init_completion() { cur=$1; words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; prev=${words[cword-1]}; cur=${words[cword]}; }
_filedir() { COMPREPLY=(FILES); }
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _relayd; echo "${COMPREPLY[*]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "relayd"
    file.write_text("\n".join(bash()) + "\n")
    return file


def completed(script: Path, *words: str) -> list[str]:
    done = subprocess.run(["bash", "-c", PLAYED, "-", str(script), "relayd", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_first_word_is_a_verb(script: Path) -> None:
    assert set(completed(script, "")) == {*verbs(), "--help", "--version"}
    assert completed(script, "roll") == ["rollback"]


def test_every_option_of_every_verb_is_offered(script: Path) -> None:
    for verb in verbs():
        offered = completed(script, verb, "-")
        assert set(offered) == {name for action in options(verb) for name in action.option_strings}, verb


def test_what_stands_behind_an_option_is_known(script: Path) -> None:
    assert completed(script, "check", "-c", "") == ["FILES"]
    assert completed(script, "reload", "--timeout", "") == []
    assert completed(script, "explain", "PO") == ["POST"]
    assert completed(script, "test", "") == ["FILES"]


def test_zsh_has_every_verb_and_option_with_its_meaning() -> None:
    text = "\n".join(zsh())
    for verb in verbs():
        assert f"    {verb})" in text
        for action in options(verb):
            assert all(f"'{name}[" in text for name in action.option_strings)
    if shutil.which("zsh"):
        assert subprocess.run(["zsh", "-n"], input=text, text=True, check=False).returncode == 0
