"""relayd(8) says what the commands are."""

from __future__ import annotations

from relayd.cli.main import EXIT_CODES, ORDER, parser_of
from tests.docs.commands_page import escaped, page, sentence


def test_every_command_and_every_option_is_in_the_page() -> None:
    text = page()
    for verb in ORDER:
        assert f".SS relayd {verb}\n" in text
        for action in parser_of(verb)._actions:
            for name in action.option_strings:
                if name not in ("-h", "--help"):
                    assert f"\\fB{escaped(name)}\\fR" in text, (verb, name)


def test_every_exit_code_is_in_the_page() -> None:
    text = page()
    for code, _ in EXIT_CODES:
        assert f"\\fB{code}\\fR" in text


def test_no_text_is_taken_for_an_order_to_the_formatter() -> None:
    assert escaped(".SH no") == "\\&.SH no"
    assert escaped("a\\b -c") == "a\\eb \\-c"
    known = (".TH", ".SH", ".SS", ".TP", ".PP", '.\\"')
    assert all(line.startswith(known) for line in page().splitlines() if line.startswith("."))


def test_help_texts_become_sentences() -> None:
    assert sentence("show it") == "Show it."
    assert sentence("relayd.yaml as JSON") == "relayd.yaml as JSON."
    assert sentence("Done.") == "Done."


def test_a_value_that_may_be_left_out_stands_in_brackets() -> None:
    assert "\\fB\\-\\-watch\\fR [\\fITIME\\fR]" in page()


def test_the_exit_codes_of_every_command_that_declares_them_are_in_the_manual() -> None:
    text = page().replace("\\-", "-")
    assert "Exit codes: 0 nothing would change, 1 something would, 3 the file would be refused or relayd does not respond" in text
    assert text.count("Exit codes:") >= 10
