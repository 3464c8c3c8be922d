"""Discovery and loading of plug-ins: a folder is a registry, and the name of a module in it is a kind.

1. The value in relayd.yaml is the module's name; no second list exists that could disagree with the folder.
2. Listing loads no module: `kinds` reads names only, so it also lists a kind with a missing library.
3. Only a name that `kinds` returns is imported, regardless of the configuration.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from types import ModuleType


def kinds(package: str, *, packages_only: bool = False) -> tuple[str, ...]:
    """The kinds of a folder, sorted: all modules except those with a leading underscore.

    `packages_only` excludes plain modules, for folders that also hold modules shared by their kinds.
    """
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    named = (module for module in found if not module.name.startswith("_"))
    return tuple(sorted(module.name for module in named if module.ispkg or not packages_only))


def summary(package: str, kind: str) -> str:
    """The first paragraph of a kind's manual entry, which is the docstring of its module."""
    return " ".join(entry(package, kind).partition("\n\n")[0].split())


def entry(package: str, kind: str) -> str:
    """The manual entry of a kind. The kind is not loaded, because its library may be missing."""
    module = sys.modules.get(f"{package}.{kind}")
    if module is not None:
        return inspect.cleandoc(module.__doc__ or "")
    spec = importlib.util.find_spec(f"{package}.{kind}")
    source = None if spec is None or spec.loader is None else spec.loader.get_source(spec.name)  # type: ignore[attr-defined]
    return ast.get_docstring(ast.parse(source or "")) or ""


class Kinds:
    """The kinds of a folder as the choices of a setting, each with its explanation."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __contains__(self, kind: object) -> bool:
        # A configuration asks thousands of times: a kind that is loaded needs no listing of the folder.
        if isinstance(kind, str) and kind.isidentifier() and not kind.startswith("_"):
            return f"{self._folder}.{kind}" in sys.modules or kind in kinds(self._folder)
        return False

    def __iter__(self) -> Iterator[str]:
        return iter(kinds(self._folder))

    def __len__(self) -> int:
        return len(kinds(self._folder))

    def explained(self) -> str:
        """The choices with the summaries of their modules."""
        return " ".join(f"`{kind}`: {summary(self._folder, kind)}" for kind in self)


def is_installed(library: str) -> bool:
    """Whether an optional library can be imported now; it may have been installed after this process began."""
    if library in sys.modules or importlib.util.find_spec(library) is not None:
        return True
    importlib.invalidate_caches()
    return importlib.util.find_spec(library) is not None


@functools.cache
def load(package: str, kind: str) -> ModuleType:
    """The module of one kind. A folder is listed only when one of its modules is loaded for the first time.

    Raises KeyError for a name that is not a kind of this folder, ImportError if a required library is missing.
    """
    if kind not in kinds(package):
        raise KeyError(f"{kind!r} is no kind of {package}; known: {', '.join(kinds(package))}")
    return importlib.import_module(f"{package}.{kind}")
