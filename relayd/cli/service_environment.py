"""The environment of the installed service for commands of root: variables and credentials that systemd would pass."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from relayd.daemon.admin_socket_path import DEFAULT_FILE
from relayd.daemon.unit import load_unit
from relayd.daemon.unit_environment import service_environment

SERVICE = "relayd.service"


@contextlib.contextmanager
def as_installed(path: str) -> Iterator[None]:
    """Context in which a configuration with `env` and `credential` can be loaded as by the service.

    Only root can read the credentials, and only /etc/relayd.yaml belongs to the unit: otherwise nothing is changed.
    """
    unit = load_unit(SERVICE) if path == DEFAULT_FILE and os.geteuid() == 0 else None
    if unit is None:
        yield
        return
    service, before = service_environment(unit), dict(os.environ)
    with service.folder((0, 0)):
        try:
            os.environ.update(service.variables)
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
