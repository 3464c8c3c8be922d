"""Rates and budgets that several instances count together in the Redis server of `store:`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from relayd.daemon.shared_state import shared_server
from relayd.daemon.timers import Timers
from relayd.limits import shared_scripts
from relayd.limits.shared_calls import Arg, Failed
from relayd.limits.shared_ledger import SharedLedger
from relayd.plan.plan import Plan
from relayd.proxy.gateway import Gateway
from relayd.stores._redis_failure import CURES, RedisFailure
from relayd.stores._redis_server import RedisServer, Script

SYNC_S = 1.0


class RatesServer:
    """The server of a store, as the shared ledger sees it."""

    def __init__(self, server: RedisServer) -> None:
        self.redis = server
        self.timeout_s = server.settings.timeout_s
        self._scripts: dict[str, Script] = {}

    @property
    def available(self) -> bool:
        """False if calls fail at once."""
        return self.redis.available

    def key(self, *parts: str) -> str:
        """A key. All of them may be used in one call."""
        return self.redis.key(*parts)

    def call(
        self, script: shared_scripts.Script, keys: Sequence[str], args: Sequence[Arg], on_answer: Callable[[Any], None]
    ) -> None:
        """Run a script."""
        known = self._scripts.get(script.name)
        if known is None:
            known = self._scripts[script.name] = Script(script.name, script.text)
        self.redis.call(known, keys, args, partial(_answered, on_answer))


def _answered(on_answer: Callable[[Any], None], result: Any) -> None:
    on_answer(Failed(result.unknown) if isinstance(result, RedisFailure) else result)


class SharedRates:
    """Owned by the service of rates. It gives the gateway its shared ledger, as long as the store is shared."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._server: RatesServer | None = None

    def commit(self, plan: Plan) -> None:
        """Count in the store of the plan that has come into force."""
        gateway = self._gateway
        redis = shared_server(gateway)
        if redis is None:
            shared, self._server, gateway.shared = gateway.shared, None, None
            if shared is not None:
                shared.close()
            return
        if self._server is None or self._server.redis is not redis:
            self._server = RatesServer(redis)
            redis.on_change(partial(self._on_available, redis))
            if gateway.shared is None:
                gateway.shared = SharedLedger(gateway.ledger, self._server, self._later)
                gateway.shared.on_change = self._report
            else:
                gateway.shared.move(self._server)
            gateway.shared.sync()
        assert gateway.shared is not None
        gateway.shared.on_failure = getattr(plan.config.store, "on_failure", "local")

    def _later(self, delay_s: float, step: Callable[[], None]) -> None:
        self._gateway.call_later(delay_s, step)

    def start(self, timers: Timers) -> None:
        """Read the counters that are in use each second."""
        timers.every("shared_rates", SYNC_S, self._sync)

    def _sync(self) -> None:
        if self._gateway.shared is not None:
            self._gateway.shared.sync()

    def _on_available(self, redis: RedisServer, available: bool) -> None:
        shared = self._gateway.shared
        if shared is None or self._server is None or self._server.redis is not redis:
            return
        if available:
            shared.sync()
        else:
            shared.stop_sharing()

    def _report(self) -> None:
        """Log that the counters are shared from now on, or are not any more."""
        shared, server, journal = self._gateway.shared, self._server, self._gateway.telemetry.journal
        if shared is None or server is None:
            return
        if shared.is_shared:
            journal.info("limits_shared", "Rates and budgets are counted in Redis.")
            return
        cause = server.redis.cause
        journal.warning(
            "limits_degraded",
            f"Rates and budgets follow `on_failure`; what is used is added when Redis is back. {CURES[cause.cause]}",
            cause=cause.cause, why=cause.text, on_failure=shared.on_failure,
        )

    def gauges(self) -> None:
        """Update the gauge."""
        shared = self._gateway.shared
        if shared is not None:
            self._gateway.telemetry.metrics.gauge("relayd.limits.shared", int(shared.is_shared))
