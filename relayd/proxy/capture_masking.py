"""Masks the secrets in a captured exchange, before anything of it can be read.

1. Fields and parameters with secret names are masked as in logs (wire/redact), as are those in which the configuration
   puts keys.
2. The keys of all upstreams, and the values of the client's secret fields and parameters, are masked wherever their
   text stands: in all heads and bodies, as in responses (wire/key_filter).
3. Otherwise a body is kept as it is. It may contain personal data.

The work is done in steps, because bodies may be large.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from relayd.plan.plan import Plan
from relayd.proxy.captured import EDGE_BYTES, BodyCopy, CapturedAttempt, CapturedExchange
from relayd.upstream.endpoint import filter_of
from relayd.wire.headers import CREDENTIALS, name_of
from relayd.wire.json_steps import Steps
from relayd.wire.key_filter import KeyFilter
from relayd.wire.redact import SECRET_FIELDS, is_secret_name, mask_fields, mask_path, mask_query

BLOCK_BYTES = 16 * 1024
MAX_SECRETS, MAX_SECRET_BYTES = 8, 4096  # of one client request
_PARAMETER = re.compile(rb"[?&]([^=&]+)=([^&]*)")


class Masks:
    """What is masked with one plan: `fields` and `parameters` are lower-case names, `filters` remove the keys."""

    def __init__(self, plan: Plan) -> None:
        specs = [one.spec for one in plan.upstreams.values()]
        auths = [auth for spec in specs for auth in spec.keys]
        self.generation = plan.generation
        self.fields = frozenset(
            [name.decode("latin-1") for name in plan.key_fields | CREDENTIALS]
            + [auth.name.lower() for auth in auths if auth.kind == "header"]
        )
        self.parameters = frozenset(auth.name.lower().replace("-", "_") for auth in auths if auth.kind == "query")
        self.filters = tuple(found for spec in specs if (found := filter_of(spec)) is not None)

    def lines(self, lines: list[bytes], filters: Iterable[KeyFilter]) -> list[bytes]:
        """Field lines with everything masked."""
        masked = mask_fields(lines, self.fields)
        for one in filters:
            masked = [one.body(line) for line in masked]
        return masked

    def target(self, target: bytes, filters: Iterable[KeyFilter]) -> bytes:
        """A request target, or a URL, with everything masked."""
        path, mark, query = target.partition(b"?")
        text = mask_path(path.decode("latin-1")) + mask_query((mark + query).decode("latin-1"), self.parameters)
        masked = text.encode("latin-1", "replace")
        for one in filters:
            masked = one.body(masked)
        return masked


def secrets_of(captured: CapturedExchange, masks: Masks) -> tuple[str, ...]:
    """The values of the client's secret fields and parameters."""
    found: dict[str, None] = {}
    for line in captured.fields:
        name, value = name_of(line).decode("latin-1"), line.partition(b":")[2].strip()
        if 0 < len(value) <= MAX_SECRET_BYTES and (
            name in SECRET_FIELDS or name in masks.fields or is_secret_name(name)
        ):
            found[_text_of(value)] = None
    for parameter in _PARAMETER.finditer(captured.target):
        name = parameter[1].decode("latin-1")
        if is_secret_name(name) and 0 < len(parameter[2]) <= MAX_SECRET_BYTES:
            found[_text_of(parameter[2])] = None
    return tuple(found)[:MAX_SECRETS]


def _text_of(secret: bytes) -> str:
    """The text whose bytes in UTF-8, in which a KeyFilter looks for it, are the secret's own."""
    try:
        return secret.decode()
    except UnicodeDecodeError:
        return secret.decode("latin-1")


def mask_steps(captured: CapturedExchange, masks: Masks) -> Steps[None]:
    """Mask an exchange that has ended."""
    secrets = secrets_of(captured, masks)
    filters = list(masks.filters)
    for one in secrets:
        filters.append(KeyFilter([("header", "", one)]))
        yield
    captured.target = masks.target(captured.target, filters)
    captured.fields = masks.lines(captured.fields, filters)
    yield
    response = captured.response
    response.fields = masks.lines(response.fields, filters)
    response.trailers = masks.lines(response.trailers, filters)
    for keys in filters:
        response.reason = keys.body(response.reason)
    for attempt in captured.attempts:
        yield
        _mask_attempt(attempt, masks, filters)
    for body in captured.bodies():
        yield from mask_body_steps(body, filters)
    captured.record = {name: _text(value, filters) for name, value in captured.record.items()}


def _mask_attempt(attempt: CapturedAttempt, masks: Masks, filters: list[KeyFilter]) -> None:
    attempt.url = masks.target(attempt.url, filters)
    attempt.fields = masks.lines(attempt.fields, filters)
    response = attempt.response
    response.fields = masks.lines(response.fields, filters)
    response.trailers = masks.lines(response.trailers, filters)
    for one in filters:
        attempt.detail = one.text(attempt.detail)
        response.reason = one.body(response.reason)


def _text(value: object, filters: list[KeyFilter]) -> object:
    if not isinstance(value, str):
        return value
    for one in filters:
        value = one.text(value)
    return value


def mask_body_steps(body: BodyCopy, filters: list[KeyFilter]) -> Steps[None]:
    """Mask the keys in a body, then drop what is kept behind the cuts."""
    for part in (body.head, body.tail):
        for one in filters:
            yield
            runs = yield from _runs_with_key_steps(bytes(part), one)
            for start, end in reversed(runs):
                part[start:end] = one.body(bytes(part[start:end]))
                body.is_masked = True
                yield
    body.cut_edges()


def _runs_with_key_steps(data: bytes, keys: KeyFilter) -> Steps[list[tuple[int, int]]]:
    """The parts of the data that contain keys, each of them a number of whole blocks. A key on the border of two blocks
    is found in both, so that it is within one part."""
    runs: list[tuple[int, int]] = []
    for start, end in _blocks(len(data)):
        if keys.holds(data[max(0, start - EDGE_BYTES): end + EDGE_BYTES]):
            if runs and runs[-1][1] == start:
                runs[-1] = (runs[-1][0], end)
            else:
                runs.append((start, end))
        yield
    return runs


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, BLOCK_BYTES):
        yield start, min(size, start + BLOCK_BYTES)
