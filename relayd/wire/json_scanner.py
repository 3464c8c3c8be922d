"""Incremental validation of a JSON document. Records the positions that a proxy needs; builds no values.

Rules:
1. The result does not depend on the segmentation: the document is valid JSON in UTF-8 (RFC 8259), or it has a fault.
2. The cost is linear in the bytes. One `step` reads at most STEP_BYTES, so the caller can pause between steps.
3. Memory does not grow with the document: only the nesting and the members of the outermost object are recorded.
4. Values, nesting, members and the length of a number are bounded. A fault names the bound that is exceeded.

The members of the outermost object are read one by one. Nested values are read in bulk by regular expressions: each
string is replaced by one byte (TEXT), each other scalar by another (PLAIN), and whitespace is removed. Then complete
containers, from the innermost outwards, are replaced by PLAIN, until only the brackets of incomplete containers remain.
"""

from __future__ import annotations

import codecs
import collections
import itertools
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in the stubs

from relayd.lazy_regex import lazy_regex

MAX_DEPTH = 64
MOST_MEMBERS = 1024  # of the outermost object; requests of AI APIs have fewer than 50
MOST_VALUES = 1 << 20  # of the whole document; a batch of embeddings can contain some 300,000 tokens
MOST_NUMBER_CHARS = 4300  # the limit of Python for integers; no API needs longer numbers
MOST_KEY_BYTES = 4096  # of a member of the outermost object
STEP_BYTES = 8 * 1024
_FIRST_WINDOW = 512  # bytes of a container in the first bulk read: most containers are short

# Only character sets are repeated possessively: up to Python 3.11.4 a possessively repeated group can match too little.
# Groups need no possessive repetition, because each of them can match a text in one way only.
_BLANK_BYTES = b" \t\r\n"
_INSIDE = rb'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})[^"\\\x00-\x1f]*+)*'
_STRING = b'"' + _INSIDE + b'"'
_SCALAR = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+\-]?[0-9]++)?|true|false|null"
_WORD_BYTES = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-."
_blanks = lazy_regex(rb"[ \t\r\n]*+")
_string = lazy_regex(_STRING)
_inside = lazy_regex(_INSIDE)
_bare_token = lazy_regex(rb"[0-9A-Za-z+\-.]*+")
_scalar = lazy_regex(_SCALAR)
_escape_begins = lazy_regex(rb"\\(?:u[0-9A-Fa-f]{0,3})?")
_whole_strings = lazy_regex(b'(?:[^"]++|' + _STRING + b")*")
# Matches only at the beginning of a token: a search from each of its characters would take quadratic time.
_long_token = lazy_regex(rb"(?<![0-9A-Za-z+\-.])[0-9A-Za-z+\-.]{%d}" % (MOST_NUMBER_CHARS + 1))
_to_text = lazy_regex(_STRING)
_to_plain = lazy_regex(_SCALAR)
_each_bracket = lazy_regex(b"(?:[^\"\\[\\]{}]++|" + _STRING + rb")*[\[\]{}]")
_each_token_bracket = lazy_regex(rb"[^\[\]{}]*+[\[\]{}]")

TEXT, PLAIN = b"\0", b"0"
_SIMPLE = b"[\\x000]"


def _container(value: bytes) -> bytes:
    """An expression for a complete container of such values."""
    member = b"\\x00:" + value
    array = rb"\[(?:" + value + b"(?:," + value + rb")*)?\]"
    return array + rb"|\{(?:" + member + b"(?:," + member + rb")*)?\}"


_FLAT = b"(?:" + _SIMPLE + b"|" + _container(_SIMPLE) + b")"
_reduced = lazy_regex(_container(_FLAT))
_items = lazy_regex(b"(?:" + _SIMPLE + b",)+")
_members = lazy_regex(b"(?:\\x00:" + _SIMPLE + b",)+")
_TOKENS = TEXT + PLAIN + b"[]{},:"
_NO_BRACKETS = TEXT + PLAIN + b",:"
_DELTA = {0x5B: 1, 0x7B: 1, 0x5D: -1, 0x7D: -1}
_OBJECT, _ARRAY = 0x7D, 0x5D  # an open container is represented by its closing bracket
_QUOTE, _COMMA, _COLON = b'",:'

_VALUE, _FIRST_VALUE, _KEY, _FIRST_KEY, _BEFORE_COLON, _NEXT, _END = range(7)


