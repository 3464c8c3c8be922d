"""`relayd rollback [N]`: restore the files of an earlier generation, and reload.

1. The current files are saved beside the restored ones as FILE.before-rollback.
2. A drop-in that the earlier generation did not have is moved aside in the same way, or it would still be included.
3. If the reload is refused, the files are put back unchanged.

Exit codes: 0 in force, 1 not (the reason is on standard error), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import shutil
from collections.abc import Iterator, Mapping

from relayd.cli.admin_client import Unreachable, add_socket_options, seconds, send_request
from relayd.cli.commands.reload import report
from relayd.cli.output import err, out, table
from relayd.config.load import load
from relayd.daemon.generations import FOLDER, SYSTEM_STATE, Generation, Generations
from relayd.errors import ConfigError

HELP = "restore an earlier generation of the configuration and reload; without a number, the previous one"
BACKUP_SUFFIX = ".before-rollback"


def configure(parser: argparse.ArgumentParser) -> None:
    add_socket_options(parser)
    parser.add_argument("generation", nargs="?", type=int, metavar="N", help="the generation; --list shows them")
    parser.add_argument("--list", action="store_true", help="show the saved generations, and change nothing")
    parser.add_argument("--state", metavar="DIR", help=f"relayd's state directory (default {SYSTEM_STATE})")
    parser.add_argument("--timeout", type=seconds, default="20s", metavar="TIME", help="how long to wait (default 20s)")


def run(arguments: argparse.Namespace) -> int:
    state = arguments.state or os.path.join(SYSTEM_STATE, arguments.instance or "")
    generations = Generations(os.path.join(state, FOLDER))
    numbers = generations.numbers()
    if not numbers:
        why = "none was saved, or this user may not read them: try as root"
        err(f"relayd: no generations in {generations.folder} ({why})")
        return 1
    if arguments.list:
        rows = [row(generations, number) for number in numbers]
        for line in table([("GENERATION", "IN FORCE SINCE", "FILES"), *rows]):
            out(line)
        return os.EX_OK
    wanted = arguments.generation if arguments.generation is not None else previous(numbers)
    if wanted not in numbers:
        err(f"relayd: generation {wanted} is not saved; there are {', '.join(map(str, numbers))}")
        return 1
    try:
        generation = generations.read(wanted)
        changed = replace_files(generation, current_files(generation.texts[0][0]))
    except (OSError, ValueError, IndexError) as failed:
        err(f"relayd: nothing was rolled back: {failed}")
        return 1
    try:
        if report(send_request(arguments, "POST", "/reload", arguments.timeout)) == os.EX_OK:
            out(f"the files of generation {wanted} are in force; the replaced files are beside them, *{BACKUP_SUFFIX}")
            return os.EX_OK
        why = "the reload was refused"
    except (Unreachable, ValueError) as failed:
        why = str(failed)
    restore_files(changed)
    err(f"relayd: the files are unchanged: {why}")
    return 1


def previous(numbers: list[int]) -> int:
    """The generation before the newest, which is in force."""
    return numbers[-2] if len(numbers) > 1 else numbers[-1]


def row(generations: Generations, number: int) -> tuple[str, str, str]:
    try:
        one = generations.read(number)
    except (OSError, ValueError) as failed:
        return str(number), "-", f"cannot be read: {failed}"
    since = datetime.datetime.fromtimestamp(one.wall, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return str(number), since, ", ".join(path for path, _ in one.texts)


def current_files(main: str) -> list[str]:
    """The files of the current configuration, as far as they can be found if it is invalid."""
    try:
        return list(load(main).files)
    except ConfigError as refused:
        return sorted({main, *(one.file for one in refused.findings if one.file)})


def replace_files(generation: Generation, existing: list[str]) -> dict[str, bool]:
    """Write the texts, each file atomically. Returns the changed paths, True for those that existed before. Raises
    OSError with nothing changed."""
    wanted = dict(generation.texts)
    changed: dict[str, bool] = {}
    try:
        for path in [*wanted, *(path for path in existing if path not in wanted)]:
            exists = os.path.exists(path)
            if exists:
                back_up(path)
            changed[path] = exists
            if path in wanted:
                replace_file(path, wanted[path])
            elif exists:
                os.unlink(path)
    except OSError:
        restore_files(changed)
        raise
    return changed


def back_up(path: str) -> None:
    """Copy a file, with its owner and mode, beside itself. An older backup is replaced only by a complete one."""
    with written_aside(path + BACKUP_SUFFIX) as temporary:
        shutil.copy2(path, temporary)
        owner = os.stat(path)
        os.chown(temporary, owner.st_uid, owner.st_gid)


def replace_file(path: str, text: str) -> None:
    """Replace a file atomically, keeping its owner and mode."""
    with written_aside(path) as temporary:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", opener=private) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        like = path if os.path.exists(path) else os.path.dirname(path) or "."
        found = os.stat(like)
        os.chown(temporary, found.st_uid, found.st_gid)
        os.chmod(temporary, found.st_mode & 0o666 if like == path else 0o640)


@contextlib.contextmanager
def written_aside(path: str) -> Iterator[str]:
    """Context in which the new contents of a file are written under another name, which then replaces the file."""
    temporary = f"{path}.new"
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def restore_files(changed: Mapping[str, bool]) -> None:
    """Restore the files from before the rollback. A file that did not exist may have the backup of an earlier one."""
    for path, existed in changed.items():
        if existed:
            os.replace(path + BACKUP_SUFFIX, path)
        elif os.path.exists(path):
            os.unlink(path)
