"""`telemetry:` logs and metrics, and their destinations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from relayd.schema import Duration, Secret, section, setting
from relayd.schema.plugins import members, members_of
from relayd.telemetry.sink import SINKS
from relayd.wire.http_url import is_local, url_fault


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
class BudgetWebhook:
    """Warnings of budgets (`warn`) as HTTP requests: a POST with a JSON object for each crossing of a threshold.

    Its members are `event` (`budget_warning`), `time`, `text` (a sentence for people, which chat services show),
    `host`, `scope`, `measure`, `per`, `model`, `value`, `share`, `used`, `limit` and `currency`. A status of 2xx is
    success. After a failed connection, a timeout, 408, 425, 429 or 5xx it is sent again after growing pauses, at most 8
    times in about 16 minutes; every other status is final. No request waits for it. At most 1000 warnings wait; those
    that are lost are logged (`budget_webhook_failed`) and counted.
    """

    url: str | None = setting(default=None, doc="An http or https URL, without redirects.", example="https://alerts.example/relayd")
    secret_url: Secret | None = setting(default=None, doc="The URL, if its path or query is a secret, as with most chat services. Only its host is logged.")
    bearer: Secret | None = setting(default=None, doc="Sent as `Authorization: Bearer ...`.")
    ca: str | None = setting(default=None, doc="File with the authorities of an https URL; without it those of the system.", pattern="/.*")
    timeout: Duration = setting(default=Duration(10), doc="How long one request may take.", minimum=0.1, maximum=60)

    @property
    def address(self) -> str:
        """The URL, which may be a secret."""
        return self.url or ("" if self.secret_url is None else self.secret_url.reveal())

    def check(self) -> Iterable[tuple[str, str]]:
        if (self.url is None) == (self.secret_url is None):
            yield "", "needs exactly one of url and secret_url"
        elif fault := url_fault(self.address):
            yield "secret_url" if self.url is None else "url", fault

    def caution(self) -> Iterable[tuple[str, str]]:
        if self.bearer is not None and self.address.startswith("http://") and not is_local(self.address):
            yield "bearer", "is sent without TLS; use an https URL"


@section()
@members(SINKS)
class Telemetry:
    """Logs and metrics. Besides these keys, each sink has its own key."""

    access_log: AccessLog = setting(factory=AccessLog, doc="One record per exchange.")
    log: Log = setting(factory=Log, doc="relayd's own messages.")
    budget_webhook: BudgetWebhook | None = setting(default=None, doc="Warnings of budgets as HTTP requests.")


def sinks_of(telemetry: Telemetry) -> dict[str, object]:
    """The Options of every sink that is in use, by its kind."""
    return {kind: options for kind, options in members_of(telemetry, SINKS) if options is not None}
