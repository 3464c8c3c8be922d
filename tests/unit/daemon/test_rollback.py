"""The rollback to a saved generation: what it reads, what it warns of, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from relayd.config.load import Loaded
from relayd.daemon.generations import Generations
from relayd.daemon.rollback import ByRead, Rollback, restored
from relayd.server.admin_views import ReloadResult

TEXT = 'listeners: {public: {address: "127.0.0.1:8282"}}\nupstreams: {up: {endpoints: ["http://127.0.0.1:9"]}}\nroutes: [{name: all, match: {prefix: /}, upstream: up}]\n'


class Case:
    """A folder of generations, and a lifecycle that notes what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "relayd.yaml"
        self.file.write_text(TEXT)
        self.generations = Generations(str(folder / "generations"))
        self.read: list[tuple[str, Loaded]] = []
        self.rollback = Rollback(self.generations, self.noting("reload"), self.noting("compare"))

    def noting(self, name: str) -> ByRead:
        async def run(read: Callable[[], Loaded]) -> ReloadResult:
            self.read.append((name, read()))
            return ReloadResult(True, 5)

        return run

    def save(self, number: int, text: str) -> None:
        assert not self.generations.save(number, 100.0 + number, ((str(self.file), text),))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


async def test_a_generation_is_read_from_the_folder_and_not_from_the_files(case: Case) -> None:
    case.save(3, TEXT.replace("8282", "8283"))
    assert (await case.rollback.restore(3, dry_run=False)).accepted
    assert (await case.rollback.restore(3, dry_run=True)).accepted
    assert [name for name, _ in case.read] == ["reload", "compare"]
    for _, loaded in case.read:
        assert loaded.config.listeners["public"].address == "127.0.0.1:8283"
        (warning,) = (one for one in loaded.warnings if "generation 3" in one.message)
        assert warning.level == "warning" and "relayd rollback 3" in warning.suggestion
    assert case.file.read_text() == TEXT


async def test_there_is_no_warning_if_the_files_are_those_of_the_generation_and_one_if_they_are_invalid(case: Case) -> None:
    case.save(3, TEXT)
    assert [one for one in restored(case.generations.read(3)).warnings if "restored" in one.message] == []
    case.file.write_text("nonsense: [")
    assert [one for one in restored(case.generations.read(3)).warnings if "restored" in one.message] != []


async def test_a_generation_that_is_not_saved_or_damaged_is_refused_with_those_that_are(case: Case) -> None:
    case.save(3, TEXT)
    case.save(4, TEXT + "#")
    result = await case.rollback.restore(2, dry_run=False)
    assert not result.accepted and result.page()[0] == 422
    assert result.findings == ("generation 2 cannot be read: No such file or directory; saved are: 3, 4",)
    Path(case.generations.path_of(4)).write_text("{}")
    (finding,) = (await case.rollback.restore(4, dry_run=False)).findings
    assert "is damaged" in finding and case.read == []


def test_generations_of_processes_before_are_known_by_number_and_time(case: Case) -> None:
    case.save(3, TEXT)
    case.save(4, TEXT + "#")
    assert [(one.number, one.changes) for one in case.rollback.earlier()] == [(3, None), (4, None)]
    assert case.rollback.is_possible
    nowhere = Rollback(Generations(None), case.noting("reload"), case.noting("compare"))
    assert not nowhere.is_possible and list(nowhere.earlier()) == []
