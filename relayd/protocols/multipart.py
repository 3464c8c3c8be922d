"""The `model` field of a multipart/form-data body, found while the body passes (RFC 7578, RFC 2046 5.1).

Audio and image requests carry their model in a form beside files of any size. Only the header of a part, the value of
that one field and a possible partial delimiter are buffered.

Laws:
1. Only the model's name and a possible partial delimiter are kept.
2. A form that two parsers could read in two ways is an error: characters after the boundary, delimiters and header
   lines after a bare CR or LF, two names for one part, data before the first delimiter or after the last one.
3. At most one field may be read as the model, and its name has one spelling: a second field, a similar name, a file of
   that name, or an encoding of its value is an error.
4. The result does not depend on how the input is split; the cost is linear in its length, and a form of more than
   MOST_PARTS parts is an error, because a part of a few bytes costs as much as a large one. Servers have the same limit
   (1,000 fields in Django, Werkzeug, Starlette and Go).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from urllib.parse import unquote

from relayd.lazy_regex import lazy_regex
from relayd.wire.body import folded

MOST_HEADER_BYTES = 16 * 1024  # of one part
MOST_VALUE_BYTES = 1024  # of a model's name
MOST_PADDING_BYTES = 64
MOST_PARTS = 1000

_FORM = lazy_regex(r"multipart/form-data[ \t]*;(.*)", re.IGNORECASE | re.DOTALL)
_PARAMETER = lazy_regex(
    r"[ \t]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*=[ \t]*(?:\"((?:[^\"\\\r\n]|\\[^\r\n])*)\"|([^\s;\"]*))[ \t]*(?:;|$)"
)
_OF_FILES = lazy_regex(r"filename\*", re.IGNORECASE)
_ESCAPED = lazy_regex(r"\\(.)")
_BOUNDARY = lazy_regex(r"[0-9A-Za-z'()+_,\-./:=? ]{0,199}[0-9A-Za-z'()+_,\-./:=?]")
_END_OF_LINE = lazy_regex(rb"[ \t]*\r\n")
_PLAIN_TEXT = lazy_regex(r"text/plain(?:\s*;\s*charset=\"?(?:utf-8|us-ascii)\"?)?", re.IGNORECASE)
_NO_CODING = ("7bit", "8bit", "binary")


class MultipartError(ValueError):
    """The body is not an acceptable form. `rule` is a stable identifier of the violated rule."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


def boundary_of(content_type: str) -> bytes | None:
    """The boundary in a Content-Type; None for another media type and for a missing or ambiguous boundary."""
    form = _FORM.fullmatch(content_type.strip())
    if form is None:
        return None
    parameters = _parameters(form[1])
    boundary = None if parameters is None else parameters.get("boundary")
    return boundary.encode("ascii") if boundary is not None and _BOUNDARY.fullmatch(boundary) else None


def _parameters(text: str) -> dict[str, str] | None:
    """Parse a list of `; name=value`; None if it is malformed or repeats or splits a name (RFC 2231 3)."""
    found: dict[str, str] = {}
    position = 0
    end = len(text) - 1 if text.endswith(";") else len(text.rstrip())  # blanks or one more semicolon may follow
    while position < end:
        match = _PARAMETER.match(text, position)
        if match is None or match[1].lower() in found or ("*" in match[1] and not _OF_FILES.match(match[1])):
            return None
        found[match[1].lower()] = match[3] if match[2] is None else _ESCAPED.sub(r"\1", match[2])
        position = match.end()
    return found


class _Kind(Enum):
    """The kind of a piece of the body."""

    STRUCTURE = auto()  # before, between and after values: delimiters, headers
    VALUE = auto()  # of a part other than the model
    MODEL = auto()  # the value of a field `model`
    MODEL_END = auto()


class _State(Enum):
    VALUE = auto()
    DELIMITER = auto()
    HEADER = auto()
    EPILOGUE = auto()


