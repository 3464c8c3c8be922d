"""Masks the secrets in the bodies of captured exchanges, in steps, because bodies may be large.

1. The keys of a KeyFilter are masked wherever they stand, and the values of JSON members and of form parameters that
   have the name of a credential (`is_credential_name`), also in JSON that is a text of JSON.
2. A compressed body cannot be changed: if its content has one of these, it is not kept. Neither is a body in a coding
   other than gzip and deflate, nor one that is not what it claims to be.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Iterator, Sequence

from relayd.lazy_regex import lazy_regex
from relayd.proxy.captured import EDGE_BYTES, BodyCopy
from relayd.wire.headers import name_of
from relayd.wire.json_steps import Steps
from relayd.wire.key_filter import KeyFilter
from relayd.wire.redact import MASK

BLOCK_BYTES = 16 * 1024
MAX_NAME_BYTES = 64
MAX_INFLATED_BYTES = 64 << 20  # of one body; what is longer is not kept
FORM = b"application/x-www-form-urlencoded"
# A member's name and the opening quotation mark of its text. JSON inside of a text has backslashes before the marks.
_MEMBER = lazy_regex(rb'"([A-Za-z][A-Za-z0-9_.-]{1,63})\\*"[ \t\r\n]*:[ \t\r\n]*(\\*)"')
_TEXT = lazy_regex(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_INNER_TEXT = lazy_regex(rb'[^"\\]*(?:\\+[^"\\][^"\\]*)*')
_PARAMETER = lazy_regex(rb"(?:\A|(?<=&))([^=&]{1,64})=")
_VALUE = lazy_regex(rb"[^&]*")
_NO_LETTERS = lazy_regex(r"[^a-z0-9]")
_CREDENTIALS = (
    "apikey", "accesskey", "secretkey", "privatekey", "accesstoken", "refreshtoken", "idtoken", "authtoken",
    "authorizationtoken", "bearertoken", "sessiontoken", "securitytoken", "secret", "password", "passwd", "passphrase",
    "authorization", "cookie", "clientassertion",
)  # fmt: skip
"""Names of credentials end with one of these, in any spelling. Other words that are secret in a field have other
meanings in a body: a `token` of a text with its probability, the `key` of a cache, the `signature` of a thought."""


@functools.lru_cache(maxsize=1024)
def is_credential_name(name: str) -> bool:
    """True if a member or parameter of this name is a credential."""
    return _NO_LETTERS.sub("", name.lower()).endswith(_CREDENTIALS)


def field_value(lines: Sequence[bytes], name: bytes) -> bytes:
    """The value of the last field with this name in lower case, in lower case; empty without one."""
    return next((line.partition(b":")[2].strip().lower() for line in reversed(lines) if name_of(line) == name), b"")


def mask_body_steps(
    body: BodyCopy, filters: Sequence[KeyFilter], lines: Sequence[bytes] = (), longest: int = 0
) -> Steps[None]:
    """Mask a body, then drop what is kept behind the cuts. `lines` are the fields of its message, `longest` is the
    length of the longest key."""
    coding = field_value(lines, b"content-encoding")
    is_coded = coding not in (b"", b"identity")
    is_form = field_value(lines, b"content-type").startswith(FORM)
    if is_coded:
        body.drop_tail()  # it cannot be decoded
        if (yield from _must_drop_steps(bytes(body.head), coding, filters, is_form)):
            body.drop_content()
            body.is_masked = True
    elif body.missing and longest * 3 > EDGE_BYTES:  # the rest of a key could remain at the beginning of the tail
        body.drop_tail()
    for part in (body.head, body.tail):
        yield
        if not is_coded and (spans := (yield from _credentials_steps(bytes(part), is_form))):
            _replace(part, spans)
            body.is_masked = True
        for one in filters:
            yield
            runs = yield from _runs_with_key_steps(bytes(part), one, max(EDGE_BYTES, 3 * longest))
            for start, end in reversed(runs):
                part[start:end] = one.body(bytes(part[start:end]))
                body.is_masked = True
                yield
    body.cut_edges()


def _replace(part: bytearray, spans: list[tuple[int, int]]) -> None:
    pieces: list[bytes | bytearray] = []
    done = 0
    for start, end in spans:
        pieces += part[done:start], MASK.encode()
        done = end
    part[:] = b"".join([*pieces, part[done:]])


def _credentials_steps(data: bytes, is_form: bool) -> Steps[list[tuple[int, int]]]:
    """The places of the values of credentials, in their order."""
    spans: list[tuple[int, int]] = []
    done = 0
    for start, end in _blocks(len(data)):
        for position, is_inner in _values_of_credentials(data, start, end, is_form):
            value = (_VALUE if is_form else _INNER_TEXT if is_inner else _TEXT).match(data, position)
            if position >= done and value is not None and value.end() > position:
                done = value.end()
                spans.append((position, done))
        yield
    return spans


def _values_of_credentials(data: bytes, start: int, end: int, is_form: bool) -> Iterator[tuple[int, bool]]:
    """Where the values of credentials begin whose names begin in this part, and True if a value is a text in a text."""
    for found in (_PARAMETER if is_form else _MEMBER).finditer(data, start, min(len(data), end + 4 * MAX_NAME_BYTES)):
        if found.start() < end and is_credential_name(found[1].decode("latin-1")):
            yield found.end(), not is_form and bool(found[2])


def _must_drop_steps(data: bytes, coding: bytes, filters: Sequence[KeyFilter], is_form: bool) -> Steps[bool]:
    """True if the content of a compressed body has secrets, or cannot be known."""
    if coding not in (b"gzip", b"x-gzip", b"deflate"):
        return True
    has_header = len(data) < 2 or (data[0] & 15 == 8 and (data[0] << 8 | data[1]) % 31 == 0)
    window = 31 if coding != b"deflate" else 15 if has_header else -15  # some servers omit the header of zlib
    inflater, size, before = zlib.decompressobj(window), 0, b""
    for start, end in _blocks(len(data)):
        rest = data[start:end]
        while rest:
            try:
                piece = inflater.decompress(rest, BLOCK_BYTES)
            except zlib.error:
                return True
            size += len(piece)
            text = before + piece
            if size > MAX_INFLATED_BYTES or any(one.holds(text) for one in filters):
                return True
            if next(_values_of_credentials(text, 0, len(text), is_form), None) is not None:
                return True
            before = text[-EDGE_BYTES:]
            rest = inflater.unconsumed_tail
            if inflater.eof and (rest := inflater.unused_data):
                inflater = zlib.decompressobj(window)  # a further member (RFC 1952 2.2)
            yield
    return False


def _runs_with_key_steps(data: bytes, keys: KeyFilter, reach: int) -> Steps[list[tuple[int, int]]]:
    """The parts of the data that contain keys, each of them a number of whole blocks. A key on the border of two blocks
    is found in both, so that it is within one part; none is longer than `reach`."""
    runs: list[tuple[int, int]] = []
    for start, end in _blocks(len(data)):
        if keys.holds(data[max(0, start - reach): end + EDGE_BYTES]):
            if runs and runs[-1][1] == start:
                runs[-1] = (runs[-1][0], end)
            else:
                runs.append((start, end))
        yield
    return runs


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, BLOCK_BYTES):
        yield start, min(size, start + BLOCK_BYTES)
