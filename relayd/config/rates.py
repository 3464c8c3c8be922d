"""`rates:` requests and tokens per time, and `budget:` money per time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from relayd.limits.counter import COST, ESTIMATED_OUTPUT_TOKENS, REQUESTS, Rule
from relayd.limits.window import CALENDAR, Span
from relayd.schema import Duration, Money, section, setting
from relayd.schema.units import DURATION_PATTERN, UnitError, parse_duration

SHORTEST_S, LONGEST_S = 1, 366 * 86_400
MOST_REQUESTS = 1_000_000_000_000
MOST_TOKENS = 1_000_000_000_000_000
MOST_MONEY = 9_000_000 * 1_000_000_000  # nano-units; sums stay below 2^53, so that every store is exact
MOST_ESTIMATE = 10_000_000
Each = Literal["none", "consumer", "client", "model"]
MODEL_DOC = "Pattern of the models that are counted, by the name in the request; `*` matches any text. Default are all requests, also those that name no model."
EACH_DOC = "Separate counters: for every consumer, every client address (IPv6 addresses by their /64), or every model. A request without a consumer counts for its address. Of all values of all entries, the 50000 that were used last are kept."
SHADOW_DOC = "Count and log (`rate_exceeded`), and refuse nothing."
OnFailure = Literal["open", "closed", "local"]
ON_FAILURE_DOC = "With `store: {kind: redis}`, while Redis is not available: `local` decides by what this instance knows of the counter, `open` lets every request through, and `closed` refuses with 503 limits_unavailable. Default is `on_failure` of `store`. What is used meanwhile is added when Redis is back."
ESTIMATE_DOC = "Output tokens that are reserved for a request that states no maximum (`max_tokens` and the like), until the endpoint has reported the real number."


@section()
class Rate:
    """A number of requests or tokens per time: exactly one of `requests` and `tokens`.

    The span is sliding: in no interval of this length more is admitted. A request reserves what it may need before it
    is sent, and is settled with what the endpoint reports. A request that is refused uses nothing of any limit.
    """

    requests: int | None = setting(default=None, doc="Requests per span. A request counts once, with all its retries and fallbacks, when its first endpoint is chosen; a message of a WebSocket session of the Responses API is a request. Requests that relayd answers itself (errors, model lists, redirects) do not count, nor do those that failed at the upstream.", minimum=1, maximum=MOST_REQUESTS, example=60)
    tokens: int | None = setting(default=None, doc="Tokens per span, as reported by the endpoint; relayd-rates(7) says what a response without such a report costs.", minimum=1, maximum=MOST_TOKENS, example=200000)
    per: Duration = setting(doc="The span.", minimum=SHORTEST_S, maximum=LONGEST_S, example="1m")
    of: Literal["total", "input", "output"] = setting(default="total", doc="The tokens that count: those of the request, of the response, or both.")
    model: str | None = setting(default=None, doc=MODEL_DOC, example="gpt-*")
    each: Each = setting(default="none", doc=EACH_DOC)
    shadow: bool = setting(default=False, doc=SHADOW_DOC)
    wait: Duration = setting(default=Duration(0), doc="How long a request without room may wait for it, in order of arrival, instead of being refused. One that cannot have room within this time is refused on arrival. At most 1000 requests wait for one counter.", zero_is_off=True, maximum=3600)
    estimate: int = setting(default=ESTIMATED_OUTPUT_TOKENS, doc=ESTIMATE_DOC, minimum=1, maximum=MOST_ESTIMATE)
    on_failure: OnFailure | None = setting(default=None, doc=ON_FAILURE_DOC)

    def check(self) -> Iterable[tuple[str, str]]:
        if (self.requests is None) == (self.tokens is None):
            yield "", "needs exactly one of requests and tokens"
        if self.tokens is None and self.of != "total":
            yield "of", "has a meaning only with tokens"
        if self.model == "":
            yield "model", "is empty; no request names an empty model"

    def rule(self, scope: str) -> Rule:
        """The rule for the object with this scope, as in `consumer team`."""
        return Rule(
            scope=scope, measure=REQUESTS if self.tokens is None else self.of, limit=self.requests or self.tokens or 0,
            span=Span.sliding(self.per), model=self.model or "", each=self.each, counts_only=self.shadow,
            wait_s=float(self.wait), estimate=self.estimate, on_failure=self.on_failure or "",
        )


@section()
class Budget:
    """An amount of money per time, in the currency of `prices`.

    A request reserves the most that it may cost before it is sent: its input by an estimate and its output by its
    maximum (or `estimate`). So requests at the same time do not exceed the budget together. A budget that is used up
    refuses every request, also one for a model without a price.
    """

    amount: Money = setting(doc="The amount.", minimum=1, maximum=MOST_MONEY, example="5")
    per: str = setting(doc="`day` and `month` are those of the calendar (UTC), `total` is never reset; a duration between 1s and 366d, as in `30d`, is a sliding span.", pattern=f"{DURATION_PATTERN}|{'|'.join(CALENDAR)}", form="day, month, total or a duration of 1s to 366d", example="30d")
    warn: tuple[float, ...] = setting(default=(), doc="Shares of the amount at which a warning is logged (`budget_warning`), counted, and sent to `telemetry.budget_webhook`, once per crossing.", example=[0.8])
    model: str | None = setting(default=None, doc=MODEL_DOC, example="gpt-*")
    each: Each = setting(default="none", doc=EACH_DOC)
    shadow: bool = setting(default=False, doc=SHADOW_DOC)
    estimate: int = setting(default=ESTIMATED_OUTPUT_TOKENS, doc=ESTIMATE_DOC, minimum=1, maximum=MOST_ESTIMATE)
    on_failure: OnFailure | None = setting(default=None, doc=ON_FAILURE_DOC)

    def check(self) -> Iterable[tuple[str, str]]:
        if self.per not in CALENDAR:
            try:
                length_s = parse_duration(self.per)
                if not SHORTEST_S <= length_s <= LONGEST_S:
                    yield "per", "must be 1s to 366d"
            except UnitError as fault:
                yield "per", str(fault)
        for index, share in enumerate(self.warn):
            if not 0 < share <= 1:
                yield f"warn[{index}]", "must be more than 0 and at most 1"
        if self.model == "":
            yield "model", "is empty; no request names an empty model"

    def rule(self, scope: str) -> Rule:
        """The rule for the object with this scope, as in `consumer team`."""
        span = Span(self.per) if self.per in CALENDAR else Span.sliding(parse_duration(self.per))
        return Rule(
            scope=scope, measure=COST, limit=int(self.amount), span=span, model=self.model or "", each=self.each,
            counts_only=self.shadow, warn=tuple(sorted(set(self.warn))), estimate=self.estimate,
            on_failure=self.on_failure or "",
        )


def rules_of(scope: str, rates: Iterable[Rate], budget: Iterable[Budget]) -> tuple[Rule, ...]:
    """The rules of one object, in their order."""
    return (*[one.rule(scope) for one in rates], *[one.rule(scope) for one in budget])


def rates_faults(rates: Iterable[Rate], budget: Iterable[Budget]) -> Iterable[tuple[str, str]]:
    """Two entries of one object that would be one counter with two limits."""
    lists: tuple[tuple[str, Iterable[Rate | Budget]], ...] = (("rates", rates), ("budget", budget))
    for kind, entries in lists:
        seen: dict[str, int] = {}
        for index, one in enumerate(entries):
            first = seen.setdefault(one.rule("").key, index)
            if first != index:
                yield f"{kind}[{index}]", f"counts the same as {kind}[{first}]"
