"""JSON of the dialects: requests are parsed strictly, naming the invalid field; responses leniently, without raising.

Laws:
1. A request that cannot be read is Refused with a message and a `param`; the strict half raises no other exception.
2. An endpoint's JSON may have any shape: the lenient half returns an empty value of the requested type.
3. A text of many small values takes many times its own size in memory: their number is bounded by MOST_VALUES.
4. The nesting of requests is bounded by MAX_DEPTH, so that code may recurse.
5. The output is valid JSON: infinities are written as the largest float, NaN as null.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Mapping, Sized
from typing import Any

from relayd.lazy_regex import lazy_regex
from relayd.protocols.dialect import Refused, run_steps
from relayd.wire import json_steps
from relayd.wire.body import DECODER, pop_parsed_object, scan
from relayd.wire.body import is_deeper as is_deeper
from relayd.wire.json_scanner import MAX_DEPTH
from relayd.wire.json_steps import (
    CHUNK_BYTES,
    LONG_CHARS,
    Steps,
    encode_json,
    finite,
    parse_document_steps,
)
from relayd.wire.json_steps import is_deeper_steps as is_deeper_steps
from relayd.wire.json_steps import write_steps as write_steps
from relayd.wire.json_steps import write_text_steps as write_text_steps

_KINDS: dict[str, tuple[type, ...]] = {
    "a string": (str,),
    "an integer": (int,),
    "a number": (int, float),
    "a boolean": (bool,),
    "an object": (dict,),
    "a list": (list,),
}
_KIND_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "a boolean", dict: "an object",
           list: "a list", type(None): "null"}  # fmt: skip
_LARGEST_COUNT = 1 << 53
_MAX_REASON_CHARS = 512
MOST_VALUES = 1 << 20
MOST_STEP_CHARS = 256 * 1024  # of a text that is parsed at once: strings cost little
MOST_TEXT_CHARS = 4 * 1024 * 1024  # of JSON text inside a message; no model writes more in one turn
_MOST_STRUCTURE = 512 * 1024  # characters outside strings
_STRINGS = lazy_regex(r'"[^"\\]*+(?:\\.[^"\\]*+)*"', re.DOTALL)
_WHOLE_STRINGS = lazy_regex(r'(?:[^"]++|' + _STRINGS.pattern + ")*", re.DOTALL)
_INSIDE = lazy_regex(r'[^"\\]*+(?:\\.[^"\\]*+)*', re.DOTALL)
MOST_PARTS = 4096  # of one message; agents send some tens of parts

_quote: Callable[[str], str] = json.encoder.encode_basestring  # in C
_encode_ascii = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False).encode


def _lenient_int(digits: str) -> int | None:
    try:
        return int(digits)
    except ValueError:  # too many digits
        return None


_LENIENT: Any = json.JSONDecoder(parse_constant=lambda _name: None, parse_int=_lenient_int, strict=False)


def parse(data: bytes | str) -> Any:
    """Parse a JSON text. Raises ValueError for any error."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        if len(text) > MOST_VALUES:
            _check_size(text)
        try:
            value, end = scan(text, 0)
        except StopIteration:
            end = -1
        return value if end == len(text) else DECODER.decode(text)  # which accepts white space, or describes the error
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as fault:
        if "set_int_max_str_digits" in str(fault):
            raise ValueError("a number has too many digits") from None
        raise


def parse_text_steps(text: str) -> Steps[Any]:
    """As `parse` of a text, in steps. Raises ValueError."""
    if len(text) <= CHUNK_BYTES:
        return parse(text)
    yield from _count_values(text.encode("utf-8", "surrogatepass"))
    return (yield from json_steps.parse_text_steps(text))


def parse_bounded(text: str) -> Any:
    """As `parse_bounded_steps`, at once."""
    return run_steps(parse_bounded_steps(text))


