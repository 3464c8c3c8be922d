"""Draining to stop and leaving for another process, on the loop of the test. With streams: tests/functional."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.daemon.lifecycle import Lifecycle
from tests.aids.turns import turned
from tests.unit.daemon.test_lifecycle import Living


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "RELAYD_KEEPER", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path


def connected(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(path)
    return made


async def until_taken(life: Lifecycle) -> None:
    while not life.changeover.listeners.connections:
        await asyncio.sleep(0)


async def test_a_stop_closes_idle_connections_and_removes_the_names(folder: Path) -> None:
    life = Living(folder).start()
    with connected(f"{folder}/public.sock"):
        await until_taken(life)
        life.on_stop("SIGTERM", False)
        await asyncio.wait_for(life.stopped.wait(), 60)
    assert life.gateway.draining and not life.gateway.leaving
    life.close()
    assert os.listdir(folder) == ["relayd.yaml"]


async def test_leaving_lets_the_names_stand_and_waits_for_connections(folder: Path) -> None:
    life = Living(folder, daemon={"handover_timeout": "1h"}).start()
    with connected(f"{folder}/public.sock"):
        await until_taken(life)
        life.leave("keeper")
        await turned()
        assert not life.stopped.is_set()
    await asyncio.wait_for(life.stopped.wait(), 60)
    assert life.gateway.leaving and not life.gateway.draining
    life.close()
    assert sorted(os.listdir(folder)) == ["admin.sock", "public.sock", "relayd.yaml"]


async def test_leaving_ends_at_its_timeout_and_is_logged(folder: Path) -> None:
    living = Living(folder, daemon={"handover_timeout": "100ms", "drain_timeout": "0s"})
    life = living.start()
    with connected(f"{folder}/public.sock"):
        await until_taken(life)
        life.leave("keeper")
        await asyncio.wait_for(life.stopped.wait(), 60)
        life.close()
    assert "drain_timed_out" in living.written.getvalue()


async def test_the_longer_of_both_timeouts_counts_for_leaving(folder: Path) -> None:
    life = Living(folder, daemon={"handover_timeout": "1s", "drain_timeout": "7s"}).start()
    assert life.drain._timeout_s(leaving=True) == 7
    assert life.drain._timeout_s(leaving=False) == 7
    life.close()


def begun(path: str) -> socket.socket:
    """A connection within a request, so that it is not idle."""
    made = connected(path)
    made.send(b"POST / HTTP/1.1\r\n")
    return made


async def test_a_stop_limits_a_leaving_process_to_the_drain_timeout(folder: Path) -> None:
    life = Living(folder, daemon={"handover_timeout": "1h", "drain_timeout": "200ms"}).start()
    with begun(f"{folder}/public.sock"):
        await until_taken(life)
        life.leave("keeper")
        await asyncio.sleep(0.3)
        assert not life.stopped.is_set()
        life.on_stop("SIGTERM", False)
        await asyncio.wait_for(life.stopped.wait(), 60)
        life.close()


async def test_a_second_stop_ends_a_leaving_process_immediately(folder: Path) -> None:
    life = Living(folder, daemon={"handover_timeout": "1h", "drain_timeout": "1h"}).start()
    with begun(f"{folder}/public.sock"):
        await until_taken(life)
        life.leave("keeper")
        life.on_stop("SIGTERM", False)
        life.on_stop("SIGTERM", True)
        await asyncio.wait_for(life.stopped.wait(), 60)
        life.close()


async def test_an_upgrade_without_a_keeper_is_refused(folder: Path) -> None:
    life = Living(folder).start()
    status, _, body = (await life.upgrade()).page()
    assert status == 422 and b"without a keeper" in body
    life.close()


async def test_comparing_returns_the_changes_of_a_reload_and_applies_none(folder: Path) -> None:
    living = Living(folder)
    life = living.start()
    living.write(routes=[{"name": "other", "respond": {"body": "x"}}])
    status, _, body = (await life.compare()).page()
    assert status == 200 and b"+ routes.other" in body
    living.write(routes=[{"name": "other", "nothing": 1}])
    status, _, body = (await life.compare()).page()
    assert status == 422 and b"nothing" in body
    assert life.gateway.plan is not None and life.gateway.plan.generation == 1
    life.close()
