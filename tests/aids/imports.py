"""Configurations of other programs for tests of imports: tests/unit/importers/samples/KIND, from simple to odd.

A sample contains @BACKEND@ (host:port of the server behind), @PORT@ (where it listens) and @OTHER@ (a second port).
"""

from __future__ import annotations

import re
from pathlib import Path

SAMPLES = Path(__file__).resolve().parents[1] / "unit" / "importers" / "samples"
COMMENT = re.compile(r"^\s*(?:#|//).*$|(?<=[;{}\s])#.*$")


def samples(kind: str = "*") -> list[Path]:
    """A sample is a file, or a folder of files that belong together (the first by name is the main one)."""
    return sorted(path for path in SAMPLES.glob(f"{kind}/*") if not path.name.startswith("."))


def files_of(sample: Path) -> list[Path]:
    return sorted(path for path in sample.iterdir() if path.is_file()) if sample.is_dir() else [sample]


def filled(text: str, *, backend: str = "127.0.0.1:9000", port: int = 8080, other: int = 8081) -> str:
    return text.replace("@BACKEND@", backend).replace("@PORT@", str(port)).replace("@OTHER@", str(other))


def significant(text: str) -> list[int]:
    """The lines that say something: neither empty nor a comment nor brackets alone."""
    lines = enumerate(text.split("\n"), 1)
    return [number for number, line in lines if COMMENT.sub("", line).strip(" \t{}[](),;")]
