"""Inspection of JSON bodies: finds and replaces members of the outermost object and leaves all other bytes unchanged.

Rules:
1. A body of up to PARSED_BYTES is parsed once, for all queries and for a translation; cached tool lists are recognised
   by their text. A larger body is not parsed: a JsonScanner has scanned its pieces. Both methods give the same results,
   except that only the scanner bounds nesting.
2. A body that parsers can interpret differently is marked: `fault` if it is not a JSON object, `ambiguity` if parsers
   can disagree on which member is its model or its stream, `model_fault` if the model is not a valid name. There are
   parsers that use the first or the last of repeated keys, and parsers that compare keys without case (Go), without
   dashes and underscores (Go's second JSON package) or up to a null byte (C).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in the stubs
from json.scanner import make_scanner
from typing import Any, NoReturn

from relayd.lazy_regex import lazy_regex
from relayd.wire.json_scanner import MAX_DEPTH, MOST_MEMBERS, JsonFault, JsonScanner, scanned
from relayd.wire.tool_list_cache import LISTS

PARSED_BYTES = 256 * 1024  # a larger body is scanned
LONGEST_NAME = 1024  # characters of a model name
_CACHED_BYTES = 1024 * 1024
_MOST_STRING_BYTES = 64 * 1024  # of a requested member of a scanned body
_MOST_DIGITS = 18
_DECISIVE_KEYS = ("model", "stream")
# Common keys are not compared with other keys.
COMMON_KEYS = frozenset((
    "model", "messages", "stream", "stream_options", "tools", "tool_choice", "temperature", "top_p", "max_tokens",
    "max_completion_tokens", "max_output_tokens", "system", "metadata", "stop", "input", "instructions", "store",
    "include", "parallel_tool_calls", "prompt_cache_key", "reasoning", "text", "contents", "thinking", "n", "seed",
    "response_format", "reasoning_effort", "user", "output_config", "context_management", "type",
    "previous_response_id",
    "systemInstruction", "generationConfig", "client_metadata", "service_tier", "options", "prompt", "stop_sequences",
))  # fmt: skip


class JsonBody:
    """The inspection result of one body.

    `spans` are the positions of the values of the outermost object, None for a repeated key; in characters of `text` if
    that is not empty, else in bytes. `value` is the parsed body, None if the body was not parsed or the value was taken
    by `pop_parsed_object`. `scanner` is the scanner of a body that was not parsed.
    """

    __slots__ = ("ambiguity", "body", "fault", "model", "model_fault", "scanner", "spans", "text", "value")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.text = self.fault = self.ambiguity = self.model_fault = ""
        self.value: dict[str, Any] | None = None
        self.spans: dict[str, tuple[int, int] | None] = {}
        self.model: str | None = None
        self.scanner: JsonScanner | None = None

    @property
    def refusal_reason(self) -> str:
        """Why this body must not be used for a decision; empty if all parsers agree on it."""
        return self.fault or self.ambiguity or self.model_fault

    def span(self, key: str) -> tuple[int, int] | None:
        """The position in the bytes of the value of member `key`; None unless it occurs exactly once."""
        span = self.spans.get(key)
        if span is None or not self.text:
            return span
        start, end = span
        begins = len(self.text[:start].encode())
        return begins, begins + len(self.text[start:end].encode())

    def string(self, key: str) -> str | None:
        """The member `key` if it occurs exactly once and is a string, else None."""
        span = self.spans.get(key)
        if span is None:
            return None
        if self.value is not None:
            value = self.value.get(key)
            return value if isinstance(value, str) else None
        if (located := self.span(key)) is None or located[1] - located[0] > _MOST_STRING_BYTES:
            return None
        raw = self.body[located[0] : located[1]]
        return None if raw[:1] != b'"' else str(scanstring(raw.decode("utf-8"), 1, True)[0])

    def flag(self, key: str) -> bool:
        """True if the member `key` occurs exactly once and is `true`."""
        span = self.spans.get(key)
        if span is None:
            return False
        if self.value is not None:
            return self.value.get(key) is True
        return (located := self.span(key)) is not None and self.body[located[0] : located[1]] == b"true"

    def number(self, key: str) -> int | None:
        """The member `key` if it occurs exactly once and is a whole number that is not negative, else None."""
        span = self.spans.get(key)
        if span is None:
            return None
        if self.value is not None:
            value = self.value.get(key)
            return value if value.__class__ is int and value >= 0 else None
        if (located := self.span(key)) is None or located[1] - located[0] > _MOST_DIGITS:
            return None
        raw = self.body[located[0] : located[1]]
        return int(raw) if raw.isdigit() else None

    def find_ambiguities(self, repeated: Iterable[str]) -> None:
        """Set `ambiguity` if parsers can disagree on the members on which relayd's decisions depend."""
        for key in repeated:
            if key in _DECISIVE_KEYS:
                self.ambiguity = f"the key {key} is repeated"
                return
        for key in self.spans:
            if key not in COMMON_KEYS and (folded_key := folded(key)) in _DECISIVE_KEYS:
                self.ambiguity = f"some parsers read another key as {folded_key}"
        if "model" in self.spans:
            model, located = self.string("model"), self.spans["model"]
            if (model is None and located is not None and located[1] - located[0] > _MOST_STRING_BYTES) or (
                model is not None and len(model) > LONGEST_NAME
            ):
                self.model_fault = "model is too long"
                return
            self.model, self.model_fault = model, name_fault(model)


