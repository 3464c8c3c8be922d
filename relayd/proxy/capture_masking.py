"""Masks the secrets in a captured exchange, before anything of it can be read.

1. Fields and parameters with secret names are masked as in logs (wire/redact), as are those in which the configuration
   puts keys.
2. The keys of all upstreams, and the values of the client's secret fields, cookies and parameters, are masked wherever
   their text stands: in all heads and bodies, as in responses (wire/key_filter).
3. Credentials in a body are masked by their names (body_masking). Otherwise it is kept as it is, with personal data.

The work is done in steps, because bodies may be large.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from urllib.parse import unquote_to_bytes

from relayd.lazy_regex import lazy_regex
from relayd.plan.plan import Plan
from relayd.proxy.body_masking import mask_body_steps
from relayd.proxy.captured import BodyCopy, CapturedAttempt, CapturedExchange
from relayd.upstream.endpoint import filter_of
from relayd.wire.headers import CREDENTIALS, name_of
from relayd.wire.json_steps import Steps
from relayd.wire.key_filter import KeyFilter
from relayd.wire.redact import (
    SECRET_FIELDS,
    SUBPROTOCOLS,
    is_secret_name,
    key_in_subprotocol,
    mask_fields,
    mask_path,
    mask_query,
)

MAX_SECRETS = 64  # of one client request; of one with more, no body is kept
MIN_COOKIE_BYTES = 16  # a shorter cookie is a setting rather than a key, unless it has a secret name
_PARAMETER = lazy_regex(rb"[?&;/]([^=?&;/]+)=")


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
    """The values of the client's secret fields, cookies and parameters."""
    found: dict[str, None] = {}
    for line in captured.fields:
        name, value = name_of(line).decode("latin-1"), line.partition(b":")[2].strip()
        if name == "cookie":
            found |= dict.fromkeys(_text_of(one) for one in _cookies(value))
        elif name == SUBPROTOCOLS:
            found |= dict.fromkeys(_text_of(key) for one in value.split(b",") if (key := key_in_subprotocol(one)))
        elif value and (name in SECRET_FIELDS or name in masks.fields or is_secret_name(name)):
            found[_text_of(value)] = None
    found |= dict.fromkeys(_text_of(one) for one in _parameters(captured.target, masks) if one)
    return tuple(found)


def _cookies(value: bytes) -> Iterator[bytes]:
    """The values of the cookies that may be keys."""
    for pair in value.split(b";"):
        name, _, text = pair.strip().partition(b"=")
        text = text.strip(b'"')
        if len(text) >= MIN_COOKIE_BYTES or (text and is_secret_name(name.decode("latin-1"))):
            yield text


def _parameters(target: bytes, masks: Masks) -> Iterator[bytes]:
    """The values of the secret parameters of the path and of the query, as they are and decoded."""
    path_end = (target + b"?").index(b"?")
    for found in _PARAMETER.finditer(target):
        name = found[1].decode("latin-1")
        if is_secret_name(name) or name.lower().replace("-", "_") in masks.parameters:
            value = target[found.end():].split(b"&")[0] if found.start() >= path_end else (
                target[found.end():path_end].split(b"/")[0])
            for one in dict.fromkeys((value, value.split(b";")[0])):
                yield from (one, unquote_to_bytes(one), unquote_to_bytes(one.replace(b"+", b" ")))


def _text_of(secret: bytes) -> str:
    """The text whose bytes in UTF-8, in which a KeyFilter looks for it, are the secret's own."""
    try:
        return secret.decode()
    except UnicodeDecodeError:
        return secret.decode("latin-1")


def mask_steps(captured: CapturedExchange, masks: Masks) -> Steps[None]:
    """Mask an exchange that has ended."""
    secrets, filters = secrets_of(captured, masks), list(masks.filters)
    if len(secrets) > MAX_SECRETS:
        for body in captured.bodies():
            body.drop_content()
            body.is_masked = True
    longest = max(map(len, secrets), default=0)
    filters.append(KeyFilter((("header", "", one) for one in secrets[:MAX_SECRETS]), lazy=True))
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
    for body, lines in _bodies(captured):
        yield from mask_body_steps(body, filters, lines, longest)
    captured.record = {name: _text(value, filters) for name, value in captured.record.items()}


def _bodies(captured: CapturedExchange) -> Iterator[tuple[BodyCopy, list[bytes]]]:
    """All bodies, with the fields of their messages."""
    for message in (captured, captured.response):
        yield message.body, message.fields
    for attempt in captured.attempts:
        yield attempt.body, attempt.fields
        yield attempt.response.body, attempt.response.fields


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
