"""Loads relayd.yaml as a Config: the only module that reads YAML and configuration files.

    files -> text -> events -> bounded tree (tree.py) -> merged tree (includes.py) -> Config (schema.build)

Laws:
1. One ConfigError reports all faults of all files, in the order of files and lines.
2. For any input the result is a Loaded or a ConfigError.
3. Sizes are limited before a file is read, depth and number of values before sections are built.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import field, replace
from typing import Any

import yaml

from relayd.config.includes import merged, named_files
from relayd.config.model import Config
from relayd.config.prices import file_of, with_prices
from relayd.config.tree import Stop, TooDeep, Tree
from relayd.config.upstream import Endpoint, EndpointList
from relayd.dataclass import dataclass
from relayd.errors import ConfigError, Finding
from relayd.schema.build import Builder
from relayd.schema.files import FileFault, read_file
from relayd.schema.nodes import Mapping, Mark, Node, Scalar, is_null, kind_of

FILE_BYTES = 1 << 20
ALL_BYTES = 8 << 20
PRICES_BYTES = 8 << 20
TEXT_TAG = "tag:yaml.org,2002:str"
# libyaml is about twenty times faster than the parser in Python; both produce the same events and marks.
PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Loaded:
    """An accepted configuration, its warnings, and the files from which it was read (the main file first)."""

    config: Config
    warnings: tuple[Finding, ...]
    files: tuple[str, ...]
    texts: tuple[tuple[str, str], ...] = ()  # the same files with their contents
    mark_of: Callable[[str], Mark] = field(default=lambda path: Mark(""), repr=False, compare=False)

    def located(self, findings: Iterable[Finding]) -> list[Finding]:
        """Add file and line of the key to findings that name only the key."""
        return [one if one.line else self._located(one) for one in findings]

    def _located(self, finding: Finding) -> Finding:
        mark = self.mark_of(finding.path)
        file, line = (mark.file, mark.line) if mark.line else (self.files[0], 0)
        return replace(finding, file=file, line=line, column=mark.column if line else 0)


def load(path: str) -> Loaded:
    """The configuration of a file and its included files. Raises ConfigError with all findings."""
    reading = _Reading()
    text = reading.read(path, Mark(path))
    return reading.finish(path, text)


def load_texts(texts: tuple[tuple[str, str], ...]) -> Loaded:
    """The configuration of files that were read before, the main file first, all included files among them. Keys and
    certificates are read from disk as usual. Raises ConfigError with all findings."""
    reading = _Reading(given=dict(texts))
    return reading.finish(*texts[0])


def load_text(text: str, name: str) -> Loaded:
    """The configuration of a text, as if read from a file of this name. Raises ConfigError with all findings."""
    reading = _Reading()
    if len(text) > FILE_BYTES:
        reading.report(Mark(name), "", f"is larger than {FILE_BYTES >> 20} MiB")
        raise ConfigError(reading.findings)
    return reading.finish(name, text)


def load_tree(text: str, name: str) -> Mapping:
    """The tree of a text that is no relayd.yaml, with the same bounds. Raises ConfigError with all findings."""
    reading = _Reading()
    tree = reading.tree(name, text)
    if tree is None or any(one.level == "error" for one in reading.findings):
        raise ConfigError(reading.findings)
    return tree


def load_section(path: str, root: type) -> Any:
    """Another file of the same format, as one section of this type. Raises ConfigError with all findings."""
    reading = _Reading()
    return _section(reading, path, reading.read(path, Mark(path)), root)


def load_section_text(text: str, name: str, root: type) -> Any:
    """A text of the same format as one section of this type. `name` stands for its file in findings. Raises ConfigError
    with all findings."""
    return _section(_Reading(), name, text, root)


def _section(reading: _Reading, path: str, text: str | None, root: type) -> Any:
    tree = None if text is None else reading.tree(path, text)
    made = None if tree is None else reading.builder.build(root, tree)
    if any(one.level == "error" for one in reading.findings):
        raise ConfigError(reading.findings)
    return made


def load_endpoints(raw: bytes, path: str) -> tuple[Endpoint, ...]:
    """The entries of a text that holds a list of endpoints, alone or under the key `endpoints`, in YAML or JSON. `path`
    is the name of its file for the findings. Raises ConfigError with all findings.
    """
    reading = _Reading()
    text = reading.decoded(raw, path)
    if text is not None and "\t" in text and _is_json(text):
        text = text.replace("\t", " ")  # JSON permits tabs between tokens, YAML does not
    root = None if text is None else reading.node(path, text)
    if root is not None and (is_null(root) or (isinstance(root, Mapping) and root.find("endpoints") is None)):
        reading.report(root.mark, "", "needs a list of endpoints; for no endpoint it is []")
    elif root is not None:
        key = Scalar("endpoints", True, root.mark)
        root = root if isinstance(root, Mapping) else Mapping(((key, root),), root.mark)
        made: EndpointList = reading.builder.build(EndpointList, root)
    if any(one.level == "error" for one in reading.findings):
        raise ConfigError(reading.findings)
    return made.endpoints


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


@dataclass(slots=True)
class _Reading:
    """One reading of a configuration and its findings so far. Owned by load(); used once."""

    builder: Builder = field(default_factory=Builder)
    given: dict[str, str] | None = None  # instead of the files
    read_bytes: int = 0
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        return self.builder.findings

    def report(self, mark: Mark, path: str, message: str, suggestion: str = "") -> None:
        self.builder.fault(mark, path, message, suggestion)

    def finish(self, name: str, text: str | None) -> Loaded:
        main = None if text is None else self.tree(name, text)
        if main is None or text is None:
            raise ConfigError(self.findings)
        self.texts[name] = text
        folder = os.path.dirname(name)
        self.builder.folders[name] = folder
        roots, files = [main], [name]
        if self.given is None:
            named = named_files(main, folder, name, self.report, self.builder.warn)
        else:
            named = [(path, Mark(path)) for path in self.given if path != name]
        for path, mark in named:
            inner = self.read(path, mark) if self.given is None else self.given[path]
            root = None if inner is None else self.tree(path, inner)
            self.texts[path] = inner or ""
            self.builder.folders[path] = os.path.dirname(path)
            files.append(path)
            if root is None:
                self.builder.incomplete = True
            else:
                roots.append(root)
        config: Config = self.builder.build(Config, self.priced(merged(roots, self.report)))
        order = {path: number for number, path in enumerate(files)}
        found = sorted(self.findings, key=lambda one: (order.get(one.file, 0), one.line, one.column))
        if any(one.level == "error" for one in found):
            raise ConfigError(found)
        return Loaded(config, tuple(found), tuple(files), tuple(self.texts.items()), self.builder.mark_of)

    def priced(self, main: Mapping) -> Mapping:
        """The tree with the contents of the price file in place of its path. Like keys, prices are read from disk also
        for texts that were read before."""
        path = file_of(main)
        if path is None:
            return main
        named = os.path.join(self.builder.folders.get(path.mark.file, ""), path.text)
        text = self.read(named, path.mark, PRICES_BYTES)
        prices = None if text is None else self.tree(named, text, "models with prices")
        if prices is None:
            self.builder.incomplete = True
            return main
        return with_prices(main, path, prices, self.report)

    def read(self, path: str, named_at: Mark, most_bytes: int = FILE_BYTES) -> str | None:
        """The text of a file. On a fault, returns None and adds a finding at `named_at`."""
        try:
            raw, _ = read_file(path, most_bytes)
        except FileFault as fault:
            return self._unread(named_at, path, str(fault))
        self.read_bytes += len(raw)
        if self.read_bytes > ALL_BYTES:
            return self._unread(named_at, path, f"all files together are larger than {ALL_BYTES >> 20} MiB")
        return self.decoded(raw, path)

    def _unread(self, mark: Mark, path: str, reason: str) -> str | None:
        subject = "" if mark.file == path else f"{path} "
        self.report(mark, "", f"{subject}cannot be read: {reason}")
        return None

    def decoded(self, raw: bytes, path: str) -> str | None:
        if b"\0" in raw:
            self.report(Mark(path), "", "is not a text file")
            return None
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as fault:
            line = raw.count(b"\n", 0, fault.start) + 1
            column = fault.start - raw.rfind(b"\n", 0, fault.start)
            self.report(Mark(path, line, column), "", "is not UTF-8 text", "save the file as UTF-8")
            return None

    def tree(self, name: str, text: str, needed: str = "sections (listeners:, routes:, ...)") -> Mapping | None:
        """The sections of a text; None, with findings, if it is invalid. An empty text is an empty mapping."""
        before = len(self.findings)
        root = self.node(name, text)
        if root is None:
            return None
        if is_null(root):
            return Mapping((), Mark(name, 1, 1))
        if not isinstance(root, Mapping):
            self.report(root.mark, "", f"needs {needed}, found {kind_of(root)}")
            return None
        return root if len(self.findings) == before or root.entries else None

    def node(self, name: str, text: str) -> Node | None:
        """The tree of a text; None, with findings, if it is invalid. An empty text is an empty value."""
        tree = Tree(lambda mark, message, suggestion: self.report(mark, "", message, suggestion))
        try:
            _parse_events(tree, name, text)
        except Stop:
            return None
        except yaml.MarkedYAMLError as fault:
            if not self._too_deep(name, text, fault):
                self._syntax(name, text, fault)
            return None
        except (yaml.YAMLError, ValueError, OverflowError) as fault:
            # The pure parser raises ValueError for \UFFFFFFFF; readers report characters without a mark.
            sign = getattr(fault, "character", None)
            what = f"contains the character U+{ord(sign):04X}, which YAML forbids" if isinstance(sign, str) else (
                f"contains the character U+{sign:04X}, which YAML forbids" if isinstance(sign, int)
                else "contains a character that YAML forbids")
            index = getattr(fault, "position", None)
            self.report(_mark_at(name, text, index if isinstance(index, int) else None), "", what)
            return None
        root = tree.root
        return Scalar("", True, Mark(name, 1, 1)) if root is None else root

    def _too_deep(self, name: str, text: str, fault: yaml.MarkedYAMLError) -> bool:
        """True if the text before a parser error is already nested too deeply, which is then reported.

        A scanner reads up to 1,024 characters ahead of its events, and some versions have their own depth limit.
        """
        if fault.problem_mark is None:
            return False
        faults: list[tuple[Mark, str, str]] = []
        try:
            _parse_events(Tree(lambda *one: faults.append(one)), name, text[: fault.problem_mark.index])
        except TooDeep:
            mark, message, suggestion = faults[-1]
            self.report(mark, "", message, suggestion)
            return True
        except (Stop, yaml.YAMLError, ValueError, OverflowError):
            pass
        return False

    def _syntax(self, name: str, text: str, fault: yaml.MarkedYAMLError) -> None:
        mark = fault.problem_mark or fault.context_mark
        at = Mark(name, mark.line + 1, mark.column + 1) if mark is not None else Mark(name)
        problem = fault.problem or "cannot be read"
        suggestion = ""
        sign = _sign(text, mark.line, mark.column) if mark is not None else ""
        if sign == "\t":
            suggestion = "indent with spaces, not with tabs"
        elif "cannot start any token" in problem:
            suggestion = f"a value that begins with {sign} must be quoted"
        elif fault.context is not None and "alias" in fault.context:
            suggestion = "a value that begins with * must be quoted"
        elif "could not find expected ':'" in problem or "did not find expected" in problem:
            suggestion = "check the indentation and the brackets just above"
        elif "mapping values are not allowed" in problem:
            suggestion = "a value that contains a colon and a space must be quoted; otherwise check the indentation"
        self.report(at, "", f"YAML: {problem}", suggestion)


def _sign(text: str, line: int, column: int) -> str:
    lines = text.split("\n", line + 1)
    return lines[line][column : column + 1] if line < len(lines) else ""


def _mark_at(name: str, text: str, index: int | None) -> Mark:
    if index is None or not 0 <= index <= len(text):
        return Mark(name)
    return Mark(name, text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


def _parse_events(tree: Tree, name: str, text: str) -> None:
    """Pass the parser's events to the tree, which stops the parsing if a limit is exceeded."""
    documents = 0
    for event in yaml.parse(text, Loader=PARSER):
        mark = Mark(name, event.start_mark.line + 1, event.start_mark.column + 1) if event.start_mark else Mark(name)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                tree.report(mark, "a second document begins here", "one file holds one configuration; remove the ---")
                raise Stop
        elif isinstance(event, yaml.ScalarEvent):
            text_tag = _is_text_tag(tree, event.tag, mark)
            tree.scalar(event.value, event.style in (None, "") and not text_tag, mark, event.anchor)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            _is_text_tag(tree, event.tag, mark)
            tree.begin(isinstance(event, yaml.MappingStartEvent), mark, event.anchor)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            tree.end()
        elif isinstance(event, yaml.AliasEvent):
            tree.alias(event.anchor or "", mark)


def _is_text_tag(tree: Tree, tag: str | None, mark: Mark) -> bool:
    """True for the tag of a string. Any other tag is reported as a fault, because the schema defines the types."""
    if tag is None:
        return False
    if tag not in ("!", TEXT_TAG):
        tree.report(mark, "tags (!...) are not used here", "write the value without it, or in quotes")
    return True


