"""Why a start failed although the configuration is well-formed: what only binding finds, and who is in the way."""

from __future__ import annotations

from relayd.config.listener import Listener
from relayd.config.load import Loaded
from relayd.daemon.port_owner import port_owner
from relayd.errors import ConfigError, Finding, RelaydError
from relayd.server.sockets import split


class StartError(RelaydError):
    """relayd cannot start here, though its configuration is well-formed; the lines say why and what helps."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def start_error(error: ConfigError, loaded: Loaded) -> ConfigError | StartError:
    """A listener that cannot be bound is no fault of the file: told as such, with who is in the way."""
    bound = {f"listeners.{name}.address": one for name, one in loaded.config.listeners.items()}
    if not all(finding.path in bound or finding.path == "admin.address" for finding in error.findings):
        return error
    return StartError(*(describe(finding, bound.get(finding.path)) for finding in error.findings))


def describe(finding: Finding, listener: Listener | None) -> str:
    """One line of a failed start: what, why, what helps, and who is in the way."""
    line = f"{finding.path}: {finding.message}" + (f" ({finding.hint})" if finding.hint else "")
    kind, _, port = ("", "", 0) if listener is None else split(listener.address)
    owner = port_owner(port) if kind == "tcp" and "in use" in finding.message else ""
    return f"{line}; held by {owner}" if owner else line


def reasons(error: ConfigError | StartError) -> tuple[str, ...]:
    """One line for each reason."""
    return error.lines if isinstance(error, StartError) else tuple(str(finding) for finding in error.findings)
