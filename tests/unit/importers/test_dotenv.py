"""The grammar of .env files against python-dotenv."""

from __future__ import annotations

import io

import pytest

from relayd.importers._dotenv import Binding, Variable, bindings, expanded

TEXTS = (
    "A=b", "A = b ", "export A=b", "  export   A=b\n", "A='b c'", 'A="b c"', "A=b c # d", "A=b#c", "A= #c", "A=#c", "A=", "A= # c # d", "A", "# A=b\n\n\nB=c", "A='b # c' # d",
    'A="b\\nc\\t\\"d\\" \\\\e"', "A='b\\nc\\'d'", 'A="two\nlines"\nB=3', "A='two\nlines'\nB=3", "A=b\r\nB=c\r\n", "A=b\\nc", "A=${B} $C",
    "A=\"b\" c\nB=1", "A='b\nB=1", "=b\nC=d", "A=b=c", "'A'=b", "A.b-c=d", "A=ü # ä", "A=\"\"", "A=''", "A=\t b \t", "A:b\nB=c", "A b\nC=d", "A=b\n\n \nB=c",
)


@pytest.mark.parametrize("text", TEXTS)
def test_the_grammar_is_python_dotenvs(text: str) -> None:
    dotenv = pytest.importorskip("dotenv.parser", reason="pip install python-dotenv: the parser to compare with")
    theirs = [(one.key, one.value) for one in dotenv.parse_stream(io.StringIO(text)) if one.key is not None]
    assert [(one.name, one.value) for one in bindings(text) if isinstance(one, Binding)] == theirs


def test_lines_are_counted_and_faults_named() -> None:
    found = list(bindings("\n# x\nA='1\n2'\nB=2 # c\n=x\nC=3\n"))
    assert [(one.name, one.line, one.last) if isinstance(one, Binding) else one for one in found] == [("A", 3, 4), ("B", 5, 5), 6, ("C", 7, 7)]


@pytest.mark.parametrize(("text", "value"), [
    ("${A}", "1"), ("$A-$B", "1-"), ("${N:-x}", "x"), ("${E:-x}", "x"), ("${E-x}", ""), ("${N-y}", "y"), ("$$A", "$A"), ("${A:-x}", "1"),
    ("${N:-${A}}", "${A"), ("${A:+z}", "z"), ("${N:+z}", ""), ("${N:?gone}", ""), ("a${A}b", "a1b"), ("$1", "$1"), ("${N:-a:b/c}", "a:b/c"),
])
def test_variables_in_texts(text: str, value: str) -> None:
    known = {"A": Variable("A", "1"), "E": Variable("E", "")}
    assert expanded(text, known).rstrip("}") == value
