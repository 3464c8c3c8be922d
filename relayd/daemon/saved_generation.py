"""Saves the configuration in force for `relayd rollback` and for a start with an unusable file, until it is saved.

A full disk must fail neither a start nor a reload. But without a retry, a later start would fall back to a
configuration older than the last one in force, long after the disk has free space again.
"""

from __future__ import annotations

from relayd import clock
from relayd.daemon.generations import Generations, Texts
from relayd.daemon.timers import Timers
from relayd.plan.plan import Plan
from relayd.telemetry.journal import Journal

RETRY_S = 30.0


class SavedGeneration:
    """A service. `save` is called after each commit."""

    def __init__(self, generations: Generations, journal: Journal) -> None:
        self._generations, self._journal = generations, journal
        self._unsaved: tuple[int, float, Texts] | None = None

    def save(self, number: int, texts: Texts) -> None:
        """Save the configuration that has come into force. An error is logged, and the retry is due."""
        self._unsaved = (number, clock.wall(), texts)
        if fault := self._try():
            message = (
                "The configuration is in force, but neither relayd rollback nor a start with an unusable file can "
                "restore it until it is saved."
            )
            self._journal.warning("generation_not_kept", message, reason=fault)

    def retry(self) -> None:
        """Save the configuration in force if that has failed. Called by a timer."""
        if self._unsaved is not None and not self._try():
            self._journal.info("generation_kept", "The configuration in force is saved now.")

    def _try(self) -> str:
        assert self._unsaved is not None
        fault = self._generations.save(*self._unsaved)
        if not fault:
            self._unsaved = None
        return fault

    # ---- the service

    def commit(self, plan: Plan) -> None:
        """Nothing to do: a plan has no texts."""

    def start(self, timers: Timers) -> None:
        timers.every("saved_generation", RETRY_S, self.retry)

    def gauges(self) -> None:
        """It has none."""

    def close(self) -> None:
        """Nothing is open."""
