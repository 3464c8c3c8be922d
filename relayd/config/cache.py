"""`routes.cache` answers of AI endpoints that are used again for equal requests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from relayd.config.fields import KEY_FIELDS, field_name_fault
from relayd.schema import Duration, Size, section, setting

LARGEST_SHARE = 4
"""A store keeps no value above this part of its size."""


@section()
class Cache:
    """Complete answers of this route's endpoints, for equal requests. A hit passes authorisation, model permissions, and
    the rates and budgets of consumer, group and route as a request does, and costs one request, no tokens and no money.
    See relayd-cache(7)."""

    ttl: Duration = setting(default=Duration(3600), doc="How long an answer is used after it was received.", minimum=1, maximum=31536000)
    size: Size = setting(default=Size(64 * 1024 * 1024), doc="The maximum size of all answers of this route in `store`; the least recently used ones are removed. It is a part of `store.size`.", minimum=65536)
    answer_size: Size | None = setting(default=None, doc="A larger answer is not kept. An exchange holds at most this much while it records, and a replay while the client reads. Default is a quarter of `size`, at most 1MiB.", minimum=1024, maximum=16 * 1024 * 1024)
    shared: bool = setting(default=False, doc="Use the answer to one consumer for all of them. Otherwise each consumer has its own answers, and each address of clients without a consumer.")
    when: Literal["deterministic", "asked", "always"] = setting(default="deterministic", doc="Which requests use the cache: `deterministic` those that state `temperature: 0`, and those of `asked`; `asked` those whose Cache-Control has `only-if-cached`, or `max-age` of more than 0; `always` all that can.")
    vary: tuple[str, ...] = setting(default=(), doc="Header fields of the request that distinguish answers, in addition to those of the dialect (such as anthropic-version and anthropic-beta).", example=["X-Tenant"])

    def check(self) -> Iterable[tuple[str, str]]:
        if self.answer_size is not None and self.answer_size * LARGEST_SHARE > self.size:
            yield "answer_size", "is more than a quarter of size"
        for index, name in enumerate(self.vary):
            if fault := field_name_fault(name):
                yield f"vary[{index}]", fault
            elif name.lower() in (*KEY_FIELDS, "cookie"):
                yield f"vary[{index}]", "is a key of the client; answers are kept by consumer"

    @property
    def largest(self) -> int:
        """The maximum size of an answer in bytes."""
        return min(1024 * 1024, self.size // LARGEST_SHARE) if self.answer_size is None else int(self.answer_size)
