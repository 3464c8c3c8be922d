"""The response gate: validation of an upstream's response head before any byte of it is sent to a client.

Only the faults that RFC 9112 allows a gateway to repair are repaired (obs-fold 5.2, bare LF 2.2, whitespace before the
colon 5.1). Any other malformed head is rejected and becomes a 502.
"""

from __future__ import annotations

from typing import NamedTuple

from relayd.lazy_regex import lazy_regex
from relayd.wire.head_shape_cache import ShapeCache, digits, field, ignored, literal
from relayd.wire.headers import HOP_BY_HOP, TOKENS, Memo
from relayd.wire.http1 import TOKEN

_HEAD = lazy_regex(
    rb"HTTP/(?:1\.[01]|2|3) ([1-5][0-9][0-9])((?: [\t\x20-\x7e\x80-\xff]*)?)\r\n"
    rb"(?:" + TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n"
)
_REPAIRS = (
    (lazy_regex(rb"[ \t]*\r?\n[ \t]+"), b" "),
    (lazy_regex(rb"(?<!\r)\n"), b"\r\n"),
    (lazy_regex(rb"(?m)^(" + TOKEN + rb")[ \t]+:"), rb"\1:"),
)

PASS, DROP, LENGTH, CODING, CONNECTION, UPGRADE, HOUSE, MEDIA, ENCODED, TRAILER, LOCATED = range(11)
_NAMED = {b"content-length": LENGTH, b"transfer-encoding": CODING, b"connection": CONNECTION, b"upgrade": UPGRADE,
          b"trailer": TRAILER,
          b"location": LOCATED, b"content-location": LOCATED, b"refresh": LOCATED, b"link": LOCATED,
          b"x-request-id": HOUSE, b"x-process-time": HOUSE, b"x-proxy-by": HOUSE,
          b"content-type": MEDIA, b"content-encoding": ENCODED}


def _action(name: bytes) -> int:
    low = name.lower()
    return _NAMED.get(low, DROP if low in HOP_BY_HOP else PASS)


_ACTIONS: Memo[int] = Memo(_action)


class Media(NamedTuple):
    """A Content-Type: `text` is its value. `is_json` is true for JSON, `is_stream` for event streams and JSON lines,
    `is_events` for event streams."""

    text: str
    is_json: bool
    is_stream: bool
    is_events: bool


def _media(line: bytes) -> Media:
    text = line.partition(b":")[2].strip().decode("latin-1")
    kind = text.partition(";")[0].strip().lower()
    is_events = kind.startswith("text/event-stream")
    return Media(
        text, kind == "application/json" or kind.endswith("+json"),
        is_events or kind.startswith(("application/x-ndjson", "application/ndjson")), is_events,
    )


_MEDIA: Memo[Media] = Memo(_media)


class ResponseShape(NamedTuple):
    """The properties that all heads of one shape share. `length` is the index of the group of Content-Length, `media`
    and `encoded` are the indices in `keep` of Content-Type and Content-Encoding; -1 for none."""

    status: int
    reason: bytes
    has_relayd_fields: bool
    has_location: bool
    chunked: bool
    length: int
    media: int
    encoded: int


_SHAPES: ShapeCache[ResponseShape] = ShapeCache()
STATUS_BYTES = 12  # of `HTTP/1.1 200`
MAX_FIELDS = 5000  # newer versions of libcurl refuse more by themselves


class ResponseHead:
    """One valid response head. `keep` are the field lines, with CRLF, to forward; `reason` includes its space.

    `has_relayd_fields` is true if the upstream sent a field that relayd writes too. `type_line` and `coding_line` are
    the lines of Content-Type and Content-Encoding in `keep`, empty if absent. `length` is the declared length, None if
    absent or overridden by a transfer coding. `upgrade` and `trailer` are the values of these fields, which are
    forwarded only where they apply; None if absent. `has_location` is true if a field may contain a URL of the endpoint
    (Location, Content-Location, Refresh, Link).
    """

    __slots__ = (
        "chunked",
        "coding_line",
        "has_location",
        "has_relayd_fields",
        "keep",
        "length",
        "reason",
        "status",
        "trailer",
        "type_line",
        "upgrade",
    )

    def __init__(self, status: int, reason: bytes) -> None:
        self.status, self.reason = status, reason
        self.keep: list[bytes] = []
        self.length: int | None = None
        self.upgrade: bytes | None = None
        self.trailer: bytes | None = None
        self.has_relayd_fields = self.has_location = self.chunked = False
        self.type_line = self.coding_line = b""

    @property
    def media(self) -> Media:
        """The parsed Content-Type."""
        return _MEDIA[self.type_line]

    @property
    def coding(self) -> str:
        """The Content-Encoding, empty if absent."""
        return self.coding_line.partition(b":")[2].strip().decode("latin-1") if self.coding_line else ""

    def get(self, name: bytes) -> str:
        """The first value in `keep` of the field with this lower-case name; empty if absent."""
        for line in self.keep:
            raw, _, value = line.partition(b":")
            if len(raw) == len(name) and raw.lower() == name:
                return value.strip().decode("latin-1")
        return ""


