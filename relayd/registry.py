"""A folder is a registry, a file name is a kind: the one way by which pluggable parts are found and loaded.

1. The word written in relayd.yaml is the module's name; there is no second list that could disagree with the folder.
2. Looking loads nothing: `kinds` reads names only, so a kind whose library is not installed can still be listed.
3. Only a name that `kinds` gives is ever imported, whatever a configuration says.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def kinds(package: str, *, packages_only: bool = False) -> tuple[str, ...]:
    """The kinds that a folder offers, sorted: every module whose name does not begin with an underscore.

    `packages_only` leaves out plain modules, where a folder also holds what its kinds share.
    """
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    named = (module for module in found if not module.name.startswith("_"))
    return tuple(sorted(module.name for module in named if module.ispkg or not packages_only))


def load(package: str, kind: str) -> ModuleType:
    """The module of one kind.

    Raises KeyError for a word that is no kind of this folder, ImportError when a library that it needs is missing.
    """
    if kind not in kinds(package):
        raise KeyError(f"{kind!r} is no kind of {package}; known: {', '.join(kinds(package))}")
    return importlib.import_module(f"{package}.{kind}")
