"""The checks run concurrently and bounded: a hanging or failing one becomes a finding and hides no other."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from relayd import registry
from relayd.cli.admin_client import Unreachable
from relayd.cli.diagnosis import FINE, UNKNOWN, WARNING
from relayd.cli.doctor import examination
from relayd.cli.doctor.examination import CHECKS, Result, all_checks, examine
from tests.unit.cli.admin_case import Admin
from tests.unit.cli.doctor.cases import context_of, written

PLANTED = """\"\"\"A planted check.\"\"\"
from relayd.cli.diagnosis import fine

NEEDS_CONFIGURATION = {needs}

async def run(context):
    yield fine("planted", "before")
    {then}
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules are checks too, because a folder is the registry."""
    folder = tmp_path / "checks"
    folder.mkdir()
    package = __import__(CHECKS, fromlist=["__path__"])
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    return folder


def test_a_file_in_the_folder_is_a_check_and_a_failing_or_hanging_one_hides_nothing(tmp_path: Path, planted: Path) -> None:
    (planted / "planted_raise.py").write_text(PLANTED.format(needs=False, then="raise OSError('x')"))
    (planted / "planted_hang.py").write_text(
        PLANTED.format(needs=False, then="import asyncio; await asyncio.Event().wait()")
    )
    (planted / "planted_needs.py").write_text(PLANTED.format(needs=True, then="pass"))
    assert {"planted_raise", "planted_hang"} <= set(all_checks())
    ended: list[str] = []
    context = context_of(written(tmp_path), loaded=False)
    names = ["planted_hang", "planted_raise", "planted_needs"]
    results = asyncio.run(examine(context, names, 0.2, lambda result: ended.append(result.check)))
    assert [one.check for one in results] == names and ended[-1] == "planted_hang"
    levels = [[finding.level for finding in one.findings] for one in results]
    assert levels == [[FINE, WARNING], [FINE, UNKNOWN], [UNKNOWN]]
    assert "did not end within 0.2 s" in results[0].findings[1].cause and results[0].findings[1].cure
    assert "OSError: x" in results[1].findings[1].cause


def test_every_check_has_a_manual_entry_and_a_run() -> None:
    for name in all_checks():
        assert registry.summary(CHECKS, name).endswith("."), name
        assert callable(registry.load(CHECKS, name).run)


def test_a_blocking_call_delays_neither_the_loop_nor_the_end_and_raises_in_the_check(tmp_path: Path) -> None:
    context, end = context_of(written(tmp_path)), threading.Event()

    async def main() -> None:
        assert await context.in_thread(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await context.in_thread(lambda: 1 // 0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await context.in_thread(end.wait)

    asyncio.run(main())
    end.set()


def test_a_page_is_asked_once_for_all_checks(tmp_path: Path) -> None:
    with Admin(tmp_path, (200, {"a": 1})) as admin:
        context = context_of(written(tmp_path), socket=admin.path)

        async def main() -> None:
            assert list(await asyncio.gather(context.page("/status"), context.page("/status"))) == [{"a": 1}] * 2

        asyncio.run(main())
        assert admin.asked == ["GET /status"]


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (404, {"a": 1}), (200, [1])])
def test_a_page_that_is_none_is_unreachable(tmp_path: Path, status: int, body: object) -> None:
    with Admin(tmp_path, (status, body)) as admin:
        context = context_of(written(tmp_path), socket=admin.path)

        async def main() -> None:
            with pytest.raises(Unreachable):
                await context.page("/status")

        asyncio.run(main())


def test_a_program_is_run_and_a_missing_one_raises(tmp_path: Path) -> None:
    context = context_of(written(tmp_path))

    async def main() -> None:
        assert await context.program("sh", "-c", "echo $LC_ALL; exit 3") == (3, "C\n")
        with pytest.raises(FileNotFoundError):
            await context.program("/no/such/program")

    asyncio.run(main())
    assert examination.PROGRAM_S > 0 and Result("x").findings == []
