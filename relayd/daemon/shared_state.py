"""The services that share state of this process with other instances, if the store is a server that they share."""

from __future__ import annotations

from relayd.daemon.services import Service
from relayd.daemon.shared_breakers import SharedBreakers
from relayd.daemon.shared_keys import SharedKeys
from relayd.daemon.shared_permits import SharedPermits
from relayd.proxy.gateway import Gateway
from relayd.stores._redis_server import RedisServer
from relayd.telemetry.journal import Journal


def shared_server(gateway: Gateway) -> RedisServer | None:
    """The server of the store that is in force; None if the store is of this machine."""
    server: RedisServer | None = getattr(gateway.store, "server", None)
    return server


def shared_services(gateway: Gateway, keys_folder: str, journal: Journal) -> tuple[Service, ...]:
    """All services that share state. `keys_folder` is that of the key store."""
    return (
        SharedBreakers(lambda: shared_server(gateway)),
        SharedPermits(lambda: shared_server(gateway), gateway.gates),
        SharedKeys(lambda: shared_server(gateway), keys_folder, journal),
    )
