"""A strict parser of HTTP/1.1 request heads.

Laws (RFC 9112, RFC 9110; the `detail` of each refusal names its rule):
1. A head that parsers can interpret differently is rejected, never repaired.
2. Every forwarded byte is validated: names are tokens, values contain no control bytes, lines end with CRLF.
3. The cost is linear in the bytes of the head.

One anchored regular expression validates the head; Python code then reads only the names. `_diagnose` runs only for
rejected heads and finds the violated rule.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

from relayd.dataclass import dataclass
from relayd.errors import ExchangeError
from relayd.lazy_regex import lazy_regex
from relayd.wire.head_shape_cache import ShapeCache, digits, field, literal
from relayd.wire.headers import (
    CONFUSABLE,
    CREDENTIALS,
    FORWARDING,
    HOP_BY_HOP,
    OVERRIDES,
    PROTECTED,
    TOKENS,
    Memo,
)

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_HEAD = lazy_regex(
    rb"(" + TOKEN + rb") ([!-\x22$-~]+) HTTP/1\.([01])\r\n((?:" + TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*)\r\n"
)
# Labels of a name, with at most one dot after the last. Escapes (RFC 3986 3.2.2) are rejected: they would be another
# spelling of the same name.
_LABEL = rb"[A-Za-z0-9_~!$&'()*+;=\-]+"
_HOST = lazy_regex(rb"(" + _LABEL + rb"(?:\." + _LABEL + rb")*\.?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?")
ALLOW = (("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),)  # of a 405, RFC 9110 15.5.6
_ABSOLUTE = lazy_regex(rb"(?i:https?)://([^/?]*)([/?].*)?", re.DOTALL)
_EMPTY = lazy_regex(rb":[ \t]*\r\n")
_DIGITS = lazy_regex(rb"[0-9]{1,18}")

(
    PASS, DROP, LENGTH, CODING, CONNECTION, HOST, EXPECT, UPGRADE, FORWARD, KEY, VIA, OVERRIDE, AGENT, ACCEPT, TYPE,
) = range(15)  # fmt: skip

_NAMED = {
    b"content-length": LENGTH, b"transfer-encoding": CODING, b"connection": CONNECTION, b"host": HOST,
    b"expect": EXPECT, b"upgrade": UPGRADE, b"via": VIA, b"user-agent": AGENT, b"accept": ACCEPT, b"content-type": TYPE,
}


def _action(name: bytes) -> int:
    low = name.lower()
    if low in _NAMED:
        return _NAMED[low]
    if low in HOP_BY_HOP:
        return DROP
    if low in FORWARDING:
        return FORWARD
    if low in CREDENTIALS:
        return KEY
    if low.replace(b"_", b"-") in OVERRIDES:
        return OVERRIDE
    return DROP if low.replace(b"-", b"_") in CONFUSABLE and b"_" in low else PASS


_ACTIONS: Memo[int] = Memo(_action)


def _host(value: bytes) -> tuple[bytes, bytes] | None:
    match = _HOST.fullmatch(value)
    if match is None or (match[2] and int(match[2]) > 65535):
        return None
    if value.startswith(b"["):
        try:
            return b"[%s]" % str(ipaddress.IPv6Address(match[1][1:-1].decode("ascii"))).encode(), value
        except ValueError:
            return None
    return match[1].lower().removesuffix(b"."), value  # a trailing dot does not change the name in DNS


_HOSTS: Memo[tuple[bytes, bytes] | None] = Memo(_host)
_HOST_LINES: Memo[tuple[bytes, bytes] | None] = Memo(lambda line: _HOSTS[line.partition(b":")[2].strip(b" \t")])


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Limits in bytes and fields; the defaults are those of the listener section."""

    request_line: int = 16 * 1024
    field_line: int = 32 * 1024
    header: int = 64 * 1024
    fields: int = 200
    smallest: int = dataclasses.field(init=False)  # a head of at most this size is within all limits of size

    def __post_init__(self) -> None:
        object.__setattr__(self, "smallest", min(self.request_line, self.field_line, self.header))