_clean = lazy_regex(r"[!-~]{0,256}")  # nearly every model name


def folded(name: str) -> str:
    """A key as the most lenient parser compares it: without case, up to a null byte, letters and digits only."""
    if len(name) > LONGEST_NAME:
        return name
    name = name.partition("\0")[0].upper().casefold()
    return name if name.isalnum() else "".join(filter(str.isalnum, name))


def name_fault(model: str | None) -> str:
    """Why this value cannot be used as a model name; empty if it can."""
    if model is None:
        return "model is not a string"
    if len(model) > LONGEST_NAME:
        return "model is too long"
    if not model.isprintable() or model != model.strip():
        return "model contains a control character, surrounding whitespace or an unpaired surrogate"
    return ""


# ---- parsed


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"it contains {constant.lstrip('-')}, which is not a JSON value")


DECODER: Any = json.JSONDecoder(parse_constant=_no_constant)  # the stubs lack the decoder's scanner
scan = make_scanner(DECODER)  # returns a value and its end; raises StopIteration if no value begins there
_KEY = r'"([^"\\\x00-\x1f]*)"[ \t\r\n]*:[ \t\r\n]*'  # its group is absent for a key with an escape
_TEXT_OPEN = lazy_regex(rf"[ \t\r\n]*\{{[ \t\r\n]*(?:{_KEY})?")
_TEXT_COLON = lazy_regex(r"[ \t\r\n]*:[ \t\r\n]*")
_TEXT_NEXT = lazy_regex(rf'[ \t\r\n]*(?:,[ \t\r\n]*(?:{_KEY}|(?="))|\}}[ \t\r\n]*\Z)')
_TEXT_CLOSED = lazy_regex(r"[ \t\r\n]*\}[ \t\r\n]*")
_MOST_TURNS = range(MOST_MEMBERS + 1)
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def _parse(found: JsonBody, body: bytes) -> None:
    """Parse a body member by member."""
    try:
        found.fault = _parse_text(found, body.decode("utf-8"))
    except UnicodeDecodeError:
        found.fault = "it is not valid UTF-8"
    except RecursionError:
        found.fault = "it is nested too deeply"
    except (ValueError, StopIteration) as fault:
        known = fault.__class__ is ValueError and str(fault).startswith("it contains")
        found.fault = str(fault) if known else "it is not valid JSON"
    if found.fault and body.startswith(_BYTE_ORDER_MARKS):
        found.fault = "it begins with a byte order mark"


def _parse_text(found: JsonBody, text: str) -> str:
    """Returns a fault or "". Raises ValueError, RecursionError or StopIteration for other faults."""
    value: dict[str, Any] = {}
    spans: dict[str, tuple[int, int] | None] = {}
    repeated: list[str] = []
    size, end, is_empty = len(text), 0, False
    match = _TEXT_OPEN.match(text)
    for _ in _MOST_TURNS:
        if match is None:
            break
        key: str | None = match[1]
        start = match.end()
        if key is None:
            if start == size:
                break
            if text[start] != '"':  # an empty object, or no object
                match, end, is_empty = _TEXT_NEXT.match(text, start), start, text[start] == "}"
                break
            key, position = scanstring(text, start + 1, True)
            match = _TEXT_COLON.match(text, position)
            if match is None:
                break
            start = match.end()
        item, end = scan(text, start) if key != "tools" else _tools(text, start)
        if key in value:
            repeated.append(key)
            spans[key] = None
        else:
            spans[key] = (start, end)
        value[key] = item
        match = _TEXT_NEXT.match(text, end)
    else:
        return f"it has more than {MOST_MEMBERS} members"
    if match is None or match.end() < size or not (value or is_empty):
        return _fault_at(text, end)
    found.value, found.spans, found.text = value, spans, "" if text.isascii() else text
    model = value.get("model")
    if repeated or not COMMON_KEYS.issuperset(spans) or model.__class__ is not str or _clean.fullmatch(model) is None:
        found.find_ambiguities(repeated)
    else:
        found.model = model
    return ""