class JsonFault(ValueError):
    """A document is not valid JSON or exceeds a bound. `reason` explains it and contains no byte of the document."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class JsonScanner:
    """Validates one document; owned by the receiver of its pieces.

    `values` counts all values including containers, but not keys. For the outermost object, `spans` has the position of
    the value of each key (the last one if a key is repeated), `repeated` the repeated keys, and `items` the number of
    items of each list.
    """

    __slots__ = (
        "_at", "_begins", "_buffer", "_consumed", "_decode", "_in_string", "_is_ascii", "_key", "_members", "_pieces",
        "_stack", "_state", "_window", "is_object", "items", "most_values", "repeated", "size", "spans", "values",
    )

    def __init__(self, most_values: int = MOST_VALUES) -> None:
        self.most_values = most_values
        self.size = 0  # bytes received
        self.values = 0
        self.is_object = False
        self.spans: dict[str, tuple[int, int]] = {}
        self.repeated: set[str] = set()
        self.items: dict[str, int] = {}
        self._pieces: collections.deque[bytes] = collections.deque()
        self._at = 0  # bytes of the first piece that are processed
        self._buffer = b""  # the beginning of an incomplete token
        self._consumed = 0  # bytes before the buffer
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._is_ascii = True  # the last byte was ASCII
        self._in_string = False
        self._stack = bytearray()
        self._state = _VALUE
        self._key = ""
        self._members = self._begins = 0
        self._window = _FIRST_WINDOW

    # ---- input

    def feed(self, piece: bytes) -> None:
        """Add the next piece; `step` processes it."""
        if piece:
            self._pieces.append(piece)
            self.size += len(piece)

    @property
    def pending(self) -> bool:
        """True if bytes remain for `step`."""
        return bool(self._pieces)

    def step(self) -> None:
        """Process the next STEP_BYTES. Raises JsonFault."""
        if not self._pieces:
            return
        piece, start = self._pieces[0], self._at
        end = self._at = start + STEP_BYTES
        if end >= len(piece):
            self._pieces.popleft()
            self._at = 0
        data = piece if start == 0 and end >= len(piece) else piece[start:end]
        self._check_encoding(data)
        self._scan(data, False)

    def end(self) -> None:
        """Finish the document; called after the last step. Raises JsonFault."""
        try:
            self._decode(b"", True)
        except UnicodeDecodeError:
            raise JsonFault("it is not valid UTF-8") from None
        self._scan(b"", True)
        if self._state != _END:
            raise JsonFault("it is truncated" if self.size else "it is empty")

    def _check_encoding(self, data: bytes) -> None:
        if not self._consumed and not self._buffer and data.startswith((b"\xef", b"\xff\xfe", b"\xfe\xff")):
            raise JsonFault("it begins with a byte order mark")
        if TEXT in data:
            raise JsonFault("it is not UTF-8, or contains null bytes")
        if self._is_ascii and data.isascii():
            return
        try:
            self._decode(data)
        except UnicodeDecodeError:
            raise JsonFault("it is not valid UTF-8") from None
        self._is_ascii = data[-1] < 0x80

    # ---- bytes

    def _scan(self, data: bytes, final: bool) -> None:
        buffer = self._buffer + data if self._buffer else data
        position, size = 0, len(buffer)
        while position < size:
            if self._in_string:
                after = self._rest_of_string(buffer, position, final)
            elif len(self._stack) > self.is_object:
                after = self._bulk(buffer, position, final)
            else:
                position = _blanks.match(buffer, position).end()  # type: ignore[union-attr]  # always matches
                if position == size:
                    break
                after = self._outermost(buffer, position, final)
            if after < 0:  # the token continues in the next piece
                position = -1 - after
                break
            position = after
        self._buffer = buffer[position:]
        self._consumed += position

    def _rest_of_string(self, buffer: bytes, position: int, final: bool) -> int:
        end = _inside.match(buffer, position).end()  # type: ignore[union-attr]  # always matches
        if end < len(buffer) and buffer[end] == _QUOTE:
            self._in_string = False
            self._tokens(TEXT, end + 1)
            return int(end) + 1
        self._check_cut(buffer, end, final)
        return -1 - int(end)

    def _check_cut(self, buffer: bytes, end: int, final: bool) -> None:
        """Raise JsonFault unless a string that is incomplete here can continue in the next piece."""
        if end < len(buffer):
            if buffer[end] < 0x20:
                raise JsonFault("a string contains an unescaped control character")
            if final or _escape_begins.fullmatch(buffer, end) is None:
                raise JsonFault("a string contains an invalid escape")

    def _invalid(self, position: int) -> JsonFault:
        return JsonFault(f"it is not valid at or after byte {self._consumed + position + 1}")

    # ---- outside of all containers, and in the outermost object

    def _outermost(self, buffer: bytes, position: int, final: bool) -> int:
        code, state = buffer[position], self._state
        if state == _END:
            raise JsonFault("it continues after its end")
        if state in (_KEY, _FIRST_KEY) and code == _QUOTE:
            return self._outermost_key(buffer, position, final)
        if state == _BEFORE_COLON and code == _COLON:
            self._state = _VALUE
        elif state == _NEXT and code == _COMMA:
            self._state = _KEY
        elif code == _OBJECT and state in (_NEXT, _FIRST_KEY):
            self._stack.pop()
            self._state = _END
        elif state == _VALUE:
            return self._outermost_value(buffer, position, final)
        else:
            raise self._invalid(position)
        return position + 1

    def _outermost_key(self, buffer: bytes, position: int, final: bool) -> int:
        string = _string.match(buffer, position)
        end = len(buffer) if string is None else string.end()
        if end - position > MOST_KEY_BYTES:
            raise JsonFault(f"a key has more than {MOST_KEY_BYTES} bytes")
        if string is None:
            self._check_cut(buffer, _inside.match(buffer, position + 1).end(), final)  # type: ignore[union-attr]
            return -1 - position
        self._members += 1
        if self._members > MOST_MEMBERS:
            raise JsonFault(f"it has more than {MOST_MEMBERS} members")
        key: str = scanstring(string[0].decode("utf-8"), 1, True)[0]
        if key in self.spans:
            self.repeated.add(key)
            self.items.pop(key, None)
        self._key, self._state = key, _BEFORE_COLON
        return end

    def _outermost_value(self, buffer: bytes, position: int, final: bool) -> int:
        code = buffer[position]
        if code == _QUOTE:
            self._count(1)
            self._begins, self._in_string = self._consumed + position, True
            return position + 1
        if code in b"[{":
            self._count(1)
            self._begins, self._window = self._consumed + position, _FIRST_WINDOW
            if self._stack and code == 0x5B:
                self.items[self._key] = 0
            elif not self._stack:
                self.is_object = code == 0x7B
            self._open(code)
            return position + 1
        end = _bare_token.match(buffer, position).end()  # type: ignore[union-attr]  # always matches
        if end - position > MOST_NUMBER_CHARS:
            raise JsonFault(f"it contains a number of more than {MOST_NUMBER_CHARS} characters")
        if end == len(buffer) and end > position and not final:
            return -1 - position
        if _scalar.fullmatch(buffer, position, end) is None:
            raise _no_value(buffer[position:end]) or self._invalid(position)
        self._count(1)
        self._begins = self._consumed + position
        self._tokens(PLAIN, end)
        return int(end)

    # ---- in bulk

    def _bulk(self, buffer: bytes, position: int, final: bool) -> int:
        """Read the next part of a container, up to its last complete token. Returns the new position."""
        size = len(buffer)
        stop = min(size, position + self._window)
        chunk = buffer[position:stop]
        end = _whole_strings.match(chunk).end()  # type: ignore[union-attr]  # always matches
        cut = end < len(chunk)
        if not cut and not (final and stop == size):
            end = len(chunk.rstrip(_WORD_BYTES))
            if not end and stop == size:
                if len(chunk) > MOST_NUMBER_CHARS:
                    raise JsonFault(f"it contains a number of more than {MOST_NUMBER_CHARS} characters")
                if self._window >= len(chunk):
                    return -1 - position
        self._window = min(self._window * 4, STEP_BYTES + MOST_NUMBER_CHARS) if end else size
        whole = chunk[:end]
        tokens = self._tokenised(whole, position)
        closes = self._closes_at(tokens)
        if closes:
            end = next(itertools.islice(_each_bracket.finditer(whole), closes - 1, None)).end()
            tokens = tokens[: next(itertools.islice(_each_token_bracket.finditer(tokens), closes - 1, None)).end()]
        number = tokens.count
        self._count(number(TEXT) + number(PLAIN) + number(b"[") + number(b"{") - number(b":"))
        self._tokens(tokens, position + end)
        if cut and not closes:
            self._count(1)
            self._in_string = True
            return position + end + 1
        return position + end

    def _tokenised(self, whole: bytes, position: int) -> bytes:
        tokens = _to_text.sub(TEXT, whole)
        if _long_token.search(tokens) is not None:
            raise JsonFault(f"it contains a number of more than {MOST_NUMBER_CHARS} characters")
        tokens = _to_plain.sub(PLAIN, tokens).translate(None, _BLANK_BYTES)
        rest = tokens.translate(None, _TOKENS)
        if rest:
            raise _no_value(rest) or self._invalid(position)
        return tokens

    def _closes_at(self, tokens: bytes) -> int:
        """The number, from 1, of the bracket that closes the member's container; 0 if none does. Raises JsonFault."""
        brackets = tokens.translate(None, _NO_BRACKETS)
        depth = len(self._stack)
        closing = brackets.count(b"]") + brackets.count(b"}")
        if closing < depth - self.is_object and depth + len(brackets) - closing <= MAX_DEPTH:
            return 0
        for number, now in enumerate(itertools.accumulate(map(_DELTA.__getitem__, brackets), initial=depth)):
            if now == self.is_object:
                return number
            if now > MAX_DEPTH:
                raise JsonFault(f"it is nested more than {MAX_DEPTH} levels deep")
        return 0

    # ---- tokens

    def _count(self, number: int) -> None:
        self.values += number
        if self.values > self.most_values:
            raise JsonFault(f"it contains more than {self.most_values} values")

    def _tokens(self, tokens: bytes, end: int) -> None:
        """Check the order of tokens; `end` is the position in the buffer after the last token. Raises JsonFault."""
        changed = len(tokens) - 1
        while changed > 0:
            tokens, changed = _reduced.subn(PLAIN, tokens)
        position, size, stack = 0, len(tokens), self._stack
        while position < size:
            code, state = tokens[position], self._state
            if code == 0x30 or not code:
                run = None
                if state in (_NEXT, _END) or not stack:
                    if stack or state != _VALUE:
                        raise self._invalid(end)
                elif stack[-1] == _ARRAY:
                    run = _items.match(tokens, position)
                elif state in (_KEY, _FIRST_KEY):
                    if code:
                        raise self._invalid(end)
                    run = _members.match(tokens, position)
                if run is not None:
                    self._listed(tokens.count(b",", position, run.end()))
                    position, self._state = run.end(), _VALUE if stack[-1] == _ARRAY else _KEY
                    continue
                if stack and stack[-1] == _OBJECT and state in (_KEY, _FIRST_KEY):
                    self._state = _BEFORE_COLON
                elif state == _BEFORE_COLON:
                    raise self._invalid(end)
                else:
                    self._listed(1)
                    self._ended(end)
            else:
                self._bracket(code, state, end)
            position += 1

    def _bracket(self, code: int, state: int, end: int) -> None:
        stack = self._stack
        if code == _COMMA and state == _NEXT:
            self._state = _VALUE if stack[-1] == _ARRAY else _KEY
        elif code == _COLON and state == _BEFORE_COLON:
            self._state = _VALUE
        elif code in b"[{" and state in (_VALUE, _FIRST_VALUE):
            self._listed(1)
            self._open(code)
        elif code in b"]}" and code == stack[-1] and state in (_NEXT, _FIRST_VALUE if code == _ARRAY else _FIRST_KEY):
            stack.pop()
            self._ended(end)
        else:
            raise self._invalid(end)

    def _open(self, code: int) -> None:
        self._stack.append(_OBJECT if code == 0x7B else _ARRAY)
        self._state = _FIRST_KEY if code == 0x7B else _FIRST_VALUE

    def _listed(self, number: int) -> None:
        """Count items if the current container is a list in the outermost object."""
        if len(self._stack) == 2 and self.is_object and self._stack[1] == _ARRAY:
            self.items[self._key] += number

    def _ended(self, end: int) -> None:
        """Record the end of a value."""
        depth = len(self._stack)
        if depth == 1 and self.is_object:
            self.spans[self._key] = (self._begins, self._consumed + end)
        self._state = _NEXT if depth else _END


def _no_value(token: bytes) -> JsonFault | None:
    """The fault for a constant that JavaScript and Python accept but JSON does not."""
    for name in ("NaN", "Infinity"):
        if token.lstrip(b"-").startswith(name.encode()):
            return JsonFault(f"it contains {name}, which is not a JSON value")
    return None


def scanned(document: bytes) -> JsonScanner:
    """Scan a whole document at once. Raises JsonFault."""
    scanner = JsonScanner()
    scanner.feed(document)
    while scanner.pending:
        scanner.step()
    scanner.end()
    return scanner
