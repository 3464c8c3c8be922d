"""relayd-protocols(7): every dialect, every pair, every drop, and nothing that roff would take for an order."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess

import pytest

from relayd.protocols import registry
from relayd.protocols.dialect import Options
from tests.docs import pairs, protocols_page


@pytest.fixture(scope="module")
def page() -> str:
    return protocols_page.page()


def test_every_dialect_has_a_section_with_all_its_drops(page: str) -> None:
    for dialect in registry.dialects():
        assert f".SS {protocols_page.roff(dialect.name)} ({protocols_page.roff(dialect.title)})\n" in page
        for text in dialect.drops:
            assert f".IP \\(bu 2\n{protocols_page.roff(text)}\n" in page


def test_every_pair_that_translates_has_a_section(page: str) -> None:
    for front in pairs.fronts():
        for back in pairs.backs():
            wanted = front.name not in (back.name, "dialogflow")
            assert (f".SS {front.name} to {back.name}\n" in page) is wanted


def test_a_pair_says_what_it_refuses_by_the_name_of_the_field(page: str) -> None:
    section = page.split(".SS openai_chat to ollama\n")[1].split(".SS")[0]
    assert "more than one answer (\\fBn\\fR)" in section and ".I dropped" in section and "temperature" in section


def test_every_option_is_explained(page: str) -> None:
    options = page.split(".SH OPTIONS")[1].split(".SH")[0]
    for one in dataclasses.fields(Options):
        assert re.search(rf"\\fB(?:\w+, )*{one.name}(?:, \w+)*\\fR\n\S", options), one.name


def test_roff_is_given_no_orders_by_a_text() -> None:
    assert protocols_page.roff(".SH it's `a-b`\\") == "\\&.SH it\\(aqs \\fBa\\-b\\fR\\e"


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff here")
def test_groff_has_nothing_to_complain_about(page: str) -> None:
    made = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-P-cbou"], input=page, capture_output=True, text=True, check=True)
    assert not made.stderr and "openai_chat to gemini" in made.stdout
