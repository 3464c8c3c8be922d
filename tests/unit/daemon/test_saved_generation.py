"""The configuration in force is saved, if necessary later."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from relayd.config.load import load_text
from relayd.daemon.generations import FOLDER, Generations
from relayd.daemon.saved_generation import RETRY_S, SavedGeneration
from relayd.daemon.timers import Timers
from relayd.plan.compile import compile_plan
from relayd.telemetry.journal import Journal

TEXTS = (("/etc/relayd.yaml", "routes: []"),)


class Scene:
    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / FOLDER
        self.generations = Generations(str(self.folder))
        self.log = io.StringIO()
        self.saved = SavedGeneration(self.generations, Journal("text", "info", self.log))

    def events(self) -> list[str]:
        return [line.split()[2] for line in self.log.getvalue().splitlines()]


def test_what_is_saved_at_once_is_not_logged(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.saved.save(1, TEXTS)
    scene.saved.retry()
    assert scene.generations.read(1).texts == TEXTS and scene.events() == []


def test_what_could_not_be_saved_is_saved_later(tmp_path: Path) -> None:
    """Else a start with an unusable file would use the configuration before the one that was in force."""
    scene = Scene(tmp_path)
    scene.saved.save(1, TEXTS)
    scene.folder.rename(tmp_path / "away")
    scene.folder.write_text("no folder")
    newer = (("/etc/relayd.yaml", "routes: [] # newer"),)
    scene.saved.save(2, newer)
    scene.saved.retry()
    assert scene.events() == ["generation_not_kept"] and "a start with an unusable file" in scene.log.getvalue()
    scene.folder.unlink()
    (tmp_path / "away").rename(scene.folder)
    scene.saved.retry()
    scene.saved.retry()
    assert scene.events() == ["generation_not_kept", "generation_kept"]
    newest = scene.generations.newest()
    assert newest is not None and (newest.number, newest.texts) == (2, newer)


def test_only_the_configuration_in_force_is_saved_later(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.folder.write_text("no folder")
    scene.saved.save(1, TEXTS)
    scene.folder.unlink()
    scene.saved.save(2, TEXTS)
    scene.saved.retry()
    assert scene.generations.numbers() == [2]


class Due(Timers):
    """Timers whose callbacks are called by the test."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def every(self, name: str, interval_s: float, callback: Callable[[], None]) -> None:
        assert (name, interval_s) == ("saved_generation", RETRY_S)
        self.callbacks.append(callback)


def test_as_a_service_it_retries_on_a_timer(tmp_path: Path) -> None:
    scene, timers = Scene(tmp_path), Due()
    text = "routes: [{name: all, respond: {body: x}}]\nlisteners: {a: {address: '127.0.0.1:1'}}"
    scene.saved.commit(compile_plan(load_text(text, "x").config, 1))
    scene.saved.start(timers)
    scene.folder.write_text("no folder")
    scene.saved.save(1, TEXTS)
    scene.folder.unlink()
    scene.saved.gauges()
    for callback in timers.callbacks:
        callback()
    assert scene.generations.numbers() == [1]
    scene.saved.close()