def parse_bounded_steps(text: str) -> Steps[Any]:
    """Parse a JSON text inside a message, e.g. a call's arguments, in steps, if it is not too large. Raises
    ValueError."""
    if len(text) <= CHUNK_BYTES:
        return parse(text)
    if len(text) > MOST_TEXT_CHARS:
        raise ValueError(f"longer than {MOST_TEXT_CHARS} characters")
    yield from _require_little_structure(text)
    return (yield from json_steps.parse_text_steps(text))


def parse_in_one_step(text: str) -> Any:
    """Parse a JSON text inside a message at once. Raises ValueError for one that would take more than a step."""
    if len(text) > MOST_STEP_CHARS:
        raise ValueError(f"longer than {MOST_STEP_CHARS} characters")
    if len(text) > CHUNK_BYTES:
        run_steps(_require_little_structure(text, CHUNK_BYTES))
    return parse(text)


def _require_little_structure(text: str, most_chars: int = _MOST_STRUCTURE) -> Steps[None]:
    """Raise ValueError if the text has many characters outside strings: its value would take much time and memory."""
    structure = position = 0
    while position < len(text):
        end = min(position + CHUNK_BYTES, len(text))
        whole = _WHOLE_STRINGS.match(text, position, end).end()  # type: ignore[union-attr]  # always matches
        structure += len(_STRINGS.sub("", text[position:whole]))
        if structure > most_chars:
            raise ValueError("too many values")
        position = whole
        if whole < end:  # the string that begins here continues after the chunk
            position += 1
            while text[position : position + 1] != '"':
                if len(text) - position < 2:
                    raise ValueError("a string does not end")
                position = _INSIDE.match(text, position, position + CHUNK_BYTES).end()  # type: ignore[union-attr]
                yield
            position += 1
        yield


def parse_lenient(data: bytes | str) -> Any:
    """As `parse`, for endpoints' data, in which an invalid value must not make the response fail: invalid UTF-8 is
    replaced; NaN, Infinity and numbers of thousands of digits become null; strings may contain control characters."""
    try:
        return parse(data)
    except ValueError:
        text = data if isinstance(data, str) else data.decode("utf-8", "replace")
        _check_size(text)
        try:
            return _LENIENT.decode(text)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def parse_lenient_steps(data: bytes) -> Steps[Any]:
    """As `parse_lenient`, in steps, for a text that would take more than one turn of the event loop."""
    yield from _count_values(data)
    try:
        return (yield from parse_document_steps(data))
    except ValueError:
        pass
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = []
    for start in range(0, len(data), CHUNK_BYTES):
        end = start + CHUNK_BYTES
        pieces.append(decoder.decode(data[start:end], end >= len(data)).encode())
        yield
    return (yield from parse_document_steps(b"".join(pieces), _LENIENT.scan_once))


def _count_values(data: bytes) -> Steps[None]:
    """As `_check_size`, in steps."""
    count = 0
    for start in range(0, len(data), CHUNK_BYTES):
        chunk = data[start : start + CHUNK_BYTES]
        count += sum(map(chunk.count, b",[{"))
        if count > MOST_VALUES:
            raise ValueError("too many values")
        yield


def _check_size(text: str) -> None:
    if len(text) > MOST_VALUES and sum(map(text.count, ",[{")) > MOST_VALUES:  # counts characters inside strings too
        raise ValueError("too many values")


def write(value: Any) -> bytes:
    """Compact JSON in UTF-8; ASCII with escapes if the value contains a lone surrogate, which UTF-8 cannot encode."""
    try:
        return encode_json(value).encode("utf-8")
    except UnicodeEncodeError:
        return _encode_ascii(finite(value)).encode("ascii")


def write_sized_steps(value: Any, chars: int) -> Steps[bytes]:
    """As `write`, in steps if the texts of the value have so many characters that it may be long."""
    return (yield from write_steps(value)) if chars > LONG_CHARS else write(value)