class RequestHead:
    """One well-formed request head; owned by its exchange.

    `path` and `query` (with its `?`) are the exact bytes of the target. `host` is in lower case without port and
    trailing dot, an IPv6 address in its shortest form; `authority` is the received text. `lines` are all field lines.
    `keep` are the lines that may be forwarded (without framing, hop-by-hop, forwarding and Host fields), `keys` the
    indices in `keep` of fields that may contain a client's key. `length` is None without Content-Length. `sent` has a
    bit (1 << AGENT, ACCEPT, TYPE) for each of these fields that the client sent. `empty` is true if some field has an
    empty value. `type_line` is the first forwarded Content-Type, empty if there is none. `model` is the model that the
    request names: None until the body was inspected, "" for none. `overrides` are the lines of fields that
    replace the method or the model for some servers (X-HTTP-Method-Override, X-Model). `names` are the lower-case names
    of all fields, `positions` the indices in `lines` of each of them; None if they are not collected.
    """

    __slots__ = (
        "authority", "chunked", "empty", "expect", "forwarding", "host", "keep", "keep_alive", "keys", "length",
        "lines", "method", "model", "names", "overrides", "path", "positions", "query", "sent", "target", "type_line",
        "upgrade", "version", "via",
    )

    def __init__(self, method: bytes, target: bytes, version: int, lines: list[bytes]) -> None:
        self.method, self.target, self.version, self.lines = method, target, version, lines
        self.length: int | None = None
        self.chunked = self.expect = self.empty = False
        self.sent = 0
        self.model: str | None = None
        self.names: frozenset[bytes] | None = None
        self.positions: Mapping[bytes, Sequence[int]] | None = None
        self.keep_alive = version == 11
        self.upgrade: bytes | None = None
        self.host = self.authority = self.type_line = b""
        self.keep: list[bytes] = []
        self.keys: Sequence[int] = ()
        self.forwarding: Sequence[bytes] = ()
        self.overrides: Sequence[bytes] = ()
        self.via: Sequence[bytes] = ()
        path, mark, query = target.partition(b"?")
        self.path, self.query = path, mark + query

    @property
    def has_body(self) -> bool:
        return self.chunked or self.length is not None

    def get(self, name: bytes) -> bytes | None:
        """The first value of the field with this lower-case name, without surrounding whitespace."""
        if self.names is not None and name not in self.names:
            return None
        values = self.get_all(name)
        return values[0] if values else None

    def get_all(self, name: bytes) -> list[bytes]:
        """All values of the field with this lower-case name, in order."""
        size, lines, positions = len(name), self.lines, self.positions
        if positions is not None:
            indices = positions.get(name)
            return [lines[index][size + 1 :].strip(b" \t") for index in indices] if indices else []
        return [
            line[size + 1 :].strip(b" \t") for line in lines
            if line[size : size + 1] == b":" and line[:size].lower() == name
        ]

    def get_alike(self, name: bytes) -> list[bytes]:
        """Like `get_all`, but `_` and `-` in names are equal, as they are for CGI and WSGI (RFC 3875 4.1.18)."""
        found = []
        folded = name.replace(b"_", b"-")
        for line in self.lines:
            raw, _, value = line.partition(b":")
            if len(raw) == len(name) and raw.lower().replace(b"_", b"-") == folded:
                found.append(value.strip(b" \t"))
        return found


DEFAULT_LIMITS = HeadLimits()
_ODD_METHODS = frozenset((b"CONNECT", b"TRACE", b"OPTIONS"))


