"""The phases of an exchange, and the permitted transitions."""

from __future__ import annotations

# The phases of a request (telemetry.outcome.PHASES), and "over" as the last one. `match` is entered twice if a rule
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