def _tools(text: str, start: int) -> tuple[Any, int]:
    """The value of `tools` at this position, and its end. Raises like `scan`."""
    known: tuple[Any, int] | None = LISTS.find(text, start)
    if known is not None:
        return known
    item, end = scan(text, start)
    if item.__class__ is list and not is_deeper(item, MAX_DEPTH - 1):
        item = LISTS.store(text, start, end, item)
    return item, end


def _fault_at(text: str, end: int) -> str:
    """The fault of a text of which the members before `end` are valid."""
    if not text.strip(" \t\r\n"):
        return "it is empty"
    if _TEXT_OPEN.match(text) is None:
        return "it is not a JSON object"
    closed = _TEXT_CLOSED.match(text, end) if end else None
    is_whole = closed is not None and closed.end() < len(text)
    return "it continues after its end" if is_whole else "it is not valid JSON"


def is_deeper(value: Any, levels: int) -> bool:
    """True if a value nests more than `levels` objects and lists."""
    found = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        if not found:
            return False
        found = [
            child
            for item in found
            for child in (item.values() if item.__class__ is dict else item)
            if child.__class__ is not str and (child.__class__ is dict or child.__class__ is list)
        ]
    return bool(found)


# ---- scanned


def inspect_scanned(body: bytes, scanner: JsonScanner | None, fault: str = "") -> JsonBody:
    """The result of a scanner. With a `fault`, the scanner may have read only the beginning of the body."""
    found = JsonBody(body)
    found.scanner = scanner or JsonScanner()
    if scanner is None or fault or not scanner.is_object:
        found.fault = fault or "it is not a JSON object"
        return found
    found.spans = {key: None if key in scanner.repeated else span for key, span in scanner.spans.items()}
    found.find_ambiguities(scanner.repeated)
    return found


def _scan_all(body: bytes) -> JsonBody:
    try:
        return inspect_scanned(body, scanned(body))
    except JsonFault as fault:
        return inspect_scanned(body, None, fault.reason)


# ---- the cache of the last body


class _LastBody:
    """The last inspected body; used by this module only."""

    __slots__ = ("json_body",)

    def __init__(self) -> None:
        self.json_body = _NOTHING


_NOTHING = JsonBody(b"")
_NOTHING.fault = "it is empty"
_LAST = _LastBody()


def inspect_json(body: bytes) -> JsonBody:
    """Inspect a whole body. For a large body this blocks the event loop: scan its pieces as they arrive instead."""
    last = _LAST.json_body
    if body is last.body:
        return last
    if len(body) > PARSED_BYTES:
        found = _scan_all(body)
    else:
        found = JsonBody(body)
        _parse(found, body)
    _LAST.json_body = found if len(body) <= _CACHED_BYTES else _NOTHING
    return found


def inspect_member(found: JsonBody, key: str) -> JsonBody | None:
    """Inspect the member `key`, whose positions count from its own beginning. None if it is not an object. An object
    above PARSED_BYTES is not inspected, and has a fault."""
    span = found.span(key)
    if span is None or found.body[span[0] : span[0] + 1] != b"{":
        return None
    if span[1] - span[0] > PARSED_BYTES:
        member = JsonBody(b"")
        member.fault = "it is too large"
        return member
    member = JsonBody(found.body[span[0] : span[1]])
    _parse(member, member.body)
    return member


def pop_parsed_object(body: bytes) -> dict[str, Any] | None:
    """The parsed object of the last inspected body, removed from the cache: the caller owns it. None if the caller has
    to parse the body itself, for example to find its fault."""
    last = _LAST.json_body
    if body is not last.body:
        return None
    _LAST.json_body = _NOTHING
    value, last.value = last.value, None
    return value


def string_member(body: bytes, key: str) -> str | None:
    """The top-level member `key` of a JSON object if it occurs exactly once and is a string, else None."""
    return inspect_json(body).string(key)


def model_of(body: bytes) -> str | None:
    """The `model` of an AI request."""
    return inspect_json(body).model


def replace_member(body: bytes, key: str, value: str) -> bytes | None:
    """The body with a new value for the top-level member `key`; None unless it occurs exactly once."""
    span = inspect_json(body).span(key)
    return None if span is None else edited(body, [(*span, json.dumps(value).encode("ascii"))])


def edited(body: bytes, edits: Iterable[tuple[int, int, bytes]]) -> bytes:
    """The body with the given spans replaced, in one copy."""
    pieces: list[bytes | memoryview] = []
    position, view = 0, memoryview(body)
    for start, end, new in sorted(edits):
        pieces += [view[position:start], new]
        position = end
    return b"".join([*pieces, view[position:]])


def flag_member(body: bytes, key: str) -> bool:
    """True if the top-level member `key` occurs exactly once and is `true`."""
    return inspect_json(body).flag(key)


def member_span(body: bytes, key: str) -> tuple[int, int] | None:
    """The position of the value of the top-level member `key`; None unless it occurs exactly once."""
    return inspect_json(body).span(key)
