"""Response fields that tell a client its limits, in the shapes that SDKs read.

RateLimit and RateLimit-Policy are those of draft-ietf-httpapi-ratelimit-headers-10; `x-ratelimit-*` are OpenAI's. The
fields of Anthropic's API are in its own package.

The text of the fields depends on the limits only, so it is remembered with places for the values. A limit has three
values: what remains, the seconds until the reset, and the reset as the dialect writes it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from operator import itemgetter

from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex

PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-", b"ratelimit")
MAX_CACHED = 1024
_Values = tuple[bytes, ...]
_Template = tuple[bytes, Callable[[_Values], _Values]]
_PLACE = lazy_regex(r"\{([0-9]+)\}")


Allowance = tuple[str, int, int]
"""A limit of one client: its kind (requests, tokens, or tokens of input or output), the limit, and the length of its
sliding span in milliseconds, 0 without one."""
Left = tuple[Allowance, int, int]
"""What a client has left of a limit, and the milliseconds until all of it is available again."""


@dataclass(frozen=True, slots=True)
class RateFields:
    """The fields of a dialect. `text` makes them for these limits, with `places` for the values; `reset` writes the
    reset of a limit, from the milliseconds until then and the time in milliseconds since 1970."""

    text: Callable[[Sequence[Allowance]], str]
    reset: Callable[[int, int], bytes]


def field_lines(left: Sequence[Left], fields: RateFields | None, now_ms: int) -> bytes:
    """The standard fields, and those of a dialect."""
    allowances: tuple[Allowance, ...] = ()
    values: _Values = ()
    for allowance, remaining, reset_ms in left:
        allowances += (allowance,)
        reset = b"" if fields is None else fields.reset(reset_ms, now_ms)
        values += (b"%d" % remaining, b"%d" % -(-reset_ms // 1000), reset)
    template, select = _template(allowances, fields)
    return template % select(values)


@functools.lru_cache(maxsize=MAX_CACHED)
def _template(allowances: tuple[Allowance, ...], fields: RateFields | None) -> _Template:
    """A template of all lines, and the function that selects the values for it."""
    text = standard_text(allowances) + ("" if fields is None else fields.text(allowances))
    select: Callable[[_Values], _Values] = itemgetter(*map(int, _PLACE.findall(text)))
    return _PLACE.sub("%b", text).encode(), select


def places(index: int) -> tuple[str, str, str]:
    """The places of the values of a limit: what remains, the seconds until the reset, the reset in the dialect."""
    return f"{{{3 * index}}}", f"{{{3 * index + 1}}}", f"{{{3 * index + 2}}}"


def standard_text(allowances: Sequence[Allowance]) -> str:
    """RateLimit-Policy and RateLimit, with one item for each limit."""
    policies, states = [], []
    for index, (kind, limit, span_ms) in enumerate(allowances):
        remaining, seconds, _ = places(index)
        policies.append(f'"{kind}";q={limit};w={round(span_ms / 1000)}' if span_ms else f'"{kind}";q={limit}')
        states.append(f'"{kind}";r={remaining};t={seconds}')
    return f"RateLimit-Policy: {', '.join(policies)}\r\nRateLimit: {', '.join(states)}\r\n"


def openai_text(allowances: Sequence[Allowance]) -> str:
    """The fields of OpenAI's API: one limit of requests and one of tokens."""
    text, seen = "", set[str]()
    for index, (kind, limit, _) in enumerate(allowances):
        name = "requests" if kind == "requests" else "tokens"
        if name in seen:
            continue
        seen.add(name)
        remaining, _, reset = places(index)
        text += (
            f"x-ratelimit-limit-{name}: {limit}\r\nx-ratelimit-remaining-{name}: {remaining}\r\n"
            f"x-ratelimit-reset-{name}: {reset}\r\n"
        )
    return text


def openai_reset(reset_ms: int, now_ms: int) -> bytes:
    """A duration as OpenAI writes it: 20ms, 1s, 6m0s, 1h2m3s."""
    return b"%dms" % reset_ms if reset_ms < 1000 else _whole_seconds(-(-reset_ms // 1000))


@functools.lru_cache(maxsize=MAX_CACHED)
def _whole_seconds(seconds: int) -> bytes:
    minutes, left = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return b"%dh%dm%ds" % (hours, minutes, left) if hours else b"%dm%ds" % (minutes, left) if minutes else b"%ds" % left


OPENAI_FIELDS = RateFields(openai_text, openai_reset)
