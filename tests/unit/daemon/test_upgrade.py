"""The request for a new process, and its result."""

from __future__ import annotations

import asyncio
import io
import socket
from pathlib import Path

import pytest

from relayd.daemon.notify import Notifier
from relayd.daemon.upgrade import Upgrade
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry


@pytest.mark.parametrize("fault", ["", "the new process ended with 78"])
async def test_concurrent_requests_share_one_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    written = io.StringIO()
    telemetry = Telemetry.build(TelemetrySettings(access_format="off", log_format="text"), written)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as keeper:
        keeper.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = Notifier()
        upgrade = Upgrade(notifier, telemetry.journal)
        waiting = [asyncio.create_task(upgrade.request()) for _ in range(2)]
        await asyncio.sleep(0)
        upgrade.complete(fault)
        assert await asyncio.gather(*waiting) == [fault, fault]
        assert ("upgrade_refused" in written.getvalue()) == bool(fault)
        upgrade.complete("")  # without a request: nothing to answer
        notifier.close()
    telemetry.close()
