"""The relayd command and its verbs."""

from __future__ import annotations

import gc
import json
import pathlib
import subprocess
import sys

import pytest

from relayd import __version__
from relayd.cli.main import EXIT_CODES, ORDER, frame, help_of, main, parser_of, verbs


def test_all_verbs_are_found_in_the_order_of_a_working_day() -> None:
    assert tuple(verbs()[: len(ORDER)]) == ORDER


@pytest.mark.parametrize("verb", ORDER)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert help_of(verb) == parser_of(verb).description
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert f"relayd {verb}" in capsys.readouterr().out


def test_the_help_lists_verbs_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for verb in ORDER:
        assert f"\n  {verb}" in shown
    for code, meaning in EXIT_CODES:
        assert f"{code}" in shown and meaning in shown
    assert shown == frame().format_help()


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"relayd {__version__}\n"


def test_nothing_and_nonsense_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["fly"]) == 2
    captured = capsys.readouterr()
    assert "no such command: fly" in captured.err
    assert captured.out == ""
    with pytest.raises(SystemExit) as ended:
        main(["reload", "--no-such-option"])
    assert ended.value.code == 2


@pytest.mark.parametrize("verb", ["schema", "reload", "status", "streams", "queue", "upstreams", "endpoint", "breaker", "version"])  # check compiles the whole plan
def test_commands_beside_the_server_do_not_load_it(verb: str) -> None:
    program = (
        "import sys, json; from relayd.cli.main import parser_of; parser_of(sys.argv[1]);"
        "print(json.dumps([name for name in sys.modules if name in ('asyncio', 'tornado.ioloop', 'tornado.web')]))"
    )
    done = subprocess.run([sys.executable, "-c", program, verb], capture_output=True, text=True, check=True)
    kinds_that_wait = ["asyncio"] if verb == "schema" else []  # it loads the kinds of every plug-in folder
    assert json.loads(done.stdout) == kinds_that_wait


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 1);"
         "from relayd.cli.main import main; sys.exit(main(['schema']))"],
        capture_output=True, text=True, check=False,
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [
    ["endpoint", "--socket", "NONE", "set", "u", "http://h"], ["endpoint", "set", "--socket", "NONE", "u", "http://h"],
    ["endpoint", "set", "u", "--socket", "NONE", "http://h"], ["endpoint", "set", "u", "http://h", "--socket", "NONE"],
    ["certs", "renew", "--socket", "NONE", "a.example"],
])
def test_options_stand_anywhere_among_the_arguments(words: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = str(tmp_path / "gone.sock")
    assert main([gone if word == "NONE" else word for word in words]) == 1
    assert f"{gone}: No such file" in capsys.readouterr().err


def test_a_misspelt_command_is_answered_with_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["statsu"]) == 2
    assert "did you mean status?" in capsys.readouterr().err
    assert main(["xyzzy"]) == 2
    assert "commands: run, keep" in capsys.readouterr().err


def test_collections_do_not_examine_what_imports_made() -> None:
    gc.unfreeze()
    try:
        assert main(["version"]) == 0
        assert gc.isenabled() and gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
