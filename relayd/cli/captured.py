"""Captured exchanges as the admin application describes them, for the commands that show, export and replay them."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

from relayd.cli.output import amount, json_text, plain

Document = dict[str, Any]
MOST_DECODED = 64 << 20  # bytes of a decompressed body


def content_of(body: Document, prefix: str = "") -> bytes:
    """The kept bytes of a body: of its beginning, or with the prefix `tail_` of its end."""
    if (encoded := body.get(f"{prefix}base64")) is not None:
        return base64.b64decode(encoded)
    return str(body.get(f"{prefix}text", "")).encode("utf-8", "surrogatepass")


def fields_of(lines: list[str]) -> Iterator[tuple[str, str]]:
    """The names and values of field lines."""
    for line in lines:
        name, _, value = line.partition(":")
        yield name.strip(), value.strip()


def field(lines: list[str], wanted: str) -> str:
    """The first value of a field; empty without one."""
    return next((value for name, value in fields_of(lines) if name.lower() == wanted), "")


def decoded(data: bytes, coding: str) -> bytes | None:
    """A body without its content coding (RFC 9110 8.4.1); None if relayd cannot decode it."""
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return data
    try:
        if coding in ("gzip", "x-gzip"):
            return _inflated(data, 31)
        if coding == "deflate":
            try:
                return _inflated(data, 15)
            except zlib.error:
                return _inflated(data, -15)  # without the zlib header, as some servers send it
    except (zlib.error, gzip.BadGzipFile, EOFError):
        return None
    return None


def _inflated(data: bytes, window: int) -> bytes | None:
    inflater = zlib.decompressobj(window)
    found = inflater.decompress(data, MOST_DECODED)
    return found if not inflater.unconsumed_tail else None


def plain_body(message: Document) -> tuple[bytes, bool]:
    """The kept beginning of a message's body without its content coding, and True if that worked."""
    data = content_of(message["body"])
    found = decoded(data, field(message["fields"], "content-encoding"))
    return (data, False) if found is None else (found, True)


def body_lines(message: Document) -> Iterator[str]:
    """The body of a message as text: JSON indented; notes mark missing parts and binary data."""
    body = message["body"]
    size, missing = body["size"], body["missing"]
    if not size:
        return
    data, is_plain = plain_body(message)
    text = _text(data) if is_plain else None
    if body["masked"] and missing < size:
        yield "# A key was replaced by *** in this body."
    if missing == size:
        why = " because of a key, or because relayd cannot decode it to look for keys" if body["masked"] else ""
        yield f"# A body of {size} bytes, which was not kept{why}."
        return
    if text is None:
        yield f"# A body of {size} bytes that is no text" + (f", of which {missing} are not kept." if missing else ".")
        return
    yield from (_pretty(text) if not missing else text).split("\n")
    if missing:
        yield f"# ... {missing} of {size} bytes are not kept ..."
        if (tail := _text(content_of(body, "tail_"))) and is_plain:
            yield from tail.split("\n")


def _text(data: bytes) -> str | None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return "\n".join(plain(line) for line in text.replace("\r\n", "\n").split("\n"))


def _pretty(text: str) -> str:
    if text[:1] not in "{[":
        return text
    try:
        return json_text(json.loads(text), indent=2)
    except (ValueError, RecursionError):
        return text


def lines(document: Document, *, raw: bool = False) -> Iterator[str]:
    """An exchange for display. `raw`: bodies as they are, not indented."""
    record, request, answer = document["record"], document["request"], document["response"]
    yield f"exchange  {plain(document['id'])}"
    yield f"time      {record['time']}, {record['total_ms']} ms"
    names = ("route", "consumer", "upstream", "endpoint", "model")
    yield "path      " + ", ".join(f"{name} {plain(str(record[name]))}" for name in names if record.get(name))
    yield "outcome   " + " ".join(plain(str(one)) for one in (
        record["status"], record["outcome"], record["code"], record["detail"]) if one)
    yield ""
    yield f"> {request['method']} {plain(request['target'])} {request['version']}"
    yield from _message(request, "> ", raw=raw)
    for number, attempt in enumerate(document["attempts"], 1):
        yield ""
        yield from _attempt(number, attempt, raw=raw)
    yield ""
    if answer["status"]:
        yield f"< {answer['status']} {plain(answer['reason'])}".rstrip() + _at(answer)
        yield from _message(answer, "< ", raw=raw)
        yield from (f"< {plain(line)}" for line in answer["trailers"])
    else:
        yield "< no response was sent to the client"


def _attempt(number: int, attempt: Document, *, raw: bool) -> Iterator[str]:
    request, answer = attempt["request"], attempt["response"]
    result = attempt["code"] or (str(answer["status"]) if answer["status"] else "no response")
    reasons = [one for one in (attempt["detail"], f"blame {attempt['blame']}" if attempt["blame"] else "") if one]
    yield (f"attempt {number}  {plain(attempt['upstream'])} {plain(attempt['endpoint'])}, {attempt['begun_ms']} to "
           f"{attempt['ended_ms']} ms, {plain(result)}" + (f" ({plain('; '.join(reasons))})" if reasons else "")
           + (", translated" if attempt["translated"] else ""))
    yield f">> {request['method']} {plain(request['url'])}"
    if request["body_of_client"]:
        yield from (f">> {plain(line)}" for line in request["fields"])
        yield ">> (the client's body, as it arrived)"
    else:
        yield from _message(request, ">> ", raw=raw)
    for status in answer["interim"]:
        yield f"<< {status} (interim)"
    if attempt["tunnel"]:
        yield "<< the bytes of an upgraded connection are not captured"
    elif answer["status"]:
        yield f"<< {answer['status']} {plain(answer['reason'])}".rstrip() + _at(answer)
        yield from _message(answer, "<< ", raw=raw)
        yield from (f"<< {plain(line)}" for line in answer["trailers"])
    else:
        yield "<< no response"


def _at(answer: Document) -> str:
    pieces = answer["body"]["pieces"]
    arrived = "" if len(pieces) < 2 else (
        f", {len(pieces) + answer['body']['pieces_omitted']} pieces until {pieces[-1][0]} ms")
    return "" if answer["begun_ms"] is None else f"   ({answer['begun_ms']} ms{arrived})"


def _message(message: Document, mark: str, *, raw: bool) -> Iterator[str]:
    for line in message["fields"]:
        yield mark + plain(line)
    found = raw_lines(message) if raw else body_lines(message)
    yield from (mark + line if line else mark.rstrip() for line in ("", *found))


def raw_lines(message: Document) -> Iterator[str]:
    """The kept bytes of a body as text, undecoded and not indented."""
    body = message["body"]
    text = content_of(body).decode("utf-8", "backslashreplace")
    if text:
        yield from (plain(line) for line in text.replace("\r\n", "\n").split("\n"))
    if body["missing"]:
        yield f"# ... {body['missing']} of {body['size']} bytes are not kept ..."
        if tail := content_of(body, "tail_").decode("utf-8", "backslashreplace"):
            yield from (plain(line) for line in tail.split("\n"))


def summary_row(one: Document) -> tuple[str, ...]:
    """An exchange in a table: id, time, route, request, status, outcome, attempts, size."""
    record = one["record"]
    outcome = " ".join(str(text) for text in (record["outcome"], record["code"]) if text)
    return (
        plain(one["id"]), str(record["time"])[11:23], plain(record["route"]) or "-",
        plain(f"{record['method']} {record['path']}"), str(record["status"]), plain(outcome),
        str(record["attempts"]), amount(one["size_bytes"]),
    )