@dataclass(frozen=True, slots=True)
class RequestShape:
    """The properties that all heads of one shape share. The groups of its expression are the target, then every field
    line; the number of Content-Length follows its line. Members that refer to fields are indices of field lines;
    `keep` takes the lines that are forwarded."""

    method: bytes
    version: int
    keep_alive: bool
    chunked: bool
    sent: int
    count: int
    host: int
    length: int
    type: int
    keys: Sequence[int]
    keep: Callable[[list[bytes]], Sequence[bytes]]
    forwarding: tuple[int, ...]
    names: frozenset[bytes] | None
    positions: Mapping[bytes, Sequence[int]] | None

    def head(self, match: re.Match[bytes], head: bytes, limits: HeadLimits) -> RequestHead | None:
        """The request; None if the full parser must report its fault."""
        if len(head) > limits.smallest or self.count > limits.fields:
            return None
        target, *lines = match.groups()
        length = int(lines.pop(self.length)) if self.length >= 0 else None
        host = _HOST_LINES[lines[self.host]]
        if host is None:
            return None
        request = RequestHead.__new__(RequestHead)  # every slot is assigned below; defaults would double the cost
        request.method, request.target, request.version, request.lines = self.method, target, self.version, lines
        request.length, request.chunked, request.keep_alive = length, self.chunked, self.keep_alive
        request.sent, request.expect, request.empty, request.upgrade = self.sent, False, False, None
        request.model, request.overrides, request.names, request.positions = None, (), self.names, self.positions
        request.host, request.authority = host
        request.type_line = lines[self.type] if self.type >= 0 else b""
        request.keep, request.keys, request.via = list(self.keep(lines)), self.keys, ()
        request.forwarding = tuple(map(lines.__getitem__, self.forwarding)) if self.forwarding else ()
        mark = target.find(b"?")
        if mark < 0:
            request.path, request.query = target, b""
        else:
            request.path, request.query = target[:mark], target[mark:]
        return request


_SHAPES: ShapeCache[RequestShape] = ShapeCache()


def _taker(indices: list[int]) -> Callable[[list[bytes]], Sequence[bytes]]:
    """A function that returns the lines at these indices."""
    if len(indices) > 1:
        return itemgetter(*indices)
    return itemgetter(slice(indices[0], indices[0] + 1) if indices else slice(0))


def _learn(key: tuple[bytes, int], head: bytes, request: RequestHead) -> None:
    """Count the form of this head, and make a shape for it once it is frequent."""
    if request.expect or request.upgrade is not None or request.via or request.overrides:
        return
    version = b" HTTP/1.1\r\n" if request.version == 11 else b" HTTP/1.0\r\n"
    form = [literal(request.method) + rb" (/[!-\x22$-~]*)" + literal(version)]
    host = length = kind = -1
    keep: list[int] = []
    forwarding: list[int] = []
    for index, line in enumerate(request.lines):
        name = line.partition(b":")[0]
        action = _ACTIONS[name]
        if action in (EXPECT, UPGRADE, VIA, OVERRIDE):
            return
        if action == LENGTH:
            form.append(digits(name, whole=True))
            length = index + 1
            continue
        if action in (CODING, CONNECTION):
            form.append(b"(" + literal(line) + b")\r\n")
            continue
        form.append(field(name, end=False))
        if action == HOST:
            host = index
        elif action == FORWARD:
            forwarding.append(index)
        elif action != DROP:
            keep.append(index)
            if action == TYPE and kind < 0:
                kind = index
    whole = (*form, b"\r\n")
    if len(keep) != len(request.keep) or host < 0 or not _SHAPES.should_learn(whole):
        return
    _SHAPES.learn(key, whole, RequestShape(
        method=request.method, version=request.version, keep_alive=request.keep_alive, chunked=request.chunked,
        sent=request.sent, count=len(request.lines), host=host, length=length, type=kind, keys=request.keys,
        keep=_taker(keep), forwarding=tuple(forwarding),
        names=request.names, positions=request.positions,
    ))


def parse_head(head: bytes, limits: HeadLimits = DEFAULT_LIMITS) -> RequestHead:
    """Parse one complete request head, including its blank line.

    Raises ExchangeError with code bad_request, uri_too_long, header_too_large, expectation_failed, not_implemented,
    version_not_supported or method_not_allowed.
    """
    key = head[:4], head.count(b"\n")
    found = _SHAPES.find(key, head)
    if found is not None:
        known = found[1].head(found[0], head, limits)
        if known is not None:
            return known
    request = _parse(head, limits)
    if _SHAPES.learning and request.method not in _ODD_METHODS and request.target.startswith(b"/"):
        _learn(key, head, request)
    return request


