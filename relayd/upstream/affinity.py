"""What belongs together: from a request to the number by which consistent_hash chooses.

    header:NAME  cookie:NAME  consumer  session  prompt  client

Laws:
1. The words are asked in order; the first that the request has makes the key. Two words never make the same key.
2. `prompt` is how the prompt begins, in the bytes of the body: a conversation grows at its end, so all of its requests
   begin alike, and so do those that share a long system prompt. What is shorter than `prompt_bytes` has no key here:
   its beginning would change with the next turn, and providers do not cache it anyway.
3. `session` is what the request itself calls its conversation: a header, else a member of the body.
4. Nothing is parsed: the place in the body is found by its name, and a body that hides it only loses its key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from relayd.wire.body import PARSED_BYTES, Look, look_at

MOST_BEFORE_PROMPT = 256 * 1024  # bytes that are looked at for the beginning of the prompt
SESSION_FIELDS = (b"x-session-id", b"session-id", b"session_id", b"x-conversation-id", b"x-claude-code-session-id")
SESSION_MEMBERS = ("prompt_cache_key", "session_id", "conversation", "previous_response_id")
_PROMPT = re.compile(rb'"(?:messages|input|prompt|contents|system|instructions|systemInstruction)"\s*:')

Field = Callable[[bytes], bytes | None]


class Affinity:
    """`hash:` of one upstream; holds nothing that changes."""

    __slots__ = ("_prompt_bytes", "_words", "needs_body")

    def __init__(self, by: tuple[str, ...], prompt_bytes: int) -> None:
        self._words = tuple((word.partition(":")[0], word.partition(":")[2].lower().encode()) for word in by)
        self._prompt_bytes = prompt_bytes
        self.needs_body = any(word in ("session", "prompt") for word, _ in self._words)

    def key(self, field: Field, consumer: str, client: str, body: bytes | None = None,
            look: Look | None = None) -> int | None:
        """The number of a request, None when it has none of the words.

        `field` gives a request field by its lower-case name; `body` is the whole body where it is at hand, `look`
        what is known of it.
        """
        for word, name in self._words:
            value = self._value(word, name, field, consumer, client, body, look)
            if value:
                return number_of(word.encode() + b":" + name + b":" + value)
        return None

    def _value(
        self, word: str, name: bytes, field: Field, consumer: str, client: str, body: bytes | None, look: Look | None
    ) -> bytes | None:
        if word == "header":
            return field(name)
        if word == "cookie":
            return cookie_of(field(b"cookie"), name)
        if word == "consumer":
            return consumer.encode()
        if word == "client":
            return client.encode()
        if word == "prompt":
            return None if body is None else beginning_of(body, self._prompt_bytes)
        return session_of(field, body, look)


def number_of(data: bytes) -> int:
    """The same on every machine."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def cookie_of(line: bytes | None, name: bytes) -> bytes | None:
    """A cookie's value; `name` in lower case (names are compared without case, as people write them in relayd.yaml)."""
    for part in (line or b"").split(b";"):
        found, equals, value = part.strip().partition(b"=")
        if equals and found.lower() == name:
            return value
    return None


def session_of(field: Field, body: bytes | None, look: Look | None = None) -> bytes | None:
    """What the request calls its conversation."""
    for name in SESSION_FIELDS:
        if value := field(name):
            return value
    if look is None and body is not None and len(body) <= PARSED_BYTES:
        look = look_at(body)
    if look is not None:
        for member in SESSION_MEMBERS:
            if text := look.string(member):
                return text.encode("utf-8", "surrogatepass")
    return None


def beginning_of(body: bytes, count: int) -> bytes | None:
    """The first `count` bytes of the prompt, None where it is shorter, or begins late in the body."""
    found = _PROMPT.search(body, 0, MOST_BEFORE_PROMPT)
    if found is None or len(body) - found.end() < count:
        return None
    return body[found.end() : found.end() + count]
