"""`relayd sessions import`: reads sessions from the Redis of another program, and passes them to the running relayd."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from relayd import registry
from relayd.cli.action import post
from relayd.cli.output import err, out, plain
from relayd.proxy.client_session import is_well_formed, key_of
from relayd.schema.files import FileFault, read_file

BATCH_BYTES, BATCH = 256 * 1024, 200
PASSWORD_BYTES = 4096
TIMEOUT_S = 10.0
GLOB = "*?[\\"


class Found(NamedTuple):
    """A session of the other program: `name` is its key there, `key` the digest of its id. `reason` is why it is
    skipped, empty if it is not."""

    name: str
    key: str = ""
    document: Any = None
    size_bytes: int = 0
    reason: str = ""


def run_import(arguments: argparse.Namespace) -> int:
    """Import the sessions and report the taken and the skipped ones. Returns the exit code."""
    try:
        password = None
        if arguments.password_file:
            password = text_of(arguments.password_file)
        scan = registry.load("relayd.stores._redis", "scan").scan
        source = scan(arguments.redis, password, arguments.pattern, TIMEOUT_S)
        begins = arguments.strip if arguments.strip is not None else literal_start(arguments.pattern)
        return report(arguments, (found_in(name, kind, value, begins) for name, kind, value in source), len(begins))
    except FileFault as fault:
        err(f"relayd: {arguments.password_file}: {fault}")
    except ImportError:
        err("relayd: the import needs the Python package redis (python3-redis)")
    except OSError as fault:
        err(f"relayd: {fault}")
    return 1


def text_of(file: str) -> str:
    """The password in a file. Raises FileFault."""
    data = read_file(file, PASSWORD_BYTES)[0]
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError as fault:
        raise FileFault(f"is not UTF-8 at byte {fault.start + 1}: write the password in UTF-8") from None


def literal_start(pattern: str) -> str:
    """The part of a pattern before its first special character: what a key has in front of the id."""
    end = next((index for index, character in enumerate(pattern) if character in GLOB), len(pattern))
    return pattern[:end]


def found_in(name: bytes, kind: str, value: bytes | None, begins: str) -> Found:
    """One key of the other program."""
    shown, start = name.decode("utf-8", "backslashreplace"), begins.encode()
    session_id = name[len(start) :]
    if value is None:
        return Found(shown, reason=f"its type is {kind}, not string")
    if not name.startswith(start) or not is_well_formed(session_id):
        return Found(shown, reason="what is left of its key cannot be the id of a session")
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        return Found(shown, reason="its value is not JSON")
    return Found(shown, key_of(session_id), document, len(value))


def batches(source: Iterator[Found], skipped: list[Found]) -> Iterator[dict[str, Found]]:
    """The sessions to import by their digests, in parts of bounded size. Others are added to `skipped`."""
    batch: dict[str, Found] = {}
    size = 0
    for one in source:
        if one.reason:
            skipped.append(one)
            continue
        if len(batch) == BATCH or (batch and size + one.size_bytes > BATCH_BYTES):
            yield batch
            batch, size = {}, 0
        if one.size_bytes > BATCH_BYTES:
            skipped.append(one._replace(reason="The document is too large."))
            continue
        batch[one.key] = one
        size += one.size_bytes
    if batch:
        yield batch


def report(arguments: argparse.Namespace, source: Iterator[Found], shown: int) -> int:
    """Pass the sessions to relayd and print the result; of keys, `shown` characters are no secret. Returns the exit
    code."""
    skipped: list[Found] = []
    stored = 0
    for batch in batches(source, skipped):
        asked = {
            "consumer": arguments.consumer or "", "dry_run": arguments.dry_run,
            "sessions": {key: one.document for key, one in batch.items()},
        }
        reply = post(arguments, "/sessions/import", asked)
        if reply is None:
            return 1
        stored += reply["stored"]
        skipped += [batch[key]._replace(reason=reason) for key, reason in reply["skipped"].items()]
    if arguments.json:
        reasons = [{"key": masked(one.name, shown), "reason": one.reason} for one in skipped]
        out(json.dumps({"dry_run": arguments.dry_run, "imported": stored, "skipped": reasons}, indent=2))
        return 0
    for one in skipped:
        out(f"skipped {plain(masked(one.name, shown))}: {one.reason}")
    done = "would be imported" if arguments.dry_run else "imported"
    out(f"{stored} sessions {done}, {len(skipped)} skipped")
    return 0


def masked(name: str, shown: int) -> str:
    """The key of the other program without most of the id in it, which is a secret of its client."""
    return f"{name[: shown + 4]}..." if len(name) > shown + 4 else name