def _parse(head: bytes, limits: HeadLimits) -> RequestHead:
    """The full parser."""
    match = _HEAD.fullmatch(head)
    if match is None:
        raise _diagnose(head, limits)
    method, target, minor, block = match.groups()
    lines = block.split(b"\r\n")
    lines.pop()
    if len(head) > limits.smallest:
        _check_sizes(match.start(4), lines, head, limits)
    if len(lines) > limits.fields:
        raise ExchangeError("header_too_large", "too many fields")
    request = RequestHead(method, target, 11 if minor == b"1" else 10, lines)
    request.empty = _EMPTY.search(block) is not None
    request.positions = positions = _positions(lines)
    request.names = frozenset(positions)
    keep = request.keep
    named: frozenset[bytes] = frozenset()
    hosts = 0
    for line in lines:
        name, _, value = line.partition(b":")
        action = _ACTIONS[name]
        if action == PASS:
            keep.append(line)
        elif action >= AGENT:
            request.sent |= 1 << action
            keep.append(line)
            if action == TYPE:
                request.type_line = request.type_line or line
        elif action == HOST:
            hosts += 1
            known = _HOSTS[value.strip(b" \t")]
            if known is None:
                raise ExchangeError("bad_request", "host")
            request.host, request.authority = known
        elif action == CONNECTION:
            named = named | TOKENS[value] if named else TOKENS[value]
        elif action == KEY:
            request.keys = (*request.keys, len(keep))
            keep.append(line)
        elif action == LENGTH:
            _length(request, value)
        elif action == OVERRIDE:
            request.overrides = (*request.overrides, line)
            keep.append(line)
        elif action == FORWARD:
            request.forwarding = (*request.forwarding, line)
        elif action != DROP:
            _special(request, action, value)
    if hosts != 1 and (hosts or request.version == 11):
        raise ExchangeError("bad_request", "host count")
    if request.chunked and request.length is not None:
        raise ExchangeError("bad_request", "content-length with transfer-encoding")
    if named or request.upgrade is not None:
        _connection(request, named)
    if not target.startswith(b"/"):
        _other_target(request)
    if method != method.upper():  # RFC 9110 9.1: a different method, but some servers treat it as the same
        raise ExchangeError("bad_request", "method in lower case")
    if method == b"TRACE" or method == b"CONNECT":
        raise ExchangeError("method_not_allowed", "method", ALLOW)
    return request


def _positions(lines: list[bytes]) -> dict[bytes, tuple[int, ...]]:
    """The indices of the lines of each lower-case name."""
    found: dict[bytes, tuple[int, ...]] = {}
    for index, line in enumerate(lines):
        name = line.partition(b":")[0].lower()
        found[name] = (*found[name], index) if name in found else (index,)
    return found


def _length(request: RequestHead, value: bytes) -> None:
    value = value.strip(b" ")  # no tab: not every parser accepts it as whitespace here
    if request.length is not None or _DIGITS.fullmatch(value) is None:
        raise ExchangeError("bad_request", "content-length")
    request.length = int(value)


