"""The phases of an exchange, and what may follow what."""

from __future__ import annotations

# What a request goes through (telemetry.outcome.ROOMS), and "over" behind everything. `match` comes twice where a rule
# needs the body; `queue` and `attempt` alternate over retries and fallbacks.
FOLLOWS: dict[str, frozenset[str]] = {
    "accept": frozenset(("match", "over")),
    "match": frozenset(("match", "authorise", "admit", "over")),
    "authorise": frozenset(("match", "authorise", "admit", "tunnel", "over")),
    "admit": frozenset(("match", "admit", "queue", "attempt", "transfer", "tunnel", "over")),
    "queue": frozenset(("admit", "queue", "attempt", "transfer", "over")),
    "attempt": frozenset(("admit", "queue", "attempt", "transfer", "tunnel", "over")),
    "transfer": frozenset(("transfer", "over")),
    "tunnel": frozenset(("over",)),
    "over": frozenset(),
}
