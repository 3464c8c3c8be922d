"""Removes the keys that relayd adds for an upstream from the response heads and errors of that upstream.

Laws:
1. A key is found literally, and in base64 at any offset, so that `user:key` in base64 is found too. Both are also found
   percent-encoded (digits in either case, up to MAX_DECODES times), with JSON escapes and with HTML escapes.
2. A field that contains a key is dropped, because a masked value could have another meaning (a relative Location, a
   cookie). One exception: the query parameter that relayd added itself is cut out of a URL, and the rest of the field
   is forwarded.
3. A line without a key costs a few searches for fixed texts, and nothing if it was among the last lines without a key.
   Only the regular expressions decide; they run only after one of these searches has found a text.
4. A placeholder for an unneeded key (`none`, `EMPTY`) is not a secret, nor is a text of fewer than four characters; for
   these only the added parameter is cut out. A key of fewer than eight characters is found only if no letter or digit
   is adjacent to it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote_to_bytes

from relayd.lazy_regex import lazy_regex
from relayd.wire.response import ResponseHead

MASK = "***"
MIN_CHARS, MIN_SUBSTRING_CHARS = 4, 8  # characters: of a secret; of one found inside of words
MAX_KEY_BYTES = 512  # bytes of a key that are searched for
MAX_DECODES = 4  # rounds of percent-decoding
MAX_KNOWN, MAX_KNOWN_BYTES = 256, 256  # lines without a key that are remembered, and the length of each
MAX_NAMES = 16  # field names that are counted separately
PLACEHOLDERS = frozenset(
    ("none", "null", "empty", "dummy", "fake", "unused", "test", "demo", "placeholder", "token", "apikey", "api-key",
     "api_key", "no-key", "nothing", "anything", "ollama", "vllm", "local", "localhost", "lm-studio", "llama", "openai",
     "true", "false", "user", "admin", "pass", "password")
)
_PARAMETER = lazy_regex(rb"([?&;])([^=&;?#\s\"'<>]*)=([^&;#\s\"'<>]*)")
_LEFT_OVER = lazy_regex(rb"(\?[&;]+(?=[^&;#\s\"'<>]))|\?[&;]*(?=[#\s\"'<>]|\Z)")
# Not preceded by a letter or digit, except by one that belongs to an escape.
_BEFORE = (
    rb"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f][0-9A-Fa-f])|(?<=%25[0-9A-Fa-f][0-9A-Fa-f])"
    rb"|(?<=\\u00[0-9A-Fa-f][0-9A-Fa-f])|(?<=\\[nrt]))"
)
_ALNUM = lazy_regex(r"[A-Za-z0-9]")
_JSON_ESCAPE = lazy_regex(rb"\\+u00([0-7][0-9A-Fa-f])")
_HTML_ESCAPE = lazy_regex(rb"&(?:#(?:[xX]([0-9A-Fa-f]{1,6})|([0-9]{1,6}))|(amp|quot|apos|lt|gt|plus|sol|equals));")
_NAMED = {
    b"amp": b"&", b"quot": b'"', b"apos": b"'", b"lt": b"<", b"gt": b">", b"plus": b"+", b"sol": b"/", b"equals": b"=",
}


class KeyFilter:
    """The keys of one upstream; owned by an endpoint. `counts` are the removed fields by name."""

    __slots__ = (
        "_encoded", "_expressions", "_forms", "_has_placeholders", "_known", "_names", "_secrets", "_texts", "_values",
        "counts",
    )

    def __init__(self, keys: Iterable[tuple[str, str, str]], *, lazy: bool = False) -> None:
        """`keys` are kind (bearer, header or query), name of the field or parameter, and value. `lazy`: compile the
        regular expressions, which takes 20 ms for 50 characters, only after a key was found."""
        given = list(keys)
        self._names = frozenset(name.lower().encode() for kind, name, _ in given if kind == "query")
        self._values = frozenset(value.encode() for kind, _, value in given if kind == "query")
        self._has_placeholders = any(not _is_secret(value) for kind, _, value in given if kind == "query")
        texts = {text for _, _, value in given for text in _secret_texts(value) if _is_secret(text)}
        encoded = {form for text in texts for form in _base64_forms(text)}
        self._texts = tuple(sorted({text.encode()[:MAX_KEY_BYTES] for text in texts} | encoded))
        self._forms = tuple(sorted({_normalised(text) for text in self._texts}))
        self._secrets, self._encoded = texts, encoded
        self._expressions = None if lazy else self._compile()
        self._known: set[bytes] = set()  # lines and reason phrases without a key
        self.counts: dict[str, int] = {}

    def _compile(self) -> tuple[re.Pattern[bytes], re.Pattern[bytes]] | None:
        """The expressions for the keys in bytes as they are, and in those of a normal form; None without keys."""
        forms = [_expression(text) for text in sorted(self._secrets, key=len, reverse=True)]
        forms += [_NOT_PLAIN.sub(_expression_of_match, form) for form in sorted(self._encoded, key=len, reverse=True)]
        if not forms:
            return None
        return re.compile(b"|".join(forms)), re.compile(b"|".join(map(_expression_of_form, self._forms)))

    def _patterns(self) -> tuple[re.Pattern[bytes], re.Pattern[bytes]] | None:
        if self._expressions is None and self._texts:
            self._expressions = self._compile()
        return self._expressions

    def holds(self, data: bytes) -> bool:
        """True if these bytes contain a key."""
        find = data.find  # twice as fast as `in`
        for text in self._texts:
            if find(text) >= 0:
                return self._found(data)
        return (find(b"%") >= 0 or find(b"\\") >= 0 or find(b"&") >= 0) and self._holds_escaped(data)

    def _found(self, data: bytes) -> bool:
        patterns = self._patterns()
        return patterns is not None and patterns[0].search(data) is not None

    def _holds_escaped(self, data: bytes) -> bool:
        plain = _normalised(data)
        if not any(form in plain for form in self._forms):
            return False
        patterns = self._patterns()
        return patterns is not None and (patterns[0].search(data) is not None or patterns[1].search(plain) is not None)

    def clean(self, response: ResponseHead) -> None:
        """Remove the keys from a head."""
        if not self._known.issuperset(response.keep):
            response.keep = [line for line in map(self.line, response.keep) if line]
        if response.reason not in self._known:
            response.reason = self._reason(response.reason)
        if response.upgrade is not None and self.holds(response.upgrade):
            self._count("Upgrade")
            response.upgrade = None
        if response.trailer is not None and self.holds(response.trailer):
            self._count("Trailer")
            response.trailer = None

    def _reason(self, reason: bytes) -> bytes:
        if not self.holds(reason):
            self._remember(reason)
            return reason
        self._count("the reason phrase")
        return b""

    def _remember(self, text: bytes) -> None:
        """Note that a line or reason phrase contains no key: most of them come again with the next response."""
        if len(text) <= MAX_KNOWN_BYTES:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known.add(text)

    def line(self, line: bytes) -> bytes:
        """The field line to forward; b"" if it is dropped."""
        if line in self._known:
            return line
        if not self.holds(line) and not (self._has_placeholders and self._without_added_parameter(line) != line):
            self._remember(line)
            return line
        name, colon, value = line.partition(b":")
        hidden = not colon or self.holds(name)
        self._count("a field's name" if hidden else name.decode("latin-1"))
        shorter = name + colon + self._without_added_parameter(value)
        return b"" if hidden or self.holds(shorter) else shorter

    def _count(self, name: str) -> None:
        name = name if name in self.counts or len(self.counts) < MAX_NAMES else "others"
        self.counts[name] = self.counts.get(name, 0) + 1

    def pop_counts(self) -> dict[str, int]:
        """Return and reset the counts."""
        counts = self.counts
        if counts:
            self.counts = {}
        return counts

    def _without_added_parameter(self, text: bytes) -> bytes:
        """The text with the parameter that relayd added cut out of its URLs."""
        parts: list[bytes] = []
        done = 0
        for match in _PARAMETER.finditer(text) if self._values else ():
            value = match[3]
            if unquote_to_bytes(match[2]).lower() not in self._names:
                continue
            if {unquote_to_bytes(value), unquote_to_bytes(value.replace(b"+", b" "))}.isdisjoint(self._values):
                continue
            parts += (text[done : match.start()], b"?" if match[1] == b"?" else b"")
            done = match.end()
        if not parts:
            return text
        return _LEFT_OVER.sub(lambda left: b"?" if left[1] else b"", b"".join([*parts, text[done:]]))

    def text(self, text: str) -> str:
        """A message with every key masked."""
        return self.body(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def body(self, data: bytes) -> bytes:
        """The body of an error with every key masked; masked as a whole if it contains a key with mixed escapes."""
        if not self.holds(data) or (patterns := self._patterns()) is None:
            return data
        masked = patterns[0].sub(MASK.encode(), data)
        return MASK.encode() if self.holds(masked) else masked


def _normalised(data: bytes) -> bytes:
    """The data without percent-encoding, JSON and HTML escapes and backslashes, and with `+` as a space."""
    for _ in range(MAX_DECODES):
        if b"%" not in data:
            break
        data = unquote_to_bytes(data)
    if b"\\u00" in data:
        data = _JSON_ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), data)
    if b"&" in data:
        data = _HTML_ESCAPE.sub(_html_character, data)
    return data.replace(b"\\", b"").replace(b"+", b" ")


def _html_character(match: re.Match[bytes]) -> bytes:
    if match[3]:
        return _NAMED[match[3]]
    code = int(match[1], 16) if match[1] else int(match[2])
    return bytes((code,)) if code < 128 else match[0]


def _secret_texts(value: str) -> Iterator[str]:
    """The secret texts in a value: the value itself, the part after a scheme, and decoded Basic credentials."""
    yield value
    scheme, blank, rest = value.partition(" ")
    if not blank or not re.fullmatch(r"[A-Za-z0-9._~+-]{2,20}", scheme):
        return
    rest = rest.strip()
    yield rest
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(rest + "=" * (-len(rest) % 4), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            return
        yield pair
        yield pair.partition(":")[2]


def _is_secret(text: str) -> bool:
    return len(text) >= MIN_CHARS and text.lower() not in PLACEHOLDERS


def _base64_forms(text: str) -> Iterator[bytes]:
    """The base64 forms (RFC 4648 4, 5) of a text at each offset modulo three, without the characters that depend on
    adjacent bytes."""
    raw = text.encode()[:MAX_KEY_BYTES]
    if len(raw) < MIN_SUBSTRING_CHARS:
        if len(raw) > 3:  # only complete: parts of it would match by chance
            yield base64.b64encode(raw)
        return
    for lead in range(3):
        encoded = base64.b64encode(b"\0" * lead + raw)
        start, end = (0, 2, 3)[lead], (lead + len(raw)) * 8 // 6
        form = encoded[start:end]
        yield from {form, form.replace(b"+", b"-").replace(b"/", b"_")}


_NOT_PLAIN = lazy_regex(rb"[^A-Za-z0-9]")


def _expression_of_match(match: re.Match[bytes]) -> bytes:
    return _expression_of_byte(match[0][0])


def _expression_of_byte(byte: int) -> bytes:
    """A regular expression for one byte: literal, percent-encoded, or escaped as in JSON."""
    two = b"".join(b"[%b%b]" % (digit.lower(), digit) for digit in (b"%X" % (byte >> 4), b"%X" % (byte & 15)))
    forms = [re.escape(bytes([byte])), rb"%(?:25){0,3}" + two, rb"\\+u00" + two]
    if byte in b'"\\/':
        forms.insert(0, rb"\\+" + re.escape(bytes([byte])))
    if byte == 0x20:
        forms.append(rb"\+")
    return b"(?:" + b"|".join(forms) + b")"


def _expression_of_form(form: bytes) -> bytes:
    """A regular expression for a normal form; a form shorter than MIN_SUBSTRING_CHARS matches only complete words."""
    found = re.escape(form)
    if len(form) < MIN_SUBSTRING_CHARS:
        found = rb"(?<![A-Za-z0-9])" + found if form[:1].isalnum() else found
        found += rb"(?![A-Za-z0-9])" if form[-1:].isalnum() else b""
    return found


def _expression(text: str) -> bytes:
    """A regular expression for a text in which any character may be percent-encoded or escaped as in JSON."""
    raw = text.encode()
    parts = [_expression_of_byte(byte) for byte in raw[:MAX_KEY_BYTES]]
    found = b"".join(parts)
    if len(raw) > MAX_KEY_BYTES:
        found += rb"[!-~]*"
    if len(raw) < MIN_SUBSTRING_CHARS:
        before = _BEFORE if _ALNUM.match(text[0]) else b""
        found = before + found + (rb"(?![A-Za-z0-9])" if _ALNUM.match(text[-1]) else b"")
    return found
