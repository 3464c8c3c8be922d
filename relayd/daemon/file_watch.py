"""`relayd run --watch`: reloads when the configuration file, a file that it includes, or the price file has changed.

1. The files are compared every POLL_S by their inode, size and time of change (also of owner and rights), in a thread:
   no file system blocks the event loop. Included files are found by the patterns of `include:`: a new file counts too.
2. A change leads to a reload once two comparisons in a row are equal: editors write a file in several steps.
3. The reload is an ordinary one. A refused one is logged with every fault, and the configuration in force stays.
"""

from __future__ import annotations

import asyncio
import glob
import os
from collections.abc import Callable

from relayd.daemon.timers import Timers
from relayd.plan.plan import Plan
from relayd.telemetry.journal import Journal

POLL_S = 0.25

Stamps = dict[str, tuple[int, int, int] | None]


class FileWatch:
    """A service. `reload` requests a reload."""

    def __init__(self, path: str, reload: Callable[[], None], journal: Journal) -> None:
        self._path, self._reload, self._journal = path, reload, journal
        self._patterns: tuple[str, ...] = ()
        self._seen: Stamps = {}  # in the last comparison
        self._loaded: Stamps = {}  # when a reload was last requested, or at the start
        self._has_other_patterns = False
        self._comparison: asyncio.Task[None] | None = None

    def commit(self, plan: Plan) -> None:
        """Watch the files of a plan that has come into force."""
        patterns, prices = plan.config.include, plan.config.prices
        if prices is not None and prices.file is not None:
            patterns = (*patterns, glob.escape(prices.file))
        self._has_other_patterns = patterns != self._patterns
        self._patterns = patterns

    def start(self, timers: Timers) -> None:
        self._seen = self._loaded = stamps_of(self._path, self._patterns)
        self._has_other_patterns = False
        timers.every("files", POLL_S, self._poll)
        self._journal.info("watching", "A change of these files leads to a reload.", files=len(self._loaded))

    def gauges(self) -> None:
        """Nothing is measured."""

    def close(self) -> None:
        if self._comparison is not None:
            self._comparison.cancel()

    def _poll(self) -> None:
        if self._comparison is None or self._comparison.done():
            self._comparison = asyncio.get_running_loop().create_task(self._compare())

    async def _compare(self) -> None:
        found = await asyncio.to_thread(stamps_of, self._path, self._patterns)
        if self._has_other_patterns:  # the plan was read with the files that these name: they are no change
            self._has_other_patterns = False
            self._loaded = {name: self._loaded.get(name, stamp) for name, stamp in found.items()}
        is_settled, self._seen = found == self._seen, found
        if is_settled and found != self._loaded:
            self._loaded = found
            self._reload()


def stamps_of(path: str, patterns: tuple[str, ...]) -> Stamps:
    """Inode, size and time of change of the file and of all files that match the patterns; None for a missing one."""
    folder = os.path.dirname(path)
    found: Stamps = {}
    for name in (path, *(hit for pattern in patterns for hit in sorted(glob.glob(os.path.join(folder, pattern))))):
        try:
            status = os.stat(name)
            found[name] = (status.st_ino, status.st_size, status.st_ctime_ns)
        except OSError:
            found[name] = None
    return found
