"""The rollback to a saved generation by an action of the admin application.

1. The files are not changed, because the service may not write them: the generation is in force until the next reload
   or start, and a warning says so as long as the files differ. `relayd rollback N` restores the files.
2. Everything else is that of a reload: a refused file changes nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial

from relayd.config.load import Loaded, load, load_texts
from relayd.daemon.generations import Generation, Generations
from relayd.errors import ConfigError, Finding
from relayd.server.admin_views import AcceptedGeneration, ReloadResult

Read = Callable[[], Loaded]
ByRead = Callable[[Read], Awaitable[ReloadResult]]


class Rollback:
    """One per process. `reload` and `compare` are those of the lifecycle, for a configuration that is read by a
    function."""

    def __init__(self, generations: Generations, reload: ByRead, compare: ByRead) -> None:
        self._generations, self._reload, self._compare = generations, reload, compare

    @property
    def is_possible(self) -> bool:
        """True if generations are saved."""
        return self._generations.folder is not None

    def earlier(self) -> Iterator[AcceptedGeneration]:
        """The saved generations, oldest first, as far as their times can be read."""
        for number in self._generations.numbers():
            try:
                yield AcceptedGeneration(number, os.stat(self._generations.path_of(number)).st_mtime, None)
            except OSError:
                continue

    def has(self, number: int) -> bool:
        """True if this generation is saved."""
        return number in self._generations.numbers()

    async def restore(self, number: int, dry_run: bool) -> ReloadResult:
        """Bring a saved generation into force; with `dry_run`, return only what that would change."""
        try:
            generation = await asyncio.to_thread(self._generations.read, number)
            if not generation.texts:
                raise ValueError("it has no files")
        except (OSError, ValueError) as failed:
            known = ", ".join(map(str, self._generations.numbers())) or "none"
            why = failed.strerror if isinstance(failed, OSError) else failed
            return ReloadResult(False, 0, findings=(f"generation {number} cannot be read: {why}; saved are: {known}",))
        return await (self._compare if dry_run else self._reload)(partial(restored, generation))


def restored(generation: Generation) -> Loaded:
    """The configuration of a generation, with a warning if the files differ from it. Raises ConfigError."""
    loaded = load_texts(generation.texts)
    file = generation.texts[0][0]
    try:
        if load(file).texts == loaded.texts:
            return loaded
    except ConfigError:
        pass  # invalid files differ, too
    number = generation.number
    message = f"generation {number} was restored and the files differ: the next reload or start uses the files"
    finding = Finding(file, 0, 0, "", message, f"relayd rollback {number} restores them", "warning")
    return replace(loaded, warnings=(finding, *loaded.warnings))
