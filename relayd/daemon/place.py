"""Where the admin socket is: what the configuration says, or a private place for somebody who may not write there.

The daemon and the commands that look for it walk the same list, so that neither needs to be told by the other.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping

DEFAULT_FILE = "/etc/relayd.yaml"
DEFAULT_ADDRESS = "unix:/run/relayd/admin.sock"
SECTION = re.compile(r"(?m)^admin:(?P<body>[^\n]*(?:\n(?:[ \t#][^\n]*)?)*)")
ADDRESS = re.compile(r"(?m)^[^#\n]*?\baddress:\s*(?P<quote>[\"']?)(?P<address>unix:/[^\s\"',}#]+)")


def path_of(address: str) -> str:
    return address.removeprefix("unix:")


def private_folder(environment: Mapping[str, str] | None = None) -> str:
    """The folder for sockets of somebody who is not the system's relayd."""
    environment = os.environ if environment is None else environment
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if runtime and os.path.isdir(runtime) and os.access(runtime, os.W_OK):
        return os.path.join(runtime, "relayd")
    return os.path.join(tempfile.gettempdir(), f"relayd-{os.getuid()}")


def own_folder(path: str) -> str:
    """Make a folder that nobody else can enter, or make sure that it is one.

    Raises OSError when it belongs to somebody else: in a world-writable folder anybody could have made it first.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    found = os.lstat(path)
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{path} is writable by others or belongs to somebody else")
    return path


def can_bind(path: str) -> bool:
    """Whether a socket could be made at this path, its folder included."""
    folder = os.path.dirname(path) or "."
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK | os.X_OK)


def socket_path(address: str, environment: Mapping[str, str] | None = None) -> str:
    """Where the daemon makes its admin socket. Only the default address has a second choice."""
    path = path_of(address)
    if address != DEFAULT_ADDRESS or can_bind(path):
        return path
    return os.path.join(private_folder(environment), "admin.sock")


def written_address(text: str) -> str:
    """The admin address in the text of a relayd.yaml, even in one that is broken; the default when it says none.

    `relayd reload` must find the daemon exactly when the file has faults, so the file is only looked at, not loaded.
    """
    section = SECTION.search(text)
    found = ADDRESS.search(section["body"]) if section else None
    if found is None and section is not None:  # {address: ...} in one line
        found = re.search(r"\baddress:\s*[\"']?(?P<address>unix:/[^\s\"',}#]+)", section["body"])
    return found["address"] if found else DEFAULT_ADDRESS


def candidates(text: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """Where a command looks for the daemon, in order."""
    address = written_address(text)
    paths = [path_of(address)]
    if address == DEFAULT_ADDRESS:
        paths.append(os.path.join(private_folder(environment), "admin.sock"))
    return paths
