"""Errors of a start with a valid configuration: addresses that cannot be bound, and the process that uses them."""

from __future__ import annotations

from relayd.config.listener import Listener
from relayd.config.load import Loaded
from relayd.daemon.port_owner import port_owner, socket_owner
from relayd.errors import ConfigError, Finding, RelaydError
from relayd.lazy_regex import lazy_regex
from relayd.server.sockets import split

UNIX = lazy_regex(r"cannot listen on unix:(\S+): ")


class StartError(RelaydError):
    """relayd cannot start on this machine, although its configuration is valid. `lines`: reasons and remedies."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def start_error(error: ConfigError, loaded: Loaded) -> ConfigError | StartError:
    """Convert faults of binding into a StartError that names the owner of the port. Other errors stay as they are."""
    bound = {f"listeners.{name}.address": one for name, one in loaded.config.listeners.items()}
    if not all(finding.path in bound or finding.path == "admin.address" for finding in error.findings):
        return error
    return StartError(*(describe(finding, bound.get(finding.path)) for finding in error.findings))


def describe(finding: Finding, listener: Listener | None) -> str:
    """One line of a failed start: address, reason, remedy and the process that uses the port."""
    line = f"{finding.path}: {finding.message}" + (f" ({finding.suggestion})" if finding.suggestion else "")
    kind, _, port = ("", "", 0) if listener is None else split(listener.address)
    owner = ""
    if "in use" in finding.message:
        path = UNIX.search(finding.message)
        owner = port_owner(port) if kind == "tcp" else socket_owner(path[1]) if path is not None else ""
    return f"{line}; held by {owner}" if owner else line


def reasons(error: ConfigError | StartError) -> tuple[str, ...]:
    """The reasons, one line each."""
    return error.lines if isinstance(error, StartError) else tuple(str(finding) for finding in error.findings)
