"""Keys that relayd adds for an upstream never come back: they are taken out of its response heads and errors.

Laws:
1. A key is found as it is and in base64 at any offset, so that also `user:key` in base64 is found; both also
   percent-encoded in any case and up to DECODED times, with JSON's escapes and with those of HTML.
2. A field that holds a key is left out, because its masked value would mean something else (a relative Location, a
   cookie). Only the parameter that relayd itself has added to a query is cut out of a URL, and the rest of the field
   goes on.
3. A head without a key costs a few searches for a fixed text: 1.2 microseconds, 5 where it has escapes. The
   expressions, which alone decide, run only where one of them has found something.
4. A word that people write where no key is needed (`none`, `EMPTY`) is no secret, nor is what has less than four
   characters; of these only the parameter is cut out. A key of less than eight characters counts only where no letter
   or digit stands beside it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote_to_bytes

from relayd.wire.response import ResponseHead

MASK = "***"
MIN_CHARS, MIN_SUBSTRING_CHARS = 4, 8  # characters of a secret; and of one that is found inside of words too
MAX_KEY_BYTES = 512  # bytes of a key that are looked for
MAX_DECODES = 4  # times that percent-encoding is taken away
MAX_NAMES = 16  # field names that are counted apart
PLACEHOLDERS = frozenset(
    ("none", "null", "empty", "dummy", "fake", "unused", "test", "demo", "placeholder", "token", "apikey", "api-key",
     "api_key", "no-key", "nothing", "anything", "ollama", "vllm", "local", "localhost", "lm-studio", "llama", "openai",
     "true", "false", "user", "admin", "pass", "password")
)
_PARAMETER = re.compile(rb"([?&;])([^=&;?#\s\"'<>]*)=([^&;#\s\"'<>]*)")
_LEFT_OVER = re.compile(rb"(\?[&;]+(?=[^&;#\s\"'<>]))|\?[&;]*(?=[#\s\"'<>]|\Z)")
# No letter or digit stands before, or only one that belongs to an escape.
_BEFORE = (
    rb"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f][0-9A-Fa-f])|(?<=%25[0-9A-Fa-f][0-9A-Fa-f])"
    rb"|(?<=\\u00[0-9A-Fa-f][0-9A-Fa-f])|(?<=\\[nrt]))"
)
_ALNUM = re.compile(r"[A-Za-z0-9]")
_JSON_ESCAPE = re.compile(rb"\\+u00([0-7][0-9A-Fa-f])")
_HTML_ESCAPE = re.compile(rb"&(?:#(?:[xX]([0-9A-Fa-f]{1,6})|([0-9]{1,6}))|(amp|quot|apos|lt|gt|plus|sol|equals));")
_NAMED = {
    b"amp": b"&", b"quot": b'"', b"apos": b"'", b"lt": b"<", b"gt": b">", b"plus": b"+", b"sol": b"/", b"equals": b"=",
}


class KeyFilter:
    """The keys of one upstream; owned by an endpoint. `seen` counts by field name what was taken out."""

    __slots__ = ("_forms", "_has_placeholders", "_names", "_pattern", "_plain", "_texts", "_values", "counts")

    def __init__(self, keys: Iterable[tuple[str, str, str]]) -> None:
        """`keys` are kind (bearer, header or query), name of the field or parameter, and value."""
        given = list(keys)
        self._names = frozenset(name.lower().encode() for kind, name, _ in given if kind == "query")
        self._values = frozenset(value.encode() for kind, _, value in given if kind == "query")
        self._has_placeholders = any(not _is_secret(value) for kind, _, value in given if kind == "query")
        texts = {text for _, _, value in given for text in _secret_texts(value) if _is_secret(text)}
        encoded = {form for text in texts for form in _base64_forms(text)}
        self._texts = tuple(sorted({text.encode()[:MAX_KEY_BYTES] for text in texts} | encoded))
        self._forms = tuple(sorted({_normalised(text) for text in self._texts}))
        forms = [_expression(text) for text in sorted(texts, key=len, reverse=True)]
        forms += [_NOT_PLAIN.sub(_each_form, form) for form in sorted(encoded, key=len, reverse=True)]
        self._pattern = re.compile(b"|".join(forms)) if forms else None
        self._plain = re.compile(b"|".join(map(_whole_word, self._forms))) if forms else None
        self.counts: dict[str, int] = {}

    def holds(self, data: bytes) -> bool:
        """Whether some key stands in these bytes."""
        for text in self._texts:
            if text in data:
                return self._found(data)
        return (b"%" in data or b"\\" in data or b"&" in data) and self._holds_escaped(data)

    def _found(self, data: bytes) -> bool:
        return self._pattern is not None and self._pattern.search(data) is not None

    def _holds_escaped(self, data: bytes) -> bool:
        plain = _normalised(data)
        if not any(form in plain for form in self._forms):
            return False
        return self._found(data) or (self._plain is not None and self._plain.search(plain) is not None)

    def needs_cleaning(self, head: bytes) -> bool:
        """Whether `clean` has something to do for a response with this header section."""
        return self.holds(head) or (self._has_placeholders and self._without_added_parameter(head) != head)

    def clean(self, response: ResponseHead) -> None:
        """Take the keys out of a head."""
        if self.holds(response.reason):
            self._count("the reason phrase")
            response.reason = b""
        if response.upgrade is not None and self.holds(response.upgrade):
            self._count("Upgrade")
            response.upgrade = None
        if response.trailer is not None and self.holds(response.trailer):
            self._count("Trailer")
            response.trailer = None
        response.keep = [line for one in response.keep if (line := self.line(one))]

    def line(self, line: bytes) -> bytes:
        """A field line as it may go on; b"" where it may not."""
        if not self.needs_cleaning(line):
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
        """What was counted since the last time."""
        counts = self.counts
        if counts:
            self.counts = {}
        return counts

    def _without_added_parameter(self, text: bytes) -> bytes:
        """URLs without the parameter that relayd has added."""
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
        """The bytes of an error with every key masked; the whole of it where a key is written in some mixed way."""
        if self._pattern is None or not self.holds(data):
            return data
        masked = self._pattern.sub(MASK.encode(), data)
        return MASK.encode() if self.holds(masked) else masked


def _normalised(data: bytes) -> bytes:
    """Without percent-encoding, JSON's and HTML's escapes, and the two ways to write a blank."""
    for _ in range(MAX_DECODES):
        if b"%" not in data:
            break
        data = unquote_to_bytes(data)
    if b"\\u00" in data:
        data = _JSON_ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), data)
    if b"&" in data:
        data = _HTML_ESCAPE.sub(_of_html, data)
    return data.replace(b"\\", b"").replace(b"+", b" ")


def _of_html(match: re.Match[bytes]) -> bytes:
    if match[3]:
        return _NAMED[match[3]]
    code = int(match[1], 16) if match[1] else int(match[2])
    return bytes((code,)) if code < 128 else match[0]


def _secret_texts(value: str) -> Iterator[str]:
    """The secret texts in a stored value: the value, what follows a scheme, and what Basic credentials say."""
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
    """What base64 (RFC 4648 4, 5) makes of a text wherever it begins in three bytes, without what depends on its
    neighbours."""
    raw = text.encode()[:MAX_KEY_BYTES]
    if len(raw) < MIN_SUBSTRING_CHARS:
        if len(raw) > 3:  # only as a whole: parts of it would be found by chance
            yield base64.b64encode(raw)
        return
    for lead in range(3):
        encoded = base64.b64encode(b"\0" * lead + raw)
        start, end = (0, 2, 3)[lead], (lead + len(raw)) * 8 // 6
        form = encoded[start:end]
        yield from {form, form.replace(b"+", b"-").replace(b"/", b"_")}


_NOT_PLAIN = re.compile(rb"[^A-Za-z0-9]")


def _each_form(match: re.Match[bytes]) -> bytes:
    return _forms_of(match[0][0])


def _forms_of(byte: int) -> bytes:
    """An expression for one byte as it is, percent-encoded, or escaped as JSON may do it."""
    two = b"".join(b"[%b%b]" % (digit.lower(), digit) for digit in (b"%X" % (byte >> 4), b"%X" % (byte & 15)))
    forms = [re.escape(bytes([byte])), rb"%(?:25){0,3}" + two, rb"\\+u00" + two]
    if byte in b'"\\/':
        forms.insert(0, rb"\\+" + re.escape(bytes([byte])))
    if byte == 0x20:
        forms.append(rb"\+")
    return b"(?:" + b"|".join(forms) + b")"


def _whole_word(form: bytes) -> bytes:
    """An expression for a normal form, which inside of a word counts only from WHOLE characters on."""
    found = re.escape(form)
    if len(form) < MIN_SUBSTRING_CHARS:
        found = rb"(?<![A-Za-z0-9])" + found if form[:1].isalnum() else found
        found += rb"(?![A-Za-z0-9])" if form[-1:].isalnum() else b""
    return found


def _expression(text: str) -> bytes:
    """An expression for a text in which every character may be percent-encoded, or escaped as JSON may do it."""
    raw = text.encode()
    parts = [_forms_of(byte) for byte in raw[:MAX_KEY_BYTES]]
    found = b"".join(parts)
    if len(raw) > MAX_KEY_BYTES:
        found += rb"[!-~]*"
    if len(raw) < MIN_SUBSTRING_CHARS:
        before = _BEFORE if _ALNUM.match(text[0]) else b""
        found = before + found + (rb"(?![A-Za-z0-9])" if _ALNUM.match(text[-1]) else b"")
    return found
