"""Reports of rates and budgets: log events, counters, gauges, a webhook. A service, and the observer of the ledger."""

from __future__ import annotations

from relayd.daemon.budget_webhook import BudgetWebhook
from relayd.daemon.shared_rates import SharedRates
from relayd.daemon.timers import Timers
from relayd.limits.counter import COST, Counter, format_span
from relayd.money import amount_text
from relayd.plan.plan import Plan
from relayd.proxy.gateway import Gateway
from relayd.telemetry.metrics import SERIES
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient

LOGGED_EACH_S = 60.0
UNPRICED_LOGGED_S = 86_400.0
LONGEST_SHOWN = 200


class RateReports:
    """One per process; owned by the lifecycle."""

    def __init__(self, gateway: Gateway, client: StreamClient, telemetry: Telemetry) -> None:
        self._ledger, self._telemetry = gateway.ledger, telemetry
        self._webhook = BudgetWebhook(client, telemetry)
        self._shared = SharedRates(gateway)
        self._ledger.observer = self

    # ---- the ledger's observer

    def exceeded(self, counter: Counter) -> None:
        """Count a request without room; log it at most once a minute for each counter."""
        key = counter.window.key
        self._telemetry.metrics.add("relayd.limits.exceeded", limit=counter.rule.key)
        self._telemetry.journal.limited(
            f"rate_exceeded:{key}", LOGGED_EACH_S, "info", "rate_exceeded",
            "The request is let through." if counter.counts_only else "Requests are refused.",
            **described(counter), shadow=counter.counts_only,
        )

    def warned(self, counter: Counter, share: float) -> None:
        """Log and count that a threshold of a budget was crossed, and tell the webhook."""
        self._telemetry.metrics.add("relayd.limits.warnings", limit=counter.rule.key)
        self._telemetry.journal.warning(
            "budget_warning", f"{share:.0%} of the budget is used.", **described(counter), share=share,
        )
        self._webhook.send({"model": counter.rule.model, "value": counter.value, **described(counter), "share": share})

    def unpriced(self, counter: Counter, upstream: str, model: str) -> None:
        """Log a model without a price, at most once a day."""
        self._telemetry.journal.limited(
            f"model_unpriced:{upstream}:{model}", UNPRICED_LOGGED_S, "warning", "model_unpriced",
            "A budget applies to a model without a price: its requests cost nothing.", upstream=upstream,
            model=model[:LONGEST_SHOWN], scope=counter.rule.scope,
        )

    # ---- the service

    def commit(self, plan: Plan) -> None:
        """Use the webhook and the store of this plan."""
        self._webhook.commit(plan)
        self._shared.commit(plan)

    def start(self, timers: Timers) -> None:
        """Begin to read shared counters; the gateway sweeps the ledger."""
        self._shared.start(timers)

    def gauges(self) -> None:
        """Update the gauges."""
        self._shared.gauges()
        self._telemetry.metrics.set_gauges("relayd.limits.used", {
            (one.rule.key,): round(one.window.used / one.limit, 4)
            for one in self._ledger.fixed_counters(SERIES)
        })

    def close(self) -> None:
        """End the webhook's requests."""
        self._webhook.close()


def described(counter: Counter) -> dict[str, object]:
    """A counter in a log event."""
    rule, window = counter.rule, counter.window
    show = amount_text if rule.measure == COST else str
    found: dict[str, object] = {"scope": rule.scope, "measure": rule.measure, "per": format_span(rule.span)}
    if counter.value:
        found["value"] = counter.value
    return found | {"used": show(window.used), "limit": show(counter.limit)}
