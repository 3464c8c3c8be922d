"""`relayd import`: a relayd.yaml from the configuration of another program, with a report of every line.

Without `-o` nothing is written: the configuration goes to standard output, the report to standard error. With `-o` the
configuration and the key files are written, and the report goes to standard output. The result passes `relayd check`;
files of another machine, such as certificates, and variables that are not set here are named as missing.

Every line of the source is reported. `exact`: relayd does the same. `approximate`: the difference is named. `by hand`:
relayd can do this, but it does not follow from the file. `not supported`: relayd cannot do this. A rule that restricts
access and that cannot be converted becomes a route that answers 501. Read the report before the result serves anyone.

The kind of the files is recognised if it is not given. Secrets are moved into key files that only their owner can read.

Exit codes: 0 converted, 1 not converted, or with --strict a line is left by hand or not supported, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import json
import os
import pwd
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import TextIO

from relayd import importers, registry
from relayd.cli.output import err, out, paint, plain, table
from relayd.config.load import load_text
from relayd.errors import ConfigError, Finding
from relayd.importers import Conversion, converted, recognised
from relayd.lazy_regex import lazy_regex
from relayd.schema.files import FileFault, read_file

HELP = "convert the configuration of another program, with a report of every line"
FILE_BYTES = 4 << 20
SERVICE_USER = "relayd"
# A file or a variable of the machine on which relayd will run.
MISSING = lazy_regex(r"^cannot be read: No such file|^environment variable \w+ is not set|^credential ")
COLOURS = {"exact": "green", "approximate": "yellow", "by hand": "yellow", "not supported": "red"}


def configure(parser: argparse.ArgumentParser) -> None:
    kinds = registry.kinds(importers.__name__)
    parser.add_argument(
        "sources", nargs="+", metavar="[KIND] FILE",
        help=f"files that belong together, after their kind: {', '.join(kinds)}",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write the configuration to FILE, and the key files")
    parser.add_argument(
        "--keys", metavar="DIR", help="folder of the key files (default relayd/keys beside FILE, as /etc/relayd/keys)",
    )
    parser.add_argument("--report", choices=("text", "json"), default="text", help="form of the report (default text)")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1, and write nothing, if a line is by hand or not supported",
    )


def run(arguments: argparse.Namespace) -> int:
    named: list[str] = list(arguments.sources)
    kind = named.pop(0) if named[0] in registry.kinds(importers.__name__) and not os.path.isfile(named[0]) else ""
    if not named:
        err("relayd import: no file named")
        return 2
    try:
        texts = [(path, _read(path)) for path in named]
        kind = kind or recognised(texts)
        result = converted(kind, texts, named=_named, read=_read)
    except (ConfigError, ValueError) as fault:
        err(f"relayd import: {fault}")
        return 1
    keys = arguments.keys or os.path.join(os.path.dirname(arguments.output or "/etc/relayd.yaml"), "relayd", "keys")
    keys = os.path.abspath(keys)
    faults, missing = _faults(result)
    if faults:
        for finding in faults:
            err(f"relayd import: relayd would refuse the result: {finding}")
        return 1
    remarks = [*result.remarks, *(f"missing on this machine: {one.path} {one.message}" for one in missing)]
    left = [one for one in result.entries if str(one.fidelity) in ("by hand", "not supported")]
    refused = bool(arguments.strict and left)
    if arguments.output and not refused:
        try:
            _write(result, arguments.output, keys, arguments.force)
        except OSError as fault:
            err(f"relayd import: {fault.filename}: {fault.strerror}")
            return 1
        _report(result, remarks, arguments, keys, sys.stdout)
    else:
        if not arguments.output:
            out(result.text(keys).rstrip("\n"))
        _report(result, remarks, arguments, keys, sys.stderr)
    return 1 if refused else 0


def _read(path: str) -> str:
    """The text of a source. Raises ValueError with the reason."""
    try:
        raw, _ = read_file(path, FILE_BYTES)
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except FileFault as fault:
        raise ValueError(f"{path}: cannot be read: {fault}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8 text") from None


def _named(pattern: str, beside: str) -> list[str]:
    """The files that a pattern in the file `beside` matches."""
    return sorted(path for path in glob.glob(os.path.join(os.path.dirname(beside), pattern)) if os.path.isfile(path))


def _faults(result: Conversion) -> tuple[list[Finding], list[Finding]]:
    """The faults of the result, with its keys in a temporary folder; and missing requirements of this machine."""
    with tempfile.TemporaryDirectory(prefix="relayd-import-") as folder:
        for name, value in result.keys.items():
            _create(os.path.join(folder, name), value + "\n", replace=False)
        try:
            load_text(result.text(folder), result.kind)
        except ConfigError as refused:
            faults = [one for one in refused.findings if one.level == "error"]
            missing = [one for one in faults if MISSING.search(one.message)]
            return [one for one in faults if one not in missing], missing
    return [], []


def _write(result: Conversion, file: str, keys: str, replace: bool) -> None:
    """Write the key files and the configuration. Raises OSError; an existing file is replaced only with --force."""
    paths = [file, *(os.path.join(keys, name) for name in result.keys)]
    existing = [path for path in paths if os.path.lexists(path)]
    if existing and not replace:
        raise FileExistsError(0, "exists already; --force replaces it", existing[0])
    if not os.path.isdir(os.path.dirname(file) or "."):
        raise FileNotFoundError(0, "is not a folder", os.path.dirname(file))
    if result.keys:
        _folder(keys)
    for name, value in result.keys.items():
        _create(os.path.join(keys, name), value + "\n", replace=replace)
    _create(file, result.text(keys), replace=replace, mode=0o640)


def _folder(path: str) -> None:
    """Create the folder of the keys; those that root creates belong to the group of the service."""
    if os.path.isdir(path):
        return
    _folder(os.path.dirname(path))
    os.mkdir(path, 0o750)
    if (user := _service_user()) is not None:
        os.chown(path, -1, user[1])


def _create(path: str, text: str, *, replace: bool, mode: int = 0o600) -> None:
    """Write a file. Root gives a key to the user of the service, if that exists, and the configuration to its group."""
    if replace and os.path.lexists(path):
        os.unlink(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with open(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        if (user := _service_user()) is not None:
            os.fchown(descriptor, user[0] if mode == 0o600 else -1, user[1])
        file.write(text)


def _service_user() -> tuple[int, int] | None:
    """User and group of the service; None if they do not exist, or if the caller cannot give files away."""
    if os.geteuid() != 0:
        return None
    try:
        found = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return None
    return found.pw_uid, found.pw_gid


def _report(
    result: Conversion, remarks: Sequence[str], arguments: argparse.Namespace, keys: str, stream: TextIO
) -> None:
    say = out if stream is sys.stdout else err
    files = {name: os.path.join(keys, name) for name in result.keys}
    counts = Counter(str(one.fidelity) for one in result.entries)
    if arguments.report == "json":
        lines = [{**dataclasses.asdict(one), "fidelity": str(one.fidelity)} for one in result.entries]
        say(json.dumps({"kind": result.kind, "output": arguments.output, "keys": list(files.values()), "lines": lines,
                        "remarks": remarks, "counts": counts}, indent=2))
        return
    rows: list[tuple[str, ...]] = []
    for one in result.entries:
        where = f"{one.file}:{one.line}" + (f"-{one.last}" if one.last > one.line else "")
        fidelity = str(one.fidelity)
        painted = paint(fidelity, COLOURS[fidelity], stream)
        rows.append((plain(where), painted, plain(one.text), plain("; ".join(one.reasons))))
    for line in _wrapped(rows):
        say(line)
    for remark in remarks:
        say(f"remark: {plain(remark)}")
    for path in files.values():
        say(f"key file: {path}" + ("" if arguments.output else " (not written)"))
    say(f"{result.kind}: " + ", ".join(f"{counts[fidelity]} {fidelity}" for fidelity in COLOURS if counts[fidelity]))


def _wrapped(rows: list[tuple[str, ...]]) -> list[str]:
    """The lines of the report: position, fidelity and text in columns, the reasons below them."""
    heads = table([row[:3] for row in rows])
    lines = []
    for head, row in zip(heads, rows, strict=True):
        lines.append(head)
        if row[3]:
            lines.append(f"    {row[3]}")
    return lines
