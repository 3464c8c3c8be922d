"""The affinity key of a request: the number by which consistent_hash chooses an endpoint.

    header:NAME  cookie:NAME  consumer  session  prompt  client

Laws:
1. The sources are read in order; the first one that the request has makes the key. Two sources never make the same
   key.
2. `prompt` is the beginning of the prompt, in the bytes of the body. A conversation grows at its end, so all of its
   requests begin alike, and so do requests that share a long system prompt. A prompt shorter than `prompt_bytes` has no
   key: its beginning would change with the next turn, and providers do not cache it.
3. `session` is the client's session in relayd, on routes that use sessions; elsewhere the identifier that the request
   gives to its conversation: a header field, else a member of the body.
4. Nothing is parsed: the prompt is found in the body by the name of its member. A body that hides the member only loses
   its key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from relayd.lazy_regex import lazy_regex
from relayd.wire.body import PARSED_BYTES, JsonBody, inspect_json

MOST_BEFORE_PROMPT = 256 * 1024  # bytes that are searched for the beginning of the prompt
SESSION_FIELDS = (b"x-session-id", b"session-id", b"session_id", b"x-conversation-id", b"x-claude-code-session-id")
SESSION_MEMBERS = ("prompt_cache_key", "session_id", "conversation", "previous_response_id")
_PROMPT = lazy_regex(rb'"(?:messages|input|prompt|contents|system|instructions|systemInstruction)"\s*:')

Field = Callable[[bytes], bytes | None]


class Affinity:
    """`hash:` of one upstream; immutable."""

    __slots__ = ("_prompt_bytes", "_sources", "needs_body")

    def __init__(self, by: tuple[str, ...], prompt_bytes: int) -> None:
        self._sources = tuple((source.partition(":")[0], source.partition(":")[2].lower().encode()) for source in by)
        self._prompt_bytes = prompt_bytes
        self.needs_body = any(source in ("session", "prompt") for source, _ in self._sources)

    def key(self, field: Field, consumer: str, client: str, body: bytes | None = None,
            json_body: JsonBody | None = None, session: str = "") -> int | None:
        """The affinity key of a request, None if the request has none of the sources.

        `field` returns a request field by its lower-case name. `body` is the whole body if it is available, `look` the
        result of its inspection. `session` is relayd's session of the client, which precedes other identifiers.
        """
        for source, name in self._sources:
            value = self._value(source, name, field, consumer, client, body, json_body, session)
            if value:
                return hash_of(source.encode() + b":" + name + b":" + value)
        return None

    def _value(
        self, source: str, name: bytes, field: Field, consumer: str, client: str, body: bytes | None,
        json_body: JsonBody | None, session: str,
    ) -> bytes | None:
        if source == "header":
            return field(name)
        if source == "cookie":
            return cookie_value(field(b"cookie"), name)
        if source == "consumer":
            return consumer.encode()
        if source == "client":
            return client.encode()
        if source == "prompt":
            return None if body is None else prompt_prefix(body, self._prompt_bytes)
        return session.encode() or session_id(field, body, json_body)


def hash_of(data: bytes) -> int:
    """A 64-bit hash, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def cookie_value(line: bytes | None, name: bytes) -> bytes | None:
    """A cookie's value. `name` is in lower case; names are compared case-insensitively."""
    for part in (line or b"").split(b";"):
        found, equals, value = part.strip().partition(b"=")
        if equals and found.lower() == name:
            return value
    return None


def session_id(field: Field, body: bytes | None, json_body: JsonBody | None = None) -> bytes | None:
    """The identifier that the request gives to its conversation."""
    for name in SESSION_FIELDS:
        if value := field(name):
            return value
    if json_body is None and body is not None and len(body) <= PARSED_BYTES:
        json_body = inspect_json(body)
    if json_body is not None:
        for member in SESSION_MEMBERS:
            if text := json_body.string(member):
                return text.encode("utf-8", "surrogatepass")
    return None


def prompt_prefix(body: bytes, count: int) -> bytes | None:
    """The first `count` bytes of the prompt, None if the prompt is shorter or begins late in the body."""
    found = _PROMPT.search(body, 0, MOST_BEFORE_PROMPT)
    if found is None or len(body) - found.end() < count:
        return None
    return body[found.end() : found.end() + count]