class _Splitter:
    """Splits a body into pieces whose concatenation is the body; owned by a ModelFinder."""

    __slots__ = (
        "_buffer", "_delimiter", "_has_delimiter", "_has_model", "_is_at_start", "_is_model", "_parts", "_search",
        "_state",
    )  # fmt: skip

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        dashed = re.escape(b"--" + boundary)
        self._search = re.compile(rb"(\r\n%b)|[\r\n]%b" % (dashed, dashed)).search
        # The body may begin with the first delimiter: the buffer begins with a line end that the client did not send.
        self._buffer = bytearray(b"\r\n")
        self._is_at_start = True
        self._state = _State.VALUE  # data before the first part is skipped like a value
        self._has_delimiter = self._is_model = self._has_model = False
        self._parts = 0

    @property
    def is_complete(self) -> bool:
        """Whether the closing delimiter was found."""
        return self._state is _State.EPILOGUE

    def split(self, data: bytes) -> Iterator[tuple[_Kind, bytes]]:
        """The pieces that are complete so far. Raises MultipartError."""
        self._buffer += data
        while self._buffer:
            if self._state is _State.VALUE:
                yield from self._value()
                if self._state is _State.VALUE:
                    return
            elif self._state is _State.DELIMITER:
                if not self._has_whole_delimiter():
                    return
                yield _Kind.STRUCTURE, self._consume(self._delimiter_end)
            elif self._state is _State.HEADER:
                end = self._header_end()
                if end < 0:
                    return
                self._parts += 1
                if self._parts > MOST_PARTS:
                    raise MultipartError("parts")
                self._is_model = _is_model(bytes(self._buffer[:end]))
                if self._is_model and self._has_model:
                    raise MultipartError("repeated_model")
                self._has_model = self._has_model or self._is_model
                self._state = _State.VALUE
                yield _Kind.STRUCTURE, self._consume(end)
            else:
                if self._buffer.strip(b" \t\r\n"):
                    raise MultipartError("behind_end")
                yield _Kind.STRUCTURE, self._consume(len(self._buffer))

    def finish(self) -> None:
        """Raises MultipartError if the closing delimiter is missing."""
        if not self.is_complete:
            raise MultipartError("cut")

    def _consume(self, count: int) -> bytes:
        consumed = bytes(self._buffer[:count])
        del self._buffer[:count]
        if self._is_at_start and consumed:
            self._is_at_start = False
            return consumed[2:]
        return consumed

    def _value(self) -> Iterator[tuple[_Kind, bytes]]:
        kind = _Kind.MODEL if self._is_model else _Kind.VALUE
        match = self._search(self._buffer)
        safe = self._safe_length() if match is None else match.start()
        if not self._has_delimiter and self._buffer[:safe].strip(b"\r\n"):
            raise MultipartError("before_beginning")
        if match is None:
            if safe:
                yield kind, self._consume(safe)
            return
        self._has_delimiter = True
        found = match.start()
        if match[1] is None:
            raise MultipartError("delimiter")
        if found:
            yield kind, self._consume(found)
        if self._is_model:
            yield _Kind.MODEL_END, b""
        self._is_model = False
        self._state = _State.DELIMITER

    def _safe_length(self) -> int:
        """The number of bytes in the buffer that cannot be the beginning of a delimiter."""
        length = len(self._buffer)
        low = max(0, length - len(self._delimiter) + 1)
        start = max(self._buffer.rfind(b"\r", low), self._buffer.rfind(b"\n", low))
        if start < 0:
            return length
        if start > 0 and self._buffer[start - 1 : start + 1] == b"\r\n":
            start -= 1
        last = bytes(self._buffer[start:])
        dashed = last.lstrip(b"\r\n")
        return start if self._delimiter.startswith(dashed, 2) else length

    def _has_whole_delimiter(self) -> bool:
        """Whether the delimiter's line is complete; sets the state that follows it."""
        at = len(self._delimiter)
        rest = bytes(self._buffer[at : at + MOST_PADDING_BYTES + 2])
        if rest[:2] == b"--":
            self._state = _State.EPILOGUE
            return True
        line = _END_OF_LINE.match(rest)
        if line is not None:
            self._state = _State.HEADER
            return True
        unfinished = rest == b"-" or not rest.removesuffix(b"\r").strip(b" \t")
        if unfinished and len(rest) < MOST_PADDING_BYTES + 2:
            return False
        raise MultipartError("delimiter")

    @property
    def _delimiter_end(self) -> int:
        at = len(self._delimiter)
        if self._state is _State.EPILOGUE:
            return at + 2
        return self._buffer.index(b"\r\n", at) + 2

    def _header_end(self) -> int:
        """The position after the blank line of the part's header; -1 if the header is incomplete."""
        if self._buffer.startswith(b"\r\n"):
            return 2
        end = self._buffer.find(b"\r\n\r\n")
        if (end if end >= 0 else len(self._buffer)) > MOST_HEADER_BYTES:
            raise MultipartError("header_size")
        return -1 if end < 0 else end + 4


