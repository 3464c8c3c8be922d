"""The grammar of nginx against crossplane, NGINX's own parser in Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from relayd.importers._directive import Directive
from relayd.importers._nginx_grammar import Parser
from relayd.importers._report import Report
from relayd.importers._sources import Source, Sources
from tests.aids.imports import filled, samples

ODD = (
    "a 'b c' \"d;e\" f; # g\n", "a\n  b\n\tc\n;\nd { e f; }\n", "a ${b}c ${d}; e {}", "a b\\ c \\; d;", 'a "b\\"c" \'d"e\' "f\\\\g";',
    'location ~ "^/x{1,3}/(?<n>.*)\\.php$" { a b; }', "a 'two\nlines';", "a b#c d;", "if ($a = b) { c 1; }", 'log_format x \'"$a" \' \'$b\';',
    "a é \"ü\";", "", "# nothing\n",
)


# crossplane keeps these escapes; nginx resolves them (ngx_conf_read_token).
RESOLVED = {"\\": "\\", "t": "\t", "r": "\r", "n": "\n"}


def parsed(text: str) -> list[Directive]:
    return Parser(Sources([]), Report()).parse(Source("x", text))


def condition(args: list[str]) -> list[str]:
    """crossplane drops the brackets of `if`, with or without a word of their own."""
    return ["".join(args).strip("()")]


def shape(directives: list[Directive]) -> list[Any]:
    return [[one.name, one.args if one.name != "if" else condition(one.args), one.item.line, None if one.block is None else shape(one.block)] for one in directives]


def oracle(text: str, folder: Path) -> list[Any]:
    crossplane = pytest.importorskip("crossplane", reason="pip install crossplane: the parser to compare with")
    file = folder / "nginx.conf"
    file.write_text(text, encoding="utf-8")
    payload = crossplane.parse(str(file), single=True, strict=False, check_ctx=False, check_args=False)
    assert payload["status"] == "ok", payload["errors"]

    def of(block: list[dict[str, Any]]) -> list[Any]:
        return [[one["directive"], args(one), one["line"], of(one["block"]) if "block" in one else None] for one in block]

    def args(one: dict[str, Any]) -> list[str]:
        if one["directive"] != "if":
            return [re.sub(r"\\([\\trn])", lambda found: RESOLVED[found[1]], arg) for arg in one["args"]]
        return condition(one["args"])

    return of(payload["config"][0]["parsed"])


@pytest.mark.parametrize("text", [*ODD, *(filled(path.read_text()) for path in samples("nginx") if "lua" not in path.read_text())])
def test_the_grammar_is_crossplanes(text: str, tmp_path: Path) -> None:
    assert shape(parsed(text)) == oracle(text, tmp_path)


def test_a_block_of_lua_is_one_argument() -> None:
    found = parsed("content_by_lua_block { a('}') -- }\n b = {1} }\nnext 1;")
    assert [(one.name, one.item.line, one.item.last) for one in found] == [("content_by_lua_block", 1, 2), ("next", 3, 3)]
    assert found[0].args == [" a('}') -- }\n b = {1} "]


def test_a_statement_knows_its_lines() -> None:
    found = parsed("\na\n b\n 'c\nd';e { f; }")
    assert [(one.item.line, one.item.last) for one in found] == [(2, 5), (5, 5)]
    assert found[1].block is not None and found[1].block[0].item in found[1].item.inner
