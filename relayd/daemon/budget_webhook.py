"""Sends warnings of budgets to `telemetry.budget_webhook`.

1. `send` never waits. At most MOST_WAITING warnings are under way, and at most CONCURRENT of them in a request.
2. A warning is sent again after a fault that may pass; after ATTEMPTS it is given up, logged and counted. Others do not
   wait for its pauses.
3. No message contains more of the URL than its host.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Mapping

from relayd import clock
from relayd.config.telemetry import BudgetWebhook as Settings
from relayd.plan.plan import Plan
from relayd.plan.specs import stamps_of
from relayd.telemetry.telemetry import Telemetry
from relayd.telemetry.text import Stamp
from relayd.upstream.discovered import LookupFault
from relayd.upstream.spec import TlsSpec
from relayd.upstream.transport.api_client import ApiRequests
from relayd.upstream.transport.client import StreamClient

LOG = logging.getLogger("relayd.budget_webhook")
MOST_WAITING, CONCURRENT = 1000, 4
ATTEMPTS = 8
FIRST_PAUSE_S, FACTOR, LONGEST_PAUSE_S = 1.0, 4, 300.0
MAX_ANSWER_BYTES = 64 * 1024
REPEATED_S = 60.0  # between two log lines about the same fault
TEMPORARY = (408, 425, 429)


class BudgetWebhook:
    """Owned by RateReports. Without a configured webhook, warnings are only logged."""

    def __init__(self, client: StreamClient, telemetry: Telemetry) -> None:
        self._requests, self._telemetry = ApiRequests(client), telemetry
        self._settings: Settings | None = None
        self._currency, self._stamp = "", Stamp()
        self._tasks: set[asyncio.Task[None]] = set()  # one for each warning
        self._turns = asyncio.Semaphore(CONCURRENT)
        self._is_closed = False

    def commit(self, plan: Plan) -> None:
        """Use the webhook of this plan from the next attempt on."""
        self._settings = plan.config.telemetry.budget_webhook
        self._currency = "" if plan.prices is None else plan.prices.currency

    def close(self) -> None:
        """End the delivery. Warnings that were not delivered are reported, also those that come later."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            self._report("failed", f"relayd stops, {len(self._tasks)} warnings were not delivered")
            self._tasks.clear()
        self._requests.close()

    def send(self, warning: Mapping[str, object]) -> None:
        """Send a warning, without waiting."""
        if self._settings is None:
            return
        if self._is_closed:
            self._report("dropped", "relayd stops")
            return
        if len(self._tasks) >= MOST_WAITING:
            self._report("dropped", f"{MOST_WAITING} warnings wait already")
            return
        members = {**warning, "currency": self._currency}
        text = ("relayd: {share:.0%} of the budget of {scope} is used ({used} of {limit} {currency}, per {per})."
                .format_map(members))  # fmt: skip
        document = json.dumps({
            "event": "budget_warning", "time": self._stamp.format(clock.wall()), "text": text,
            "host": socket.gethostname(), **members,
        }).encode()
        task = asyncio.get_running_loop().create_task(self._run(document))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, document: bytes) -> None:
        try:
            fault = await self._deliver(document)
        except Exception as error:  # rescue door: the loss of a warning is reported
            LOG.error("budget webhook", exc_info=error)
            fault = f"internal fault: {type(error).__name__}"
        if fault:
            self._report("failed", fault)
        else:
            self._telemetry.metrics.add("relayd.limits.webhooks", result="delivered")

    async def _deliver(self, document: bytes) -> str:
        """Send a document until it is delivered. Returns the reason if it is given up, else an empty text."""
        fault, pause_s = "", FIRST_PAUSE_S
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * FACTOR, LONGEST_PAUSE_S)
            settings = self._settings
            if settings is None:
                return "the configuration has no webhook any more"
            async with self._turns:
                fault, is_final = await self._attempt(settings, document)
            if not fault or is_final:
                break
        return fault

    async def _attempt(self, settings: Settings, document: bytes) -> tuple[str, bool]:
        """Send a document once. Returns the fault, empty after success, and whether it will not pass."""
        tls = TlsSpec(ca=settings.ca, stamps=stamps_of(settings.ca))
        server, target = self._requests.server_of(settings.address, tls)
        bearer = () if settings.bearer is None else (b"Authorization: Bearer " + settings.bearer.reveal().encode(),)
        try:
            status, _ = await server.post(target, document, bearer, MAX_ANSWER_BYTES, float(settings.timeout))
        except LookupFault as fault:
            return str(fault), False
        if 200 <= status < 300:
            return "", True
        return f"{server.label} answered status {status}", status < 500 and status not in TEMPORARY

    def _report(self, result: str, reason: str) -> None:
        self._telemetry.metrics.add("relayd.limits.webhooks", result=result)
        self._telemetry.journal.limited(
            f"budget_webhook:{result}:{reason}", REPEATED_S, "warning", "budget_webhook_failed",
            "A warning of a budget was not delivered to the webhook.", why=reason,
        )
