"""A folder is a registry, a file name is a kind: the one way by which pluggable parts are found and loaded.

1. The word written in relayd.yaml is the module's name; there is no second list that could disagree with the folder.
2. Looking loads nothing: `kinds` reads names only, so a kind whose library is not installed can still be listed.
3. Only a name that `kinds` gives is ever imported, whatever a configuration says.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from types import ModuleType


def kinds(package: str, *, packages_only: bool = False) -> tuple[str, ...]:
    """The kinds that a folder offers, sorted: every module whose name does not begin with an underscore.

    `packages_only` leaves out plain modules, where a folder also holds what its kinds share.
    """
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    named = (module for module in found if not module.name.startswith("_"))
    return tuple(sorted(module.name for module in named if module.ispkg or not packages_only))


def summary(package: str, kind: str) -> str:
    """The first paragraph of a kind's manual entry, which is the docstring of its module."""
    return " ".join(entry(package, kind).partition("\n\n")[0].split())


def entry(package: str, kind: str) -> str:
    """The manual entry of a kind; it is not loaded for this, since its library may be missing."""
    module = sys.modules.get(f"{package}.{kind}")
    if module is not None:
        return inspect.cleandoc(module.__doc__ or "")
    spec = importlib.util.find_spec(f"{package}.{kind}")
    source = None if spec is None or spec.loader is None else spec.loader.get_source(spec.name)  # type: ignore[attr-defined]
    return ast.get_docstring(ast.parse(source or "")) or ""


class Kinds:
    """The kinds of a folder as the words that a setting takes, each of which explains itself."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __contains__(self, word: object) -> bool:
        return word in kinds(self._folder)

    def __iter__(self) -> Iterator[str]:
        return iter(kinds(self._folder))

    def __len__(self) -> int:
        return len(kinds(self._folder))

    def explained(self) -> str:
        """The words with what their modules say of them."""
        return " ".join(f"`{word}`: {summary(self._folder, word)}" for word in self)


def load(package: str, kind: str) -> ModuleType:
    """The module of one kind.

    Raises KeyError for a word that is no kind of this folder, ImportError when a library that it needs is missing.
    """
    if kind not in kinds(package):
        raise KeyError(f"{kind!r} is no kind of {package}; known: {', '.join(kinds(package))}")
    return importlib.import_module(f"{package}.{kind}")
