"""The watch of the configuration: one reload per settled change, for included files too, and none without a change."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relayd.daemon import file_watch
from relayd.daemon.file_watch import FileWatch, stamps_of
from relayd.daemon.timers import Timers
from relayd.telemetry.journal import Journal
from tests.unit.proxy.harness import until


class Watched:
    """A watch of a folder, with the number of requested reloads and of comparisons."""

    def __init__(self, folder: Path, *patterns: str) -> None:
        self.file = folder / "relayd.yaml"
        self.file.write_text("one")
        self.reloads = 0
        self.log = io.StringIO()
        self.watch = FileWatch(str(self.file), self.reload, Journal("text", "info", self.log))
        self.commit(*patterns)
        self.timers = Timers(asyncio.get_running_loop())
        self.watch.start(self.timers)

    def reload(self) -> None:
        self.reloads += 1

    def commit(self, *patterns: str, prices: str | None = None) -> None:
        section = None if prices is None else SimpleNamespace(file=prices)
        plan: Any = SimpleNamespace(config=SimpleNamespace(include=patterns, prices=section))
        self.watch.commit(plan)

    async def compared(self, count: int = 3) -> None:
        """Until a number of further comparisons have ended."""
        for _ in range(count):
            before = self.watch._seen
            await until(lambda before=before: self.watch._seen is not before)  # type: ignore[misc]

    async def close(self) -> None:
        self.timers.close()
        self.watch.close()
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "POLL_S", 0.002)


async def test_a_change_leads_to_one_reload_and_silence_to_none(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    await watched.compared()
    assert watched.reloads == 0 and "files=1" in watched.log.getvalue()
    watched.file.write_text("two, longer")
    await until(lambda: watched.reloads)
    await watched.compared(5)
    assert watched.reloads == 1
    os.replace(tmp_path / "relayd.yaml", tmp_path / "away")  # as editors do
    (tmp_path / "new").write_text("two, longer")
    os.replace(tmp_path / "new", tmp_path / "relayd.yaml")
    await until(lambda: watched.reloads == 2)
    await watched.close()


async def test_a_change_of_the_price_file_leads_to_a_reload(tmp_path: Path) -> None:
    (tmp_path / "prices [new].yaml").write_text("1")
    watched = Watched(tmp_path)
    watched.commit(prices="prices [new].yaml")
    await watched.compared()
    assert watched.reloads == 0
    (tmp_path / "prices [new].yaml").write_text("22")
    await until(lambda: watched.reloads == 1)
    await watched.close()


async def test_included_files_appear_change_and_vanish(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    watched = Watched(tmp_path, "d/*.yaml")
    part = tmp_path / "d" / "a.yaml"
    steps: tuple[Callable[[], object], ...] = (lambda: part.write_text("1"), lambda: part.write_text("22"), part.unlink)
    for number, step in enumerate(steps, 1):
        step()
        await until(lambda number=number: watched.reloads == number)  # type: ignore[misc]
    (tmp_path / "d" / "a.yaml.swp").write_text("an editor's")
    await watched.compared()
    assert watched.reloads == 3
    await watched.close()


async def test_the_files_of_a_new_pattern_are_no_change_but_an_edit_meanwhile_is(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("1")
    watched = Watched(tmp_path)
    watched.commit("b.yaml")
    await watched.compared()
    assert watched.reloads == 0
    watched.file.write_text("edited at the same time")
    watched.commit()
    await until(lambda: watched.reloads == 1)
    await watched.close()


def test_a_change_of_the_rights_is_a_change(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a")
    before = stamps_of(str(file), ())
    file.chmod(0o600)
    assert stamps_of(str(file), ()) != before


def test_stamps_of_missing_files(tmp_path: Path) -> None:
    assert stamps_of(str(tmp_path / "gone"), ("*.yaml",)) == {str(tmp_path / "gone"): None}
