"""The client's side as the path sees it: what stands in its place does all of it."""

from __future__ import annotations

import inspect

from relayd.proxy.downstream import Downstream
from relayd.server.connection import Connection
from tests.unit.proxy.scene import Client

CALLS = [name for name, value in vars(Downstream).items() if inspect.isfunction(value) and not name.startswith("_")]


def test_a_connection_takes_every_call_with_the_same_arguments() -> None:
    assert len(CALLS) >= 9
    for name in CALLS:
        asked = inspect.signature(getattr(Downstream, name)).parameters
        for stand_in in (Connection, Client):
            assert list(inspect.signature(getattr(stand_in, name)).parameters) == list(asked), name


def test_a_connection_has_every_attribute() -> None:
    for name in Downstream.__annotations__:
        assert hasattr(Connection, name) and hasattr(Client(), name)