class BadResponse(ValueError):
    """The head is malformed; the message is for the operator's log."""


def parse_response(head: bytes) -> ResponseHead:
    """Parse one head, given as received, with its blank line.

    Raises BadResponse.
    """
    key = head[:STATUS_BYTES], head.count(b"\n")
    found = _SHAPES.find(key, head)
    if found is not None:
        match, (status, reason, has_relayd_fields, has_location, chunked, length_index, media, encoded) = found
        known = ResponseHead.__new__(ResponseHead)  # every slot is assigned below; defaults would double the cost
        known.status, known.reason, known.upgrade, known.trailer = status, reason, None, None
        known.has_relayd_fields, known.has_location, known.chunked = has_relayd_fields, has_location, chunked
        known.keep = field_lines = list(match.groups())
        known.length = int(field_lines.pop(length_index)) if length_index >= 0 else None
        known.type_line = field_lines[media] if media >= 0 else b""
        known.coding_line = field_lines[encoded] if encoded >= 0 else b""
        return known
    response = _parse(head)
    if _SHAPES.learning and response.status >= 200 and response.status != 204:
        _learn(key, head, response)
    return response


def _parse(head: bytes) -> ResponseHead:
    """The full parser."""
    if head.count(b"\n") > MAX_FIELDS:
        raise BadResponse("too many fields")
    match = _HEAD.fullmatch(head)
    if match is None:
        for pattern, by in _REPAIRS:
            head = pattern.sub(by, head)
        match = _HEAD.fullmatch(head)
        if match is None:
            raise BadResponse("malformed response head")
    response = ResponseHead(int(match[1]), match[2])
    keep = response.keep
    coding = False
    named: frozenset[bytes] = frozenset()
    for line in head.splitlines(True)[1:-1]:
        name, _, value = line.partition(b":")
        action = _ACTIONS[name]
        if action == PASS:
            keep.append(line)
        elif action == LENGTH:
            _length(response, value)
        elif action == CODING:
            if coding or value.strip().lower() != b"chunked":
                raise BadResponse("unknown transfer coding")
            coding = True
        elif action == CONNECTION:
            named = named | TOKENS[value.strip()]
        elif action == HOUSE:
            response.has_relayd_fields = True
            keep.append(line)
        elif action == MEDIA:
            response.type_line = response.type_line or line
            keep.append(line)
        elif action == ENCODED:
            response.coding_line = response.coding_line or line
            keep.append(line)
        elif action == LOCATED:
            response.has_location = True
            keep.append(line)
        elif action == UPGRADE:
            response.upgrade = _listed(response.upgrade, value)
        elif action == TRAILER:
            response.trailer = _listed(response.trailer, value)
    if named:
        gone = named - {b"close", b"keep-alive", b"upgrade", b"content-length", b"set-cookie", b"date"}
        if gone:
            response.keep = [line for line in keep if line.partition(b":")[0].lower() not in gone]
            response.type_line = b"" if b"content-type" in gone else response.type_line
            response.coding_line = b"" if b"content-encoding" in gone else response.coding_line
    response.chunked = coding
    if coding or response.status == 204 or response.status < 200:
        response.length = None
    return response


def _listed(before: bytes | None, value: bytes) -> bytes:
    """Append to a list: several fields of one name form one list (RFC 9110 5.2)."""
    return value.strip() if before is None else before + b", " + value.strip()


def _length(response: ResponseHead, value: bytes) -> None:
    for part in value.split(b","):
        part = part.strip()
        if not part.isdigit() or len(part) > 18 or response.length not in (None, int(part)):
            raise BadResponse("bad Content-Length")
        response.length = int(part)


def _learn(key: tuple[bytes, int], head: bytes, response: ResponseHead) -> None:
    """Count the form of this head, and make a shape for it once it is frequent."""
    lines = head.splitlines(True)
    form, length_index, groups = [literal(lines[0])], -1, 0
    for line in lines[1:-1]:
        name = line.partition(b":")[0]
        action = _ACTIONS[name]
        if action in (PASS, HOUSE, MEDIA, ENCODED, LOCATED):
            form.append(field(name, end=True))
            groups += 1
        elif action == LENGTH and length_index < 0:
            form.append(digits(name, whole=False))
            length_index = groups
            groups += 1
        elif action == DROP:
            form.append(ignored(name))
        elif action in (CODING, CONNECTION):
            form.append(literal(line))
        else:
            return
    gone = groups - (length_index >= 0) != len(response.keep)  # a field named by Connection was removed
    whole = (*form, b"\r\n")
    if gone or (length_index >= 0 and response.chunked) or not _SHAPES.should_learn(whole):
        return
    if _HEAD.fullmatch(head) is not None:  # a repaired head has no shape
        field_lines = response.keep
        media, coding = response.type_line, response.coding_line
        _SHAPES.learn(key, whole, ResponseShape(
            response.status, response.reason, response.has_relayd_fields, response.has_location, response.chunked,
            length_index, field_lines.index(media) if media else -1, field_lines.index(coding) if coding else -1,
        ))
