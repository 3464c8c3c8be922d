"""`relayd rollback [N]`: put the files of an earlier generation back, and reload.

1. What stands in the files now is not lost: it is kept beside them as FILE.before-rollback.
2. A drop-in that the earlier generation did not have is put aside in the same way, or it would still be included.
3. When the reload is refused, the files are put back as they were.

Exit codes: 0 in force, 1 not (the reason is on standard error), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil

from relayd.cli.admin_client import Unreachable, add_socket_options, ask, seconds
from relayd.cli.commands.reload import report
from relayd.cli.output import err, out, table
from relayd.config.load import load
from relayd.daemon.generations import FOLDER, SYSTEM_STATE, Generation, Generations
from relayd.errors import ConfigError

HELP = "put an earlier generation of the configuration back and reload; without a number, the one before"
ASIDE = ".before-rollback"


def configure(parser: argparse.ArgumentParser) -> None:
    add_socket_options(parser)
    parser.add_argument("generation", nargs="?", type=int, metavar="N", help="the generation; --list shows them")
    parser.add_argument("--list", action="store_true", help="show the generations that are kept, and change nothing")
    parser.add_argument("--state", metavar="DIR", help=f"relayd's state directory (default {SYSTEM_STATE})")
    parser.add_argument("--timeout", type=seconds, default="20s", metavar="TIME", help="how long to wait (default 20s)")


def run(arguments: argparse.Namespace) -> int:
    state = arguments.state or os.path.join(SYSTEM_STATE, arguments.instance or "")
    kept = Generations(os.path.join(state, FOLDER))
    numbers = kept.numbers()
    if not numbers:
        err(f"relayd: no generations in {kept.folder} (none was kept, or this user may not read them: try as root)")
        return 1
    if arguments.list:
        for line in table([("GENERATION", "IN FORCE SINCE", "FILES"), *(row(kept, number) for number in numbers)]):
            out(line)
        return os.EX_OK
    wanted = arguments.generation if arguments.generation is not None else before(numbers)
    if wanted not in numbers:
        err(f"relayd: generation {wanted} is not kept; there are {', '.join(map(str, numbers))}")
        return 1
    try:
        generation = kept.read(wanted)
        changed = exchanged(generation, present(generation.texts[0][0]))
    except (OSError, ValueError, IndexError) as failed:
        err(f"relayd: nothing was rolled back: {failed}")
        return 1
    try:
        if report(ask(arguments, "POST", "/reload", arguments.timeout)) == os.EX_OK:
            out(f"the files of generation {wanted} are in force; what they replaced is beside them, *{ASIDE}")
            return os.EX_OK
        why = "the reload was refused"
    except (Unreachable, ValueError) as failed:
        why = str(failed)
    restored(changed)
    err(f"relayd: the files are as they were: {why}")
    return 1


def before(numbers: list[int]) -> int:
    """The one before the newest, which is in force."""
    return numbers[-2] if len(numbers) > 1 else numbers[-1]


def row(kept: Generations, number: int) -> tuple[str, str, str]:
    try:
        one = kept.read(number)
    except (OSError, ValueError) as failed:
        return str(number), "-", f"cannot be read: {failed}"
    since = datetime.datetime.fromtimestamp(one.wall, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return str(number), since, ", ".join(path for path, _ in one.texts)


def present(main: str) -> list[str]:
    """The files that the configuration is read from now, as far as that can be told of one that may be broken."""
    try:
        return list(load(main).files)
    except ConfigError as refused:
        return sorted({main, *(one.file for one in refused.findings if one.file)})


def exchanged(generation: Generation, there: list[str]) -> list[str]:
    """Put the texts in place, each in one step; the paths that were touched. Raises OSError with nothing changed."""
    wanted = dict(generation.texts)
    changed: list[str] = []
    try:
        for path in [*wanted, *(path for path in there if path not in wanted)]:
            if os.path.exists(path):
                shutil.copy2(path, path + ASIDE)
                owner = os.stat(path)
                os.chown(path + ASIDE, owner.st_uid, owner.st_gid)
            changed.append(path)
            if path in wanted:
                replaced(path, wanted[path])
            else:
                os.unlink(path)
    except OSError:
        restored(changed)
        raise
    return changed


def replaced(path: str, text: str) -> None:
    """A file with a new text, the same owner and the same mode."""
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="utf-8", errors="surrogateescape", opener=private) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    like = path if os.path.exists(path) else os.path.dirname(path) or "."
    found = os.stat(like)
    os.chown(temporary, found.st_uid, found.st_gid)
    os.chmod(temporary, found.st_mode & 0o666 if like == path else 0o640)
    os.replace(temporary, path)


def private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def restored(changed: list[str]) -> None:
    """As before the rollback."""
    for path in changed:
        if os.path.exists(path + ASIDE):
            os.replace(path + ASIDE, path)
        elif os.path.exists(path):
            os.unlink(path)
