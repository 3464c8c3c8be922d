"""Who an exchange belongs to: the gateway has everything that an exchange asks of it."""

from __future__ import annotations

from pathlib import Path

from relayd.proxy.owner import Owner
from tests.unit.proxy.house import running
from tests.unit.proxy.scene import Counting


async def test_the_gateway_is_an_owner(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        for name in Owner.__annotations__:
            assert hasattr(house.gateway, name) and (hasattr(Counting(), name))
        assert house.gateway.draining is False and house.gateway.exchanges == set()
        assert house.gateway.admin_handler("GET", "/status", write=False)[0] == 503