def _special(request: RequestHead, action: int, value: bytes) -> None:
    if action == CODING:
        value = value.strip(b" ")
        if request.chunked or request.version == 10:
            raise ExchangeError("bad_request", "transfer-encoding")
        if value.lower() != b"chunked":
            known = value.lower() in (b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress")
            raise ExchangeError("not_implemented" if known else "bad_request", "transfer-encoding")
        request.chunked = True
        return
    value = value.strip(b" \t")
    if action == EXPECT:
        if request.version == 11:  # RFC 9110 10.1.1: ignored in 1.0
            if value.lower() != b"100-continue":
                raise ExchangeError("expectation_failed", "expect")
            request.expect = True
    elif action == UPGRADE:
        request.upgrade = value if request.upgrade is None else request.upgrade + b", " + value
    else:
        request.via = (*request.via, value)


def _connection(request: RequestHead, named: frozenset[bytes]) -> None:
    if b"close" in named:
        request.keep_alive = False
    elif b"keep-alive" in named:
        request.keep_alive = True
    if b"upgrade" not in named or request.version == 10:  # RFC 9110 7.8
        request.upgrade = None
    gone = named - PROTECTED - {b"close", b"keep-alive", b"upgrade"}
    if gone:
        keep, request.keep, request.keys = request.keep, [], ()
        for line in keep:
            low = line.partition(b":")[0].lower()
            if low not in gone:
                if low in CREDENTIALS:
                    request.keys = (*request.keys, len(request.keep))
                request.keep.append(line)
            elif _NAMED.get(low, PASS) >= AGENT:
                request.sent &= ~(1 << _NAMED[low])
                request.type_line = b"" if low == b"content-type" else request.type_line


def _other_target(request: RequestHead) -> None:
    """Absolute form (RFC 9112 3.2.2) and the asterisk (3.2.4), also as the absolute form of OPTIONS without a path; all
    other forms are rejected."""
    if request.target == b"*" and request.method == b"OPTIONS":
        return
    if request.method == b"CONNECT":
        raise ExchangeError("method_not_allowed", "connect", ALLOW)
    match = _ABSOLUTE.fullmatch(request.target)
    known = _HOSTS[match[1]] if match is not None else None
    if match is None or known is None:
        raise ExchangeError("bad_request", "target form")
    request.host, request.authority = known  # the received Host MUST be ignored
    rest = match[2] or b"/"
    if match[2] is None and request.method == b"OPTIONS":
        request.target, request.path, request.query = b"*", b"*", b""
        return
    request.target = rest if rest.startswith(b"/") else b"/" + rest
    path, mark, query = request.target.partition(b"?")
    request.path, request.query = path, mark + query


def _check_sizes(line_end: int, lines: list[bytes], head: bytes, limits: HeadLimits) -> None:
    if line_end - 2 > limits.request_line:
        raise ExchangeError("uri_too_long", "request line")
    if len(head) - line_end > limits.header or any(len(line) > limits.field_line for line in lines):
        raise ExchangeError("header_too_large", "header section")


def _diagnose(head: bytes, limits: HeadLimits) -> ExchangeError:
    """The error for a head that the expression rejected."""
    line = head.partition(b"\n")[0].rstrip(b"\r")
    if len(line) > limits.request_line:
        return ExchangeError("uri_too_long", "request line")
    if len(head) - len(line) > limits.header:
        return ExchangeError("header_too_large", "header section")
    version = re.search(rb" HTTP/([0-9])\.([0-9])$", line)
    if version is not None and version[1] != b"1":
        return ExchangeError("version_not_supported", "version")
    if re.fullmatch(rb"(" + TOKEN + rb") ([!-\x22$-~]+) HTTP/1\.[01]", line) is None:
        return ExchangeError("bad_request", "request line")
    return ExchangeError("bad_request", "field line")


def early_refusal(buffer: bytes | bytearray, limits: HeadLimits) -> ExchangeError | None:
    """The error of an incomplete head that is already invalid: not HTTP, a first line without CR, or too large."""
    first = buffer.find(b"\n")
    if first < 0:
        if len(buffer) > limits.request_line:
            return ExchangeError("uri_too_long", "request line")
        if buffer and re.match(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z\r]", bytes(buffer[:1])) is None:
            return ExchangeError("bad_request", "not http")
        return None
    if first == 0 or buffer[first - 1] != 13:
        return ExchangeError("bad_request", "line end")
    if first > limits.request_line + 1:
        return ExchangeError("uri_too_long", "request line")
    if len(buffer) - first > limits.header:
        return ExchangeError("header_too_large", "header section")
    return None
