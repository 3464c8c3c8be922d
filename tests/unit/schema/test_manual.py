"""The manual names every key, and roff shows it as it was written."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from relayd.schema import Duration, section, setting
from relayd.schema.manual import escape, manual


@section(shorthand="path")
class Inner:
    """The inner section."""

    path: str = setting(doc=".begins with a dot, and has a \\ in it", pattern="/.*")
    wait: Duration = setting(default=Duration(5), doc="It's a `wait`.", pending="spring", minimum=1)


@section()
class Root:
    """The root."""

    inner: Inner | None = setting(default=None, doc="An inner one.")


PAGE = manual(Root, "thing.yaml", title="a thing", description=["First.", "Second."], files=[("/etc/a-b", "A file.")],
              example="a:\n\n  b: 'c'", see_also="thing(8)")


def test_every_key_stands_below_its_section() -> None:
    assert ".SS Top level\n" in PAGE
    assert ".SS inner\nThe inner section.\nA single value stands for \\fBpath\\fR.\n" in PAGE
    assert "\\fBwait:\\fR \\fIduration\\fR\nIt\\(aqs a \\fBwait\\fR.\nAt least 1s. Default: \\fB5s\\fR. Not in force yet" in PAGE


def test_no_line_of_text_is_taken_for_a_request() -> None:
    assert escape(".TH x") == "\\&.TH x"
    assert escape("'x") == "\\(aqx"
    assert escape("a\\b-c") == "a\\eb\\-c"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_roff_renders_it_without_a_warning() -> None:
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww"], input=PAGE, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert ".begins with a dot, and has a \\ in it" in done.stdout
