"""Importers: configurations of other programs as a relayd.yaml and a report, one module per kind of file.

A module is a kind of `relayd import`; its docstring is the manual entry, and its class `Importer` converts. All write the
same Draft, from which this module makes the YAML and the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from relayd import registry
from relayd.dataclass import dataclass
from relayd.importers._draft import Draft
from relayd.importers._report import Entry
from relayd.importers._sources import Source, SourceError, Sources
from relayd.importers._writer import yaml_text

FOLDER = "relayd.importers"
NO_LISTENER = "127.0.0.1:8282"
HEAD = """Converted by `relayd import {kind}`. Its report names what is approximate, what must be done by hand, and what is
not supported. Check it with `relayd check`; relayd.yaml(5) documents all keys, relayd-migration(7) the next steps."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """The result of an import. `keys` are the secrets, by the names of their key files."""

    kind: str
    draft: Draft
    entries: Sequence[Entry]
    remarks: Sequence[str]
    keys: dict[str, str]

    def text(self, keys: str) -> str:
        """The relayd.yaml. `keys`: the folder of the key files."""
        return yaml_text(self.draft.document(keys), HEAD.format(kind=self.kind))


def recognised(texts: Sequence[tuple[str, str]]) -> str:
    """The kind of these files, by the first one that a kind recognises. Raises ValueError."""
    for name, text in texts:
        found = [kind for kind in registry.kinds(FOLDER) if registry.load(FOLDER, kind).Importer.recognises(Source(name, text))]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{name} may be of several kinds ({', '.join(found)}); name the kind")
    raise ValueError(f"the kind of {texts[0][0]} is not recognised; name it: {', '.join(registry.kinds(FOLDER))}")


def converted(
    kind: str, texts: Sequence[tuple[str, str]], *, named: Callable[[str, str], list[str]], read: Callable[[str], str]
) -> Conversion:
    """Convert these files, names and texts. `named`, `read`: as in Sources, for the files that they include.

    Raises ValueError if a file cannot be read or parsed, ConfigError for a YAML with faults.
    """
    draft = Draft()
    sources = Sources([Source(name, text) for name, text in texts], named, read)
    importer = registry.load(FOLDER, kind).Importer(sources, draft)
    try:
        importer.convert()
    except SourceError as fault:
        raise ValueError(str(fault)) from None
    if not draft.routes:
        draft.report.remark("Nothing was converted into a route.")
    if not draft.listeners:
        draft.listener("local", {"address": NO_LISTENER}, None)
        draft.report.remark(f"No address was converted: the listener is {NO_LISTENER}, for this machine only. Set its address, and tls.")
    draft.document("")  # forgets unused keys
    return Conversion(kind, draft, draft.report.entries(), draft.report.remarks, dict(draft.keys))
