"""One entry of `rates:` or `budget:`, and the counters that enforce it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import field

from relayd.dataclass import dataclass
from relayd.limits.window import Moment, Span, Window
from relayd.money import amount_text
from relayd.schema.units import format_duration
from relayd.wire.glob import Glob

REQUESTS, INPUT, OUTPUT, TOTAL, COST = "requests", "input", "output", "total", "cost"
KINDS = {REQUESTS: "requests", TOTAL: "tokens", INPUT: "input", OUTPUT: "output"}
ESTIMATED_OUTPUT_TOKENS = 4096
_LONGEST_VALUE = 128
_ALL = Glob.of_model("*")


def format_span(span: Span) -> str:
    """A span as it is written in the configuration."""
    return format_duration(span.length_ms / 1000) if span.length_ms else span.kind


def tokens_of(measure: str, input_tokens: int, output_tokens: int) -> int:
    """The tokens of one measure; `total` are input and output."""
    if measure == TOTAL:
        return input_tokens + output_tokens
    return input_tokens if measure == INPUT else output_tokens


@dataclass(frozen=True, slots=True)
class Rule:
    """A limit. `scope` is a kind and a name, as in `consumer team`.

    `measure` is requests, input, output, total (tokens) or cost (nano-units). `model` is a pattern, "" for all models.
    `each` is none, consumer, client or model: every value has its own counter. With `counts_only` it refuses nothing.
    A request may wait `wait_s` seconds for room. `warn` are shares of the limit, ascending. `estimate` is the number of
    output tokens assumed for a request that states no maximum. `on_failure` is what applies while the server is not
    available in which several instances count: open, closed or local, "" for what `store:` says. `key` names what is
    counted, without the limit: a reload that changes the limit keeps what was used.
    """

    scope: str
    measure: str
    limit: int
    span: Span
    model: str = ""
    each: str = "none"
    counts_only: bool = False
    wait_s: float = 0.0
    warn: tuple[float, ...] = ()
    estimate: int = ESTIMATED_OUTPUT_TOKENS
    on_failure: str = ""
    key: str = field(init=False, compare=False, default="")
    _glob: Glob = field(init=False, compare=False, repr=False, default=_ALL)

    def __post_init__(self) -> None:
        model = f" model={self.model}" if self.model else ""
        each = f" each={self.each}" if self.each != "none" else ""
        object.__setattr__(self, "key", f"{self.scope} {self.measure}/{self.span}{model}{each}")
        if self.model:
            object.__setattr__(self, "_glob", Glob.of_model(self.model))

    def key_of(self, value: str) -> str:
        """The key of one value of `each`."""
        return f"{self.key} {kept_value(value)}"

    def selects(self, model: str) -> bool:
        """True if the rule applies to requests for this model."""
        return not self.model or self._glob.match(model) is not None


def kept_value(value: str) -> str:
    """A value of `each` in a key: a digest of a long one."""
    if len(value) <= _LONGEST_VALUE:
        return value
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def owner_of(key: str) -> str:
    """The consumer (or address) of which the window with this key counts the use; empty if it is that of several."""
    for mark in (" each=consumer ", " each=client "):
        if mark in key:
            return key.partition(mark)[2]
    kind, _, rest = key.partition(" ")
    return rest.partition(" ")[0] if kind == "consumer" else ""


def is_of(key: str, owner: str) -> bool:
    """True if the window with this key counts the use of a consumer, or of the clients of an address."""
    return owner_of(key) == kept_value(owner) or key.startswith(f"consumer {owner} ")  # with `each: client` too


class Counter:
    """A rule with the window of its use. `value` is that of `each`. `warn_at` are the thresholds in units of the
    measure, ascending. `allowance` is what its clients are told of it: the kind, the limit, and the length of a sliding
    span in milliseconds (0 without one); None if they are told nothing."""

    __slots__ = ("allowance", "counts_only", "limit", "measure", "rule", "sliding", "value", "warn_at", "window")

    def __init__(self, rule: Rule, window: Window, value: str = "") -> None:
        self.rule, self.window, self.value = rule, window, value
        self.measure, self.limit, self.counts_only = rule.measure, rule.limit, rule.counts_only
        self.sliding = rule.span.length_ms > 0
        kind = None if rule.counts_only else KINDS.get(rule.measure)
        self.allowance = None if kind is None else (kind, rule.limit, rule.span.length_ms)
        self.warn_at = tuple(round(share * rule.limit) for share in rule.warn)

    def advance(self, now: Moment) -> int:
        """The amount that is used at this time."""
        return self.window.advance(now.steady_ms if self.sliding else now.wall_ms)

    def describe(self, now: Moment, source: str = "local") -> dict[str, object]:
        """The counter's state for the admin application; amounts of money are decimal texts. `source` is where it
        counts: local, shared, or degraded if the shared server is not available."""
        rule, window, limit = self.rule, self.window, self.limit
        used = self.advance(now)
        show: Callable[[int], object] = amount_text if rule.measure == COST else int
        free_in_ms = self.reset_ms(now)
        return {
            "key": window.key, "scope": rule.scope, "measure": rule.measure,
            "per": format_span(rule.span), "model": rule.model, "value": self.value, "limit": show(limit),
            "used": show(used), "reserved": show(window.held), "left": show(max(0, limit - used)),
            "share": round(used / limit, 4), "free_in_s": None if free_in_ms is None else free_in_ms / 1000,
            "waiting": len(window.queue or ()), "shadow": rule.counts_only, "source": source,
        }

    def wait_s(self, amount: int, now: Moment) -> float | None:
        """Seconds until there is room for this amount if nothing else is used until then; None if never."""
        free_ms = self.window.available_ms(amount, self.limit)
        now_ms = now.steady_ms if self.sliding else now.wall_ms
        return None if free_ms is None else max(0.0, (free_ms - now_ms) / 1000)

    def reset_ms(self, now: Moment) -> int | None:
        """Milliseconds until all that is used now is free again; None if never."""
        empty_ms = self.window.empty_ms()
        if empty_ms is None:
            return None
        left_ms = empty_ms - (now.steady_ms if self.sliding else now.wall_ms)
        return left_ms if left_ms > 0 else 0