def write_with(value: dict[str, Any], name: str, written: bytes) -> bytes:
    """As `write`, for a non-empty object, with one more member whose JSON is `written`."""
    return b'%b,"%b":%b}' % (write(value)[:-1], name.encode("ascii"), written)


def write_string(text: str) -> bytes:
    """As `write`, for a string: faster, for the many pieces of a stream."""
    try:
        return _quote(text).encode("utf-8")
    except UnicodeEncodeError:
        return _encode_ascii(text).encode("ascii")


def write_text(value: Any) -> str:
    """Compact JSON as text, e.g. for a tool call's arguments."""
    return encode_json(value)


# ---- strict: what a client sent


def read_object(body: bytes) -> dict[str, Any]:
    """Parse a request body, which must be a JSON object. Raises Refused."""
    value: Any = pop_parsed_object(body)
    try:
        value = parse(body) if value is None else value
    except json.JSONDecodeError as fault:
        position = f"line {fault.lineno} column {fault.colno}"
        raise Refused(f"The request body is not valid JSON: {fault.msg} at {position}.", code="invalid_json") from None
    except UnicodeDecodeError as fault:
        raise Refused(f"The request body is not UTF-8: byte {fault.start}.", code="invalid_json") from None
    except ValueError as fault:
        raise Refused(f"The request body is not valid JSON: {fault}.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise Refused(f"The request body must be an object, not {kind_name(value)}.", code="invalid_json")
    if is_deeper(value, MAX_DEPTH):
        raise Refused(f"The request body is nested more than {MAX_DEPTH} levels deep.", code="invalid_json")
    return value


def no_more_than(limit: int, entries: Sized, param: str) -> None:
    """Raise Refused if the list is too long."""
    if len(entries) > limit:
        raise Refused(f"'{param}' has {len(entries)} entries; at most {limit} can be sent.", param, "array_too_long")


def kind_name(value: Any) -> str:
    """The name of a value's type, for a message."""
    return _KIND_NAMES.get(type(value), "something else")


def optional(members: Mapping[str, Any], key: str, kind: str, at: str = "") -> Any:
    """The member `key` if it is of this kind; None if it is absent or null. `at` is the path before it, with a dot.

    Kinds: a string, an integer, a number, a boolean, an object, a list.
    """
    value = members.get(key)
    if value is None:
        return None
    return checked(value, kind, at + key)


def required(members: Mapping[str, Any], key: str, kind: str, at: str = "") -> Any:
    """As `optional`, but absent and null are refused."""
    value = members.get(key)
    if value is None:
        raise Refused(f"Missing required parameter: '{at}{key}'.", at + key, "missing_required_parameter")
    return checked(value, kind, at + key)


def checked(value: Any, kind: str, param: str) -> Any:
    """The value, which must be of this kind, else Refused. A boolean is no number; 3.0 is an integer."""
    if isinstance(value, _KINDS[kind]) and (kind == "a boolean" or value.__class__ is not bool):
        return value
    if kind == "an integer" and isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_COUNT:
        return int(value)
    raise Refused(f"Invalid type for '{param}': expected {kind}, but got {kind_name(value)}.", param, "invalid_type")


# ---- lenient: what an endpoint sent


def an_object(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def a_list(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def a_reason(value: Any) -> str:
    """The reason for which a response ended, in lower case with "_" for "-"; "" if there is none. A value of another
    type than a string is an unknown reason, named by its type."""
    if value.__class__ is str:
        return str(value[:_MAX_REASON_CHARS].strip().lower().replace("-", "_"))
    return f"a value of type {value.__class__.__name__}" if value else ""


def a_text(value: Any) -> str:
    """The value if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def a_count(value: Any) -> int:
    """The value if it is a count (an integer from 0, or a float that is one), else 0."""
    if value.__class__ is float and value.is_integer():
        value = int(value)
    return value if value.__class__ is int and 0 <= value < _LARGEST_COUNT else 0
