"""Expressions that are compiled when they are first used."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

import relayd
from relayd.lazy_regex import lazy_regex


def declared() -> Iterator[re.Pattern[str] | re.Pattern[bytes]]:
    """All expressions that the modules of relayd declare."""
    kind = type(lazy_regex(""))
    for module in pkgutil.walk_packages(relayd.__path__, "relayd."):
        try:
            found = vars(importlib.import_module(module.name)).values()
        except ImportError:  # an optional library is missing
            continue
        for value in found:
            yield from (one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, kind))


def test_an_expression_means_the_same_as_a_compiled_one() -> None:
    lazy, compiled = lazy_regex(r"(?P<letter>[a-z])-", re.IGNORECASE), re.compile(r"(?P<letter>[a-z])-", re.IGNORECASE)
    text = "A-b-1"
    for _ in range(2):
        assert lazy.sub("", text) == compiled.sub("", text) == "1"
        assert lazy.subn("", text) == compiled.subn("", text)
        assert lazy.findall(text) == compiled.findall(text)
        assert lazy.split(text) == compiled.split(text)
        assert [found.span() for found in lazy.finditer(text)] == [found.span() for found in compiled.finditer(text)]
        matched = lazy.match(text, 2)
        assert matched is not None and matched["letter"] == "b"
        assert lazy.fullmatch(text) is None and lazy.search("1") is None
        assert lazy.pattern == compiled.pattern


def test_an_expression_of_bytes_has_no_flags_by_default() -> None:
    assert lazy_regex(rb"\w").fullmatch(b"a") is not None


def test_a_declaration_compiles_nothing() -> None:
    broken = lazy_regex("(")
    assert broken.pattern == "("
    with pytest.raises(re.error):
        broken.match("")


def test_a_second_use_calls_the_compiled_method() -> None:
    lazy = lazy_regex("a second use")
    first = lazy.match
    assert lazy.match is first
    assert getattr(first, "__self__", None) == re.compile("a second use")


IMPORT = """
import importlib, pkgutil, re, sys

compiled, compile_ = [], re.compile

def noted(pattern, flags=0):
    caller = sys._getframe(1)
    compiled.append(f"{caller.f_globals['__name__']}:{caller.f_lineno}")
    return compile_(pattern, flags)

re.compile = noted
import relayd
for module in pkgutil.walk_packages(relayd.__path__, "relayd."):
    try:
        importlib.import_module(module.name)
    except ImportError:  # an optional library is missing
        pass
print(*(one for one in compiled if one.startswith("relayd.")))
"""


def test_no_module_compiles_an_expression_when_it_is_imported() -> None:
    """Nor does a function that it calls meanwhile."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_all_expressions_of_the_modules_can_be_compiled() -> None:
    found = list(declared())
    assert len(found) > 200
    for one in found:
        re.compile(one.pattern, one._flags)  # type: ignore[union-attr]
