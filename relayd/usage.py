"""Token counts of one AI exchange: one type from the response reader to the record, the metrics and the account.

Providers count differently; every dialect converts its provider's counts to these:

| provider | input as sent | cached tokens | output as sent | reasoning tokens |
|---|---|---|---|---|
| OpenAI Chat, Responses | includes cached | included in input | includes reasoning | included in output |
| Anthropic | excludes cached | beside input | includes reasoning | included in output |
| Gemini | includes cached | included in input | excludes reasoning | beside output |
| Ollama | all | not reported | all | not reported |
"""

from __future__ import annotations

from relayd.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; 0 where the provider reported none.

    `input`: all tokens of the prompt. It includes `cached_read`, the part that the provider read from its prompt cache,
    and `cache_creation`, the part that it wrote to that cache; each of them has its own price. `output`: all tokens
    that the model produced. It includes `reasoning`, the part spent on thinking.
    """

    input: int = 0
    output: int = 0
    cached_read: int = 0
    cache_creation: int = 0
    reasoning: int = 0

    @property
    def uncached_input(self) -> int:
        """Input tokens at the full price: neither read from the provider's cache nor written to it."""
        return max(0, self.input - self.cached_read - self.cache_creation)