def _is_model(header: bytes) -> bool:
    """Whether a part is a plain field of the name `model`. Raises MultipartError if only some parsers would read it as
    one."""
    text = header.decode("latin-1")
    lines = text.split("\r\n")
    if any("\n" in line or "\r" in line or line[:1] in (" ", "\t") for line in lines):
        raise MultipartError("header_line")
    fields = [line.partition(":") for line in lines if line]
    if any(_is_nested(name, value) for name, _, value in fields):
        raise MultipartError("nested")
    found = [field for field in fields if field[0].strip().lower() == "content-disposition"]
    if not found:
        return False
    name, _, value = found[0]
    kind, _, rest = value.partition(";")
    parameters = _parameters(rest)
    if len(found) > 1 or name != name.strip() or parameters is None:
        raise MultipartError("disposition")
    if kind.strip().lower() != "form-data":
        raise MultipartError("disposition")
    field_name = parameters.get("name", "")
    if field_name == "model":
        _require_plain(fields, rest, parameters)
        return True
    if field_name == "_charset_" or field_name.startswith("=?"):
        raise MultipartError("name")
    if any(folded(one) == "model" for one in (field_name, unquote(field_name), field_name.partition("[")[0])):
        raise MultipartError("name")
    return False


def _is_nested(name: str, value: str) -> bool:
    """Whether a part contains parts (RFC 7578 4.3), whose names some readers add to the form's."""
    return name.strip().lower() == "content-type" and value.strip().lower().startswith("multipart/")


def _require_plain(fields: list[tuple[str, str, str]], rest: str, parameters: dict[str, str]) -> None:
    """Require that the model's part is unencoded text. Raises MultipartError."""
    if any(name.startswith("filename") for name in parameters):
        raise MultipartError("model_is_a_file")
    if "\\" in rest:
        raise MultipartError("name")
    for name, _, value in fields:
        low, value = name.strip().lower(), value.strip()
        if low == "content-type" and _PLAIN_TEXT.fullmatch(value) is None:
            raise MultipartError("model_type")
        if low == "content-transfer-encoding" and value.lower() not in _NO_CODING:
            raise MultipartError("model_coding")


class ModelFinder:
    """Finds the model of one form and validates the rest of the form; owned by the exchange."""

    __slots__ = ("_offset", "_splitter", "_value", "model", "value_bytes", "value_offset")

    def __init__(self, boundary: bytes) -> None:
        self._splitter = _Splitter(boundary)
        self._value = bytearray()
        self._offset = 0
        self.model: str | None = None
        self.value_offset = self.value_bytes = 0  # position and length of the model's name in the form

    @property
    def is_complete(self) -> bool:
        """Whether the form has ended: if no model was found, the form has none."""
        return self._splitter.is_complete

    def scan(self, data: bytes) -> str | None:
        """Scan the next bytes. Returns the model, or None if it was not found yet. Raises MultipartError."""
        for kind, piece in self._splitter.split(data):
            if kind is _Kind.MODEL:
                self._value += piece
                if len(self._value) > MOST_VALUE_BYTES:
                    raise MultipartError("value_size")
            elif kind is _Kind.MODEL_END:
                try:
                    self.model = self._value.decode("utf-8")
                except UnicodeDecodeError:
                    raise MultipartError("value") from None
                self.value_bytes = len(self._value)
                self.value_offset = self._offset - self.value_bytes
            self._offset += len(piece)
        return self.model

    def finish(self) -> None:
        """End of the input. Raises MultipartError if the form is incomplete."""
        self._splitter.finish()
