"""A folder is a registry: kinds are its files, and only those are ever imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from relayd import registry


def test_the_kinds_of_a_folder_are_its_files_in_order() -> None:
    assert registry.kinds("relayd.telemetry.sinks") == ("otlp", "prometheus", "statsd")


def test_a_kind_is_loaded_by_its_word() -> None:
    assert registry.load("relayd.telemetry.sinks", "prometheus").__name__ == "relayd.telemetry.sinks.prometheus"


def test_a_folder_is_not_listed_again_for_a_kind_that_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan with a thousand upstreams loads their balancer a thousand times."""
    loaded = registry.load("relayd.telemetry.sinks", "prometheus")
    monkeypatch.setattr("pkgutil.iter_modules", lambda path: pytest.fail("the folder was listed"))
    assert registry.load("relayd.telemetry.sinks", "prometheus") is loaded


@pytest.mark.parametrize("word", ["graphite", "", "..metrics", "statsd.x", "__init__"])
def test_a_word_that_is_no_kind_is_never_imported(word: str) -> None:
    before = set(sys.modules)
    with pytest.raises(KeyError, match="known: otlp, prometheus, statsd"):
        registry.load("relayd.telemetry.sinks", word)
    assert set(sys.modules) == before


def test_private_files_are_no_kinds(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "somekinds"  # type: ignore[operator]
    folder.mkdir()
    for name in ("__init__.py", "_shared.py", "one.py"):
        (folder / name).write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry.kinds("somekinds") == ("one",)


def test_a_library_that_is_installed_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "made_later"))
    assert not registry.is_installed("made_afterwards") and registry.is_installed("json")
    (tmp_path / "made_later").mkdir()
    (tmp_path / "made_later" / "made_afterwards.py").write_text("")
    assert registry.is_installed("made_afterwards")
