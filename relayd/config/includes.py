"""`include:` additional files, and how their sections are merged.

Laws:
1. Globs are relative to the folder of the including file; files are read in the order of their names.
2. The `routes` of all files are concatenated, the main file's first; other sections are merged key by key.
3. An unreadable folder is a fault and is not treated as empty; a folder that does not exist causes a warning.
4. A key in two files is a fault that names both; an included file cannot include others.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable

from relayd.schema.nodes import Mapping, Mark, Node, Scalar, Sequence, is_null

FILES = 256
FAULTS = 8  # unreadable folders that are reported
WILD = "*?["

Report = Callable[[Mark, str, str, str], object]


def patterns(root: Mapping) -> list[tuple[str, Scalar]]:
    """The scalars of `include:` with the paths of their keys; other nodes are left to the schema."""
    found = root.find("include")
    if found is None:
        return []
    node = found[1]
    items = node.items if isinstance(node, Sequence) else (node,)
    return [
        (f"include[{number}]", item)
        for number, item in enumerate(items)
        if isinstance(item, Scalar) and not item.null and item.text.isprintable()
    ]


def named_files(root: Mapping, folder: str, main: str, report: Report, warn: Report | None = None) -> list[tuple[str, Mark]]:
    """The included files, each once, with the mark of their entry. `warn` is called for absent folders."""
    files: dict[str, Mark] = {}
    for path, entry in patterns(root):
        pattern = os.path.join(folder, entry.text)
        hits = [pattern]
        if any(sign in entry.text for sign in WILD):
            expansion = _Expansion(pattern)
            hits = expansion.files
            for fault in expansion.faults[:FAULTS]:
                report(entry.mark, path, fault, "relayd would run without the files in it")
            if expansion.absent and warn is not None:
                warn(entry.mark, path, f"{expansion.absent} does not exist", "nothing is included from it")
        for hit in hits:
            if os.path.abspath(hit) == os.path.abspath(main):
                report(entry.mark, path, "includes this file itself", "")
                continue
            files.setdefault(os.path.normpath(hit), entry.mark)
        if len(files) > FILES:
            report(entry.mark, path, f"includes more than {FILES} files", "")
            return []
    return list(files.items())


class _Expansion:
    """The files that a pattern matches, as in glob(3), and every folder that could not be read."""

    def __init__(self, pattern: str) -> None:
        self.faults: list[str] = []
        self.absent = ""  # the folder before the first wildcard, if it does not exist
        parts = pattern.split("/")
        first = next(number for number, part in enumerate(parts) if any(sign in part for sign in WILD))
        self._fixed = "/".join(parts[:first]) or ("/" if pattern.startswith("/") else ".")
        found = [self._fixed]
        for part in parts[first:]:
            found = [path for folder in found for path in self._within(folder, part)]
        self.files = sorted(found)

    def _within(self, folder: str, part: str) -> list[str]:
        """The paths in a folder that match this part of the pattern."""
        if not part:  # two slashes
            return [folder]
        try:
            if any(sign in part for sign in WILD):
                matches = re.compile(fnmatch.translate(part)).match
                with os.scandir(folder) as entries:
                    names = [one.name for one in entries if matches(one.name)]
                return [os.path.join(folder, name) for name in names if part[0] == "." or name[0] != "."]
            path = os.path.join(folder, part)
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            if folder != self._fixed:
                return []  # one of several folders that match a wildcard
            if isinstance(error, FileNotFoundError):
                self.absent = folder
            else:
                self.faults.append(f"{folder} cannot be read: {error.strerror}")
            return []
        except OSError as error:
            self.faults.append(f"{error.filename or folder} cannot be read: {error.strerror}")
            return []
        return [path]


def merged(roots: Iterable[Mapping], report: Report) -> Mapping:
    """Merge the trees of the main file and of the included files."""
    main, *others = roots
    sections: dict[str, tuple[Scalar, Node]] = {key.text: (key, value) for key, value in main.entries}
    for other in others:
        for key, value in other.entries:
            if key.text == "include":
                report(key.mark, "include", "an included file cannot include others", "")
            elif key.text not in sections or is_null(sections[key.text][1]):
                sections[key.text] = (key, value)
            elif not is_null(value):
                first_key, first = sections[key.text]
                sections[key.text] = (first_key, _merge_section(key.text, first_key, first, key, value, report))
    return Mapping(tuple(sections.values()), main.mark)


def _merge_section(path: str, first_key: Scalar, first: Node, key: Scalar, value: Node, report: Report) -> Node:
    if path == "routes":
        items = [node.items if isinstance(node, Sequence) else (node,) for node in (first, value)]
        return Sequence(tuple(items[0]) + tuple(items[1]), first.mark)
    if not isinstance(first, Mapping) or not isinstance(value, Mapping):
        report(key.mark, path, "is in two files", f"also in {first_key.mark}")
        return first
    entries = {name.text: (name, node) for name, node in first.entries}
    for name, node in value.entries:
        if name.text in entries:
            report(name.mark, f"{path}.{name.text[:80]}", "is in two files", f"also in {entries[name.text][0].mark}")
        else:
            entries[name.text] = (name, node)
    return Mapping(tuple(entries.values()), first.mark)
