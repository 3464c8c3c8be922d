"""`telemetry:` logs and metrics, and their destinations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from relayd.schema import section, setting
from relayd.schema.plugins import members, members_of
from relayd.telemetry.sink import SINKS


@section()
class AccessLog:
    """One record per exchange."""

    format: Literal["auto", "text", "json", "journal", "off"] = setting(default="auto", doc="text, json (lines), journal (native fields) or off; auto is text on a terminal, journal under systemd, json elsewhere.")
    file: str | None = setting(default=None, doc="File instead of standard output; reopened on SIGHUP.", example="/var/log/relayd/access.log")
    query: bool = setting(default=False, doc="Write the query string too, with the values of keys masked.")

    def check(self) -> Iterable[tuple[str, str]]:
        if self.file is not None and not self.file.startswith("/"):
            yield "file", "needs an absolute path"
        if self.file is not None and self.format == "journal":
            yield "file", "cannot be combined with format: journal"


@section()
class Log:
    """relayd's own messages, on standard error or in the journal."""

    level: Literal["debug", "info", "warning", "error"] = setting(default="info", doc="The lowest level that is written.")
    format: Literal["auto", "text", "json", "journal"] = setting(default="auto", doc="As in access_log.")


@section()
@members(SINKS)
class Telemetry:
    """Logs and metrics. Besides these keys, each sink has its own key."""

    access_log: AccessLog = setting(factory=AccessLog, doc="One record per exchange.")
    log: Log = setting(factory=Log, doc="relayd's own messages.")


def sinks_of(telemetry: Telemetry) -> dict[str, object]:
    """The Options of every sink that is in use, by its kind."""
    return {kind: options for kind, options in members_of(telemetry, SINKS) if options is not None}
