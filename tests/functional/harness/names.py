"""Host names that move: an /etc/hosts of its own for one process, in a mount namespace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

_PLACE = ("sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"')


def _unshare() -> list[str]:
    return ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]


def namespaces_work() -> bool:
    """Whether this machine lets us put another file over /etc/hosts for one process."""
    hosts = "/etc/hosts"
    try:
        return subprocess.run([*_unshare(), *_PLACE, hosts, "true"], capture_output=True, timeout=60).returncode == 0
    except OSError:
        return False


def with_hosts(hosts: Path | None) -> Sequence[str]:
    """What stands before a command so that it sees this file as /etc/hosts; it keeps its process id."""
    return [] if hosts is None else [*_unshare(), *_PLACE, str(hosts)]
