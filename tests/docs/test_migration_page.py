"""relayd-migration(7) names what exists: kinds, commands, options, keys and examples."""

from __future__ import annotations

import pathlib
import re

from relayd import registry
from relayd.cli.main import verbs
from relayd.importers import FOLDER
from tests.docs.completion import options
from tests.docs.migration_page import STACKS, STEPS, marked, page

TOP = pathlib.Path(__file__).resolve().parents[2]
COMMANDS = [command for one in STACKS for command, _ in (*one.there, *one.end, *one.back)] + [command for command, _ in STEPS]


def test_the_page_in_the_package_is_the_one_that_would_be_made() -> None:
    assert (TOP / "debian/man/relayd-migration.7").read_text(encoding="utf-8") == page()


def test_every_kind_stands_in_the_page() -> None:
    made = page().replace("\\-", "-")
    assert all(f"\n.B {kind}\n" in made for kind in registry.kinds(FOLDER))


def test_every_command_and_option_exists() -> None:
    found = [(verb, rest) for command in COMMANDS for verb, rest in re.findall(r"(?:^|&& |; )relayd ([a-z]+)([^&;]*)", command)]
    assert len(found) > 15
    for verb, rest in found:
        assert verb in verbs(), verb
        known = {name for action in options(verb) for name in action.option_strings}
        assert set(re.findall(r"(?<=\s)-{1,2}[a-z-]+", rest)) <= known, (verb, rest)
    kinds = [rest.split()[0] for verb, rest in found if verb == "import" and not rest.split()[0].startswith(("-", "."))]
    assert kinds and set(kinds) <= set(registry.kinds(FOLDER))


def test_every_stack_has_its_example_an_end_and_a_way_back() -> None:
    assert len(STACKS) == 5
    for one in STACKS:
        assert (TOP / "conf/examples" / one.example).exists() and (TOP / "conf/examples/tests" / one.example).exists()
        assert one.there and one.end and one.back


def test_marks_become_fonts_and_text_is_never_a_request() -> None:
    assert marked("`a-b` is *c* \\ it's") == "\\fBa\\-b\\fR is \\fIc\\fR \\e it\\(aqs" and marked(".so x") == "\\&.so x"
