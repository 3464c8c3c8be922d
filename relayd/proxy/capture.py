"""Capture: keeps requests, responses and every attempt of matching exchanges for a limited time, for an operator.

1. Off by default. While it is off, the gateway calls nothing of this module; while it is on, `Captures` stands in the
   place of the gateway's `begin` and `account`, and is its `observer`.
2. Whether an exchange is kept is known at its end only. Until then it is buffered within its bounds; as soon as its
   route or consumer excludes it, nothing more is copied.
3. Captured exchanges are in memory only, bounded in number and bytes. They are deleted after `keep_s`, and with the
   process. What the bounds exclude is not kept, and traffic is never delayed or refused because of a capture.
4. An exchange is masked (capture_masking) before it can be read. Those of the admin application are never kept.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from functools import partial

from relayd import clock
from relayd.dataclass import dataclass
from relayd.proxy.account import more_of
from relayd.proxy.attempt import Attempt
from relayd.proxy.capture_masking import Masks, mask_steps
from relayd.proxy.capture_taps import AttemptTap, CapturedBody, CapturingWriter, TransformTap, note_result
from relayd.proxy.captured import Allowance, CapturedAttempt, CapturedExchange
from relayd.proxy.exchange import Exchange
from relayd.proxy.gateway import Gateway
from relayd.proxy.replay import OnReplayed, Replay, exchange_of
from relayd.proxy.retry_loop import AttemptResult
from relayd.proxy.steps import Work
from relayd.telemetry.access_log import AccessLog
from relayd.telemetry.outcome import Record
from relayd.telemetry.record_filter import RecordFilter
from relayd.upstream.lease import Lease
from relayd.wire.json_steps import Steps

LOG = logging.getLogger("relayd.capture")
MAX_EXCHANGES = 1000  # kept at the same time
MAX_BODY_BYTES, MAX_BYTES = 16 << 20, 1 << 30
MAX_S = 24 * 3600.0
CHECK_S = 0.5
ACTIONS = ("start", "replay", "delete")
"""What the admin application does with captured exchanges: the last parts of paths, where ids stand too."""
ENDED = {
    "time": "its time is over", "count": "the number of exchanges is reached", "size": "its memory is full",
    "client": "its client has left", "stopping": "relayd is stopping or is replaced",
}
"""Why a capture ended."""


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """What is captured: exchanges that `filter` accepts, for `for_s` seconds, at most `exchanges`. Of each body at most
    `body_bytes` are kept, of all together `bytes`. A kept exchange is deleted after `keep_s` seconds."""

    filter: RecordFilter
    for_s: float = 300.0
    exchanges: int = 100
    body_bytes: int = 256 * 1024
    bytes: int = 64 << 20
    keep_s: float = 3600.0


class CaptureRefused(Exception):
    """A capture cannot begin; the text gives the reason."""


class RunningCapture:
    """A capture that is on. `recorded` counts its exchanges; `on_recorded` and `on_end` inform its client."""

    def __init__(
        self, settings: CaptureSettings, on_recorded: Callable[[CapturedExchange], None], on_end: Callable[[str], None],
        is_superseded: Callable[[], bool],
    ) -> None:
        self.settings, self.on_recorded, self.on_end, self.is_superseded = settings, on_recorded, on_end, is_superseded
        self.ends_s = clock.monotonic() + settings.for_s
        self.recorded = self.unmasked = 0  # unmasked: exchanges that have ended and are not masked yet
        self.end_reason = ""


class Captures:
    """All captured exchanges, and the capture that is on. One per process."""

    def __init__(self, gateway: Gateway, is_ending: Callable[[], bool]) -> None:
        """`is_ending`: True if the process is about to end."""
        self._gateway, self._is_ending = gateway, is_ending
        self._allowance = Allowance(0)
        self._recorded: dict[str, CapturedExchange] = {}
        self._open: dict[Record, tuple[Exchange, CapturedExchange]] = {}
        self._replays: dict[Record, OnReplayed] = {}
        self._work: set[Work] = set()
        self._format = AccessLog("off", query=True)
        self._masks: Masks | None = None
        self._begin, self._account = gateway.begin, gateway.account
        self._cancel_check: Callable[[], None] | None = None
        self._cancel_expiry: Callable[[], None] | None = None
        self.running: RunningCapture | None = None

    # ---- on and off

    def start(
        self, settings: CaptureSettings, on_recorded: Callable[[CapturedExchange], None], on_end: Callable[[str], None],
        is_superseded: Callable[[], bool] = bool,
    ) -> RunningCapture:
        """Begin a capture. `on_recorded` is called for each exchange that is kept, `on_end` once, with a key of ENDED.
        Raises CaptureRefused."""
        if self.running is not None:
            left_s = self.running.ends_s - clock.monotonic()
            raise CaptureRefused(f"A capture is on already; it ends in {max(0.0, left_s):.0f} s at the latest.")
        self._allowance.limit_bytes = settings.bytes
        if len(self._recorded) >= MAX_EXCHANGES or self._allowance.is_full:
            raise CaptureRefused(
                f"The captured exchanges are too many: {len(self._recorded)} use {self._allowance.used_bytes} bytes. "
                "Delete some with relayd capture delete, or raise --size."
            )
        if self._is_ending():
            raise CaptureRefused("relayd is stopping.")
        running = self.running = RunningCapture(settings, on_recorded, on_end, is_superseded)
        self._attach()
        self._check()
        return running

    def stop(self, reason: str) -> None:
        """End the capture that is on. Exchanges in flight are not kept."""
        running = self.running
        if running is None or running.end_reason:
            return
        running.end_reason = reason
        if self._cancel_check is not None:
            self._cancel_check()
        for record, (_, captured) in list(self._open.items()):
            if record not in self._replays:
                del self._open[record]
                captured.drop()
        self._detach()
        self._end_if_done(running)

    def _end_if_done(self, running: RunningCapture) -> None:
        """End the capture for its client, once all exchanges are masked."""
        if running.end_reason and not running.unmasked and self.running is running:
            self.running = None
            running.on_end(running.end_reason)

    def _check(self) -> None:
        running = self.running
        if running is None or running.end_reason:
            return
        if self._is_ending() or running.is_superseded():
            self.stop("stopping")
        elif clock.monotonic() >= running.ends_s:
            self.stop("time")
        else:
            self._cancel_check = self._gateway.call_later(CHECK_S, self._check)

    def _attach(self) -> None:
        gateway = self._gateway
        if gateway.observer is None:
            self._begin, self._account = gateway.begin, gateway.account
            gateway.begin, gateway.account, gateway.observer = self._begin_captured, self._on_record, self

    def _detach(self) -> None:
        """Restore the gateway once no exchange is observed."""
        is_on = self.running is not None and not self.running.end_reason
        if not is_on and not self._replays and self._gateway.observer is self:
            gateway = self._gateway
            gateway.begin, gateway.account, gateway.observer = self._begin, self._account, None

    # ---- exchanges

    def _begin_captured(self, exchange: Exchange) -> None:
        running = self.running
        if running is not None and not running.end_reason:
            self._observe(exchange, running.settings.body_bytes)
        self._begin(exchange)

    def replay(self, replayed: Replay, of: CapturedExchange, on_replayed: OnReplayed) -> Exchange:
        """Send a request again. `on_replayed` is called once, with the copy of the exchange, which it must drop, or
        with None if it could not be made."""
        exchange = exchange_of(self._gateway, replayed)
        self._attach()
        self._observe(exchange, of.body_bytes)
        self._replays[exchange.record] = on_replayed
        more_of(exchange.record)["replay_of"] = of.id
        self._begin(exchange)
        return exchange

    def _observe(self, exchange: Exchange, body_bytes: int) -> CapturedExchange:
        """Put the taps of an exchange in their places."""
        head, body, record = exchange.head, exchange.body, exchange.record
        captured = CapturedExchange(self._allowance, body_bytes, record.started)
        captured.method, captured.target, captured.version = head.method, head.target, head.version
        captured.fields, captured.is_tls = list(head.lines), exchange.down.tls
        if body.data is not None:
            captured.body.add(body.data, 0.0)
        elif not body.complete:
            exchange.body = CapturedBody(captured, exchange.down, exchange.gateway.buffers, body.present)
        exchange.writer = CapturingWriter(captured, exchange.writer)
        self._open[record] = exchange, captured
        return captured

    def _observed(self, exchange: Exchange) -> CapturedExchange | None:
        """The copy of an exchange; None if nothing more is copied."""
        found = self._open.get(exchange.record)
        if found is None or found[1].is_dropped:
            return None
        captured = found[1]
        running, record = self.running, exchange.record
        if running is None or record in self._replays:
            return captured
        accepts = running.settings.filter.may_be
        if not accepts("route", record.route) or not accepts("consumer", record.consumer):
            captured.drop()
            return None
        return captured

    def start_attempt(
        self, exchange: Exchange, attempt: Attempt, method: bytes, wire_target: bytes, fields: list[bytes],
        payload: bytes | None, length: int | None, *, new_connection: bool,
    ) -> None:
        """Start an attempt of an exchange, with a tap if the exchange is captured."""
        captured = self._observed(exchange)
        if captured is None:
            attempt.start(method, wire_target, fields, payload, length, new_connection=new_connection)
            return
        mine = self._new_attempt(captured, attempt.lease, method, wire_target, fields)
        mine.source, mine.translated = attempt, attempt.translated
        body = exchange.body
        if payload is not None:
            mine.body.add(payload, mine.started_s)
        elif length is not None:
            mine.request_is_forwarded = body.transform is None
            if body.transform is not None:
                body.transform = TransformTap(body.transform, captured, mine)
        if (on_failed := exchange.on_attempt_failed) is not None:
            exchange.on_attempt_failed = partial(on_attempt_failed, captured, mine, on_failed)
        attempt.start(method, wire_target, fields, payload, length, new_connection=new_connection)
        if attempt.slot is not None:
            attempt.slot.sink = AttemptTap(captured, mine, attempt)

    def note_tunnel(self, exchange: Exchange, lease: Lease, wire_target: bytes, fields: list[bytes]) -> None:
        """Note the request of an Upgrade; what is sent over the tunnel is not captured."""
        captured = self._observed(exchange)
        if captured is not None:
            mine = self._new_attempt(captured, lease, exchange.head.method, wire_target, fields)
            mine.is_tunnel = True

    def _new_attempt(
        self, captured: CapturedExchange, lease: Lease, method: bytes, wire_target: bytes, fields: list[bytes]
    ) -> CapturedAttempt:
        spec = lease.endpoint.spec
        mine = CapturedAttempt(
            lease.upstream.name, spec.label, clock.monotonic() - captured.started_s, captured.new_body(),
            captured.new_body(),
        )
        mine.method, mine.url = method, spec.origin.encode() + wire_target
        # The notation of the transport: `Name:` suppresses a field of libcurl, `Name;` is a field with an empty value.
        mine.fields = [line[:-1] + b":" if line.endswith(b";") and b":" not in line else line
                       for line in fields if not line.endswith(b":")]
        captured.attempts.append(mine)
        return mine

    # ---- the end of an exchange

    def _on_record(self, record: Record) -> None:
        """Account for an exchange, and keep its copy if the filter accepts it."""
        self._account(record)
        found = self._open.pop(record, None)
        if found is None:
            return
        exchange, captured = found
        on_replayed = self._replays.pop(record, None)
        try:
            self._finish(exchange, captured, record, on_replayed)
        except Exception:  # rescue door: a fault of the capture must not affect the exchange
            LOG.exception("capture of exchange %s", record.id)
            captured.drop()
            if on_replayed is not None:
                on_replayed(None)
        self._detach()

    def _finish(
        self, exchange: Exchange, captured: CapturedExchange, record: Record, on_replayed: OnReplayed | None
    ) -> None:
        running = None if on_replayed is not None else self.running
        route = exchange.route
        if captured.is_dropped or (running is None and on_replayed is None) or (
            route is not None and route.action == "admin"
        ):
            captured.drop()
            return
        if route is not None and route.resilience is not None and route.resilience.dialect is not None:
            captured.dialect = route.resilience.dialect.name
        captured.record = json.loads(self._format.json_line(record))
        if running is not None and not running.settings.filter.accepts(captured.record):
            captured.drop()
            return
        now_s = clock.monotonic()
        captured.response.ended_s = now_s - record.started
        for mine in captured.attempts:
            mine.finish(captured.response.ended_s, record, is_last=mine is captured.attempts[-1])
        if exchange.plan.generation != (-1 if self._masks is None else self._masks.generation):
            self._masks = Masks(exchange.plan)
        captured.count_heads()
        for body in captured.bodies():
            body.finish()
        if running is not None:
            captured.expires_s = now_s + running.settings.keep_s
            running.unmasked += 1
            running.recorded += 1
        assert self._masks is not None
        work: list[Work] = []
        done = partial(self._on_masked, captured, running, on_replayed, work)
        work.append(Work(mask_or_drop_steps(captured, self._masks), self._gateway.call_later, done))
        self._work.add(work[0])
        work[0].defer()
        if running is not None and not running.end_reason:
            count = len(self._recorded) + running.unmasked
            if running.recorded >= running.settings.exchanges or count >= MAX_EXCHANGES:
                self.stop("count")
            elif self._allowance.is_full:
                self.stop("size")

    def _on_masked(
        self, captured: CapturedExchange, running: RunningCapture | None,
        on_replayed: OnReplayed | None, work: list[Work],
    ) -> None:
        self._work.discard(work[0])
        is_masked = not captured.is_dropped
        if on_replayed is not None:
            captured.id = str(captured.record["id"])
            on_replayed(captured if is_masked else None)
        if running is None:
            return
        if is_masked:
            captured.id = self._free_id(str(captured.record["id"]))
            self._recorded[captured.id] = captured
            self._schedule_expiry()
            running.on_recorded(captured)
        else:
            running.recorded -= 1
        running.unmasked -= 1
        self._end_if_done(running)

    def _free_id(self, wanted: str) -> str:
        """The request id, with a number if a client has used it before, or if it is the path of an action."""
        number, found = 1, wanted
        while found in self._recorded or found in ACTIONS:
            number += 1
            found = f"{wanted}~{number}"
        return found

    # ---- records

    def exchanges(self) -> Iterable[CapturedExchange]:
        """The kept exchanges, oldest first."""
        return self._recorded.values()

    def find(self, prefix: str) -> list[CapturedExchange]:
        """The exchange with this id, or else those whose ids begin like this."""
        if prefix in self._recorded:
            return [self._recorded[prefix]]
        return [one for name, one in self._recorded.items() if prefix and name.startswith(prefix)]

    def delete(self, captured: CapturedExchange) -> None:
        """Delete one."""
        if self._recorded.pop(captured.id, None) is not None:
            captured.drop()

    def _schedule_expiry(self) -> None:
        if self._cancel_expiry is not None:
            self._cancel_expiry()
            self._cancel_expiry = None
        if self._recorded:
            first_s = min(one.expires_s for one in self._recorded.values())
            delay_s = max(0.001, first_s - clock.monotonic())
            self._cancel_expiry = self._gateway.call_later(delay_s, self._expire)

    def _expire(self) -> None:
        self._cancel_expiry = None
        now_s = clock.monotonic()
        for one in [one for one in self._recorded.values() if one.expires_s <= now_s]:
            self.delete(one)
        self._schedule_expiry()

    def describe(self) -> dict[str, object]:
        """For the status: whether a capture is on, and the stored records."""
        running = self.running
        return {
            "is_on": running is not None,
            "ends_in_s": None if running is None else round(max(0.0, running.ends_s - clock.monotonic()), 1),
            "exchanges": len(self._recorded),
            "bytes": self._allowance.used_bytes,
        }


def mask_or_drop_steps(captured: CapturedExchange, masks: Masks) -> Steps[None]:
    """Mask an exchange that has ended, or drop it if that fails: what is not masked must not be read."""
    try:
        yield from mask_steps(captured, masks)
    except Exception:  # rescue door: the capture must end all the same
        LOG.exception("masking of exchange %s", captured.record["id"])
        captured.drop()


def on_attempt_failed(
    captured: CapturedExchange, mine: CapturedAttempt, then: Callable[[Exchange, AttemptResult], None],
    exchange: Exchange, result: AttemptResult,
) -> None:
    """Note how an attempt failed, then handle it."""
    if not captured.is_dropped:
        note_result(mine, result, clock.monotonic() - captured.started_s)
    then(exchange, result)
