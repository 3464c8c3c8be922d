"""Builds a section from a tree of nodes and reports all faults and warnings, each with its position in the file.

Laws:
1. Nothing raises. An invalid value becomes a Finding and is replaced by a blank, so that the other values are checked.
2. A section's own check() runs only if the whole section is valid; the check() of the outermost section runs as soon as
   its own keys are valid, and its faults about paths that already have a fault are omitted. No fault is the consequence
   of another one.
3. No message repeats the text of a value if a secret or a section is expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import field
from typing import Any

from relayd.dataclass import dataclass
from relayd.errors import Finding
from relayd.lazy_regex import lazy_regex
from relayd.schema import secrets
from relayd.schema.describe import (
    Key,
    blank,
    is_one_of,
    is_section,
    keys,
    list_item,
    mapping_value,
    shorthand_of,
    why_unavailable,
)
from relayd.schema.nodes import Mapping, Mark, Node, Scalar, Sequence, is_null, kind_of
from relayd.schema.scalars import ScalarError, meant, parse_scalar, shown
from relayd.schema.types import Secret

_VARIABLE = lazy_regex(r"\$\{[A-Za-z_][A-Za-z0-9_]{0,127}(:?[-+?=][^}]{0,200})?\}")
# In a text of several lines, such as a page with a script, `${name}` may be its own.
_CAPITALS = lazy_regex(r"\$\{[A-Z_][A-Z0-9_]{0,127}(:?[-+?=][^}]{0,200})?\}")


class _Unread:
    """Placeholder of an invalid value; never leaves this file."""


UNREAD = _Unread()


@dataclass(slots=True)
class Builder:
    """Builds one configuration. Owned by the loader; used once.

    `folders` has the folder of each file, for secrets with a relative path. `incomplete` is true if a part of the tree
    is missing (a file could not be read); checks of the whole configuration would then report consequences only.
    """

    findings: list[Finding] = field(default_factory=list)
    marks: dict[str, Mark] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    incomplete: bool = False
    _faulty: set[str] = field(default_factory=set)
    _faults: int = 0

    def build(self, root: type, node: Node) -> Any:
        """The root section; valid only if no finding is an error."""
        self.marks[""] = node.mark
        made = self._section(root, node, "", outermost=True)
        return blank(root) if made is UNREAD else made

    def fault(self, mark: Mark, path: str, message: str, suggestion: str = "") -> Any:
        self._faulty.add(path)
        self._faults += 1
        self.findings.append(Finding(mark.file, mark.line, mark.column, path, message, suggestion))
        return UNREAD

    def warn(self, mark: Mark, path: str, message: str, suggestion: str = "") -> None:
        self.findings.append(Finding(mark.file, mark.line, mark.column, path, message, suggestion, level="warning"))

    def mark_of(self, path: str) -> Mark:
        """The position of a path, or of its nearest parent in the file."""
        while path and path not in self.marks:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.marks[path]

    # Values by type.

    def _value(self, kind: Any, node: Node, path: str, key: Key | None = None) -> Any:
        self.marks.setdefault(path, node.mark)
        if is_section(kind):
            return self._section(kind, node, path)
        item = list_item(kind)
        if item is not None:
            return self._list(item, node, path, key)
        value = mapping_value(kind)
        if value is not None:
            return self._mapping(value, node, path, key)
        if kind is Secret:
            return self._secret(node, path)
        if not isinstance(node, Scalar):
            return self.fault(node.mark, path, f"needs a single value, found {kind_of(node)}")
        try:
            value = parse_scalar(node, kind, key)
        except ScalarError as wrong:
            return self.fault(node.mark, path, wrong.message, wrong.suggestion)
        if isinstance(value, str) and "${" in value:
            self._template(value, node.mark, path, _CAPITALS if key is not None and key.multiline else _VARIABLE)
        return value

    def _template(self, text: str, mark: Mark, path: str, variable: re.Pattern[str]) -> None:
        """Warn about `${NAME}`, which other programs replace. relayd uses it literally."""
        found = variable.search(text)
        if found is not None:
            self.warn(mark, path, f"{found[0]} is not replaced: it is used literally",
                      "environment variables are read only for secrets, as {env: NAME}")  # fmt: skip

    def _list(self, kind: Any, node: Node, path: str, key: Key | None) -> Any:
        items = node.items if isinstance(node, Sequence) else (node,)
        made = []
        for number, item in enumerate(items):
            at = f"{path}[{number}]"
            value = self._value(kind, item, at, key)
            made.append(blank(kind) if value is UNREAD else value)
        if not made and key is not None and key.required:
            return self.fault(node.mark, path, "must not be empty")
        return tuple(made)

    def _mapping(self, kind: Any, node: Node, path: str, key: Key | None) -> Any:
        if not isinstance(node, Mapping):
            return self.fault(node.mark, path, f"needs a mapping (name: value), found {kind_of(node)}")
        made = {}
        for name, value in node.entries:
            at = f"{path}.{name.text}"
            self.marks.setdefault(at, name.mark)
            if "${" in name.text:
                self._template(name.text, name.mark, at, _VARIABLE)
            if not is_name(name.text):
                self.fault(name.mark, path, f"{shown(name.text)} cannot be a name")
                continue
            found = self._value(kind, value, at, key)
            made[name.text] = blank(kind) if found is UNREAD else found
        return made

    def _secret(self, node: Node, path: str) -> Any:
        if isinstance(node, Scalar):
            return self.fault(node.mark, path, "a secret cannot be written inline", secrets.HOW)
        if not isinstance(node, Mapping):
            return self.fault(node.mark, path, "is not a secret", secrets.HOW)
        for name, _ in node.entries:
            if name.text not in secrets.KINDS:
                suggestion = meant(name.text, secrets.KINDS)
                return self.fault(name.mark, path, "only file, env or credential is allowed here", suggestion)
        if len(node.entries) != 1:
            return self.fault(node.mark, path, "needs exactly one of file, env and credential", secrets.HOW)
        (name, value), = node.entries
        if not isinstance(value, Scalar) or value.null or not value.text:
            wanted = "needs a path" if name.text == "file" else "needs a name"
            return self.fault(value.mark, f"{path}.{name.text}", wanted)
        try:
            made = secrets.resolve(name.text, value.text, self.folders.get(value.mark.file, ""))
        except secrets.SecretError as wrong:
            return self.fault(value.mark, f"{path}.{name.text}", str(wrong))
        if made.exposed:
            self.warn(value.mark, f"{path}.{name.text}", "every user of this machine can read this file", "chmod o-r")
        return made

    # Sections.

    def _section(self, section: type, node: Node, path: str, outermost: bool = False) -> Any:
        if why := why_unavailable(section):
            return self.fault(node.mark, path, why)
        known = {key.name: key for key in keys(section)}
        short = shorthand_of(section)
        if isinstance(node, Scalar) and short is not None and not node.null:
            node = Mapping(((Scalar(short, True, node.mark), node),), node.mark)
        if is_null(node):
            node = Mapping((), node.mark)
        if not isinstance(node, Mapping):
            return self.fault(node.mark, path, f"needs keys ({_some(known)}), found {kind_of(node)}")
        before = self._faults
        replaced = False
        values: dict[str, Any] = {}
        for name, value in node.entries:
            at = f"{path}.{name.text}" if path else name.text
            key = known.get(name.text)
            if key is None:
                suggestion = meant(name.text, known) or f"known here: {_some(known)}"
                self.fault(name.mark, at if name.text.isprintable() and len(name.text) < 80 else path,
                           f"unknown key {shown(name.text)}", suggestion)
                continue
            self.marks[at] = value.mark
            if key.pending:
                self.warn(name.mark, at, f"not in force yet (waits for: {key.pending})")
            found = self._key(key, value, at)
            replaced = replaced or found is UNREAD
            values[key.attribute] = _stand_in(key) if found is UNREAD else found
        for key in known.values():
            if key.required and key.attribute not in values:
                at = f"{path}.{key.name}" if path else key.name
                self.fault(node.mark, at, "is missing")
                replaced = True
                values[key.attribute] = blank(key.kind)
        if is_one_of(section) and len(node.entries) != 1 and self._faults == before:
            self.fault(node.mark, path, f"needs exactly one of {', '.join(known)}")
        made = section(**values)
        if not (outermost and self.incomplete) and (self._faults == before or (outermost and not replaced)):
            self._rules(made, path)
        return made

    def _key(self, key: Key, node: Node, path: str) -> Any:
        """The value of one key. An empty value is treated as absent if the key is optional and takes a section, a list
        or a mapping, for example a list with all lines commented out."""
        if is_null(node):
            if key.optional:
                return None
            wide = is_section(key.bare) or list_item(key.bare) is not None or mapping_value(key.bare) is not None
            if wide and not key.required:
                return key.default
            return self.fault(node.mark, path, "needs a value", "for the text itself, put it in quotes"
                              if isinstance(node, Scalar) and node.text else "")
        return self._value(key.bare, node, path, key)

    def _rules(self, made: Any, path: str) -> None:
        for rule, report in (("check", self.fault), ("caution", self.warn)):
            pairs: Iterable[tuple[str, str]] = getattr(made, rule, tuple)()
            for below, message in list(pairs):
                at = _joined(path, below)
                if not self._known_faulty(at):
                    report(self.mark_of(at), at, message)

    def _known_faulty(self, path: str) -> bool:
        """True if a fault was already reported for this path or for a path below it."""
        if not self._faulty:
            return False
        return any(one == path or one.startswith((f"{path}.", f"{path}[")) for one in self._faulty)


def is_name(text: str) -> bool:
    """Whether a key of a section with names of the operator's choice is one."""
    return bool(text) and text.isprintable() and len(text) <= 200


def _stand_in(key: Key) -> Any:
    return blank(key.kind) if key.required else key.default


def _joined(path: str, below: str) -> str:
    if not below or not path:
        return path or below
    return f"{path}{below}" if below.startswith("[") else f"{path}.{below}"


def _some(known: Iterable[str]) -> str:
    names = list(known)
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
