"""Captured exchanges as an HTTP Archive, version 1.2 (http://www.softwareishard.com/blog/har-12-spec/).

An exchange is one entry for its client, and one for each attempt; `_exchange` of an entry is the id, `_attempt` the
number of the attempt. Bodies that are no text are base64: in `content` by `encoding`, in `postData` by `_encoding`. A
body that was not kept as a whole has `_missing`. `_pieces` are milliseconds and bytes of the pieces in which a body
arrived. Fields with keys, and cookies, are masked; so `cookies` are empty.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from relayd import __version__
from relayd.cli.captured import Document, content_of, field, fields_of, plain_body


def archive(documents: Iterable[Document]) -> dict[str, Any]:
    """The archive of these exchanges."""
    entries = [entry for document in documents for entry in entries_of(document)]
    return {"log": {
        "version": "1.2", "creator": {"name": "relayd", "version": __version__}, "pages": [], "entries": entries,
    }}  # fmt: skip


def entries_of(document: Document) -> list[dict[str, Any]]:
    """The entries of one exchange: of its client, then of its attempts."""
    record, request, answer = document["record"], document["request"], document["response"]
    ended = datetime.datetime.fromisoformat(record["time"])
    began = ended - datetime.timedelta(milliseconds=record["total_ms"])
    host = field(request["fields"], "host") or "localhost"
    target = request["target"] if request["target"].startswith("/") else "/"
    found = [_entry(
        began, {**request, "url": f"{request['scheme']}://{host}{target}"}, answer, 0.0, _number(answer["ended_ms"]),
        {"_exchange": document["id"], "_record": record},
    )]
    for number, attempt in enumerate(document["attempts"], 1):
        sent = attempt["request"]
        if sent["body_of_client"]:
            sent = {**sent, "body": request["body"]}
        found.append(_entry(
            began, {**sent, "version": "HTTP/1.1"}, attempt["response"], attempt["begun_ms"],
            _number(attempt["ended_ms"]), {
                "_exchange": document["id"], "_attempt": number, "_upstream": attempt["upstream"],
                "_endpoint": attempt["endpoint"], "_code": attempt["code"], "_detail": attempt["detail"],
                "_blame": attempt["blame"], "_translated": attempt["translated"],
            },
        ))  # fmt: skip
    return found


def _entry(
    began: datetime.datetime, request: Document, answer: Document, begun_ms: float, ended_ms: float,
    further: dict[str, Any],
) -> dict[str, Any]:
    """An entry that begins `begun_ms` after `began`."""
    started = began + datetime.timedelta(milliseconds=begun_ms)
    total = max(0.0, ended_ms - begun_ms)
    waited = total if answer["begun_ms"] is None else max(0.0, min(total, answer["begun_ms"] - begun_ms))
    received = max(0.0, total - waited)
    return {
        "startedDateTime": started.isoformat(timespec="milliseconds"),
        "time": round(waited + received, 3),
        "request": _request(request),
        "response": _response(answer),
        "cache": {},
        "timings": {
            "blocked": -1, "dns": -1, "connect": -1, "ssl": -1, "send": 0, "wait": round(waited, 3),
            "receive": round(received, 3),
        },
        **further,
    }


def _request(request: Document) -> dict[str, Any]:
    url, body = request["url"], request["body"]
    query = parse_qsl(urlsplit(url).query, keep_blank_values=True, max_num_fields=10_000)
    made: dict[str, Any] = {
        "method": request["method"], "url": url, "httpVersion": request["version"], "cookies": [],
        "headers": _headers(request["fields"]),
        "queryString": [{"name": name, "value": value} for name, value in query],
        "headersSize": -1, "bodySize": body["size"],
    }
    if body["size"]:
        text, encoding = _content(request)
        made["postData"] = {"mimeType": field(request["fields"], "content-type"), "text": text, **_custom(body)}
        if encoding:
            made["postData"]["_encoding"] = encoding
    return made


def _response(answer: Document) -> dict[str, Any]:
    """A response; without one the status is 0."""
    body = answer["body"]
    text, encoding = _content(answer)
    data, is_plain = plain_body(answer)
    coding = field(answer["fields"], "content-encoding")
    size = len(data) if coding and is_plain and not body["missing"] else body["size"]
    content: dict[str, Any] = {
        "size": size, "mimeType": field(answer["fields"], "content-type") or "x-unknown", "text": text, **_custom(body),
    }
    if encoding:
        content["encoding"] = encoding
    if coding and is_plain:
        content["compression"] = size - body["size"]
    elif coding:
        content["_contentEncoding"] = coding
    return {
        "status": answer["status"], "statusText": answer["reason"], "httpVersion": "HTTP/1.1", "cookies": [],
        "headers": _headers(answer["fields"]), "content": content,
        "redirectURL": field(answer["fields"], "location"), "headersSize": -1, "bodySize": body["size"],
    }


def _content(message: Document) -> tuple[str, str]:
    """The text of a body, and its encoding: `base64`, or empty. Of a cut body, the beginning."""
    data, _ = plain_body(message)
    try:
        return data.decode(), ""
    except UnicodeDecodeError:
        return base64.b64encode(data).decode("ascii"), "base64"


def _custom(body: Document) -> dict[str, Any]:
    """The custom fields of a body."""
    found: dict[str, Any] = {}
    if body["missing"]:
        found = {"_missing": body["missing"], "comment": f"{body['missing']} of {body['size']} bytes were not kept."}
        if tail := content_of(body, "tail_"):
            found["_tail"] = tail.decode("utf-8", "backslashreplace")
    if len(body["pieces"]) > 1:
        found["_pieces"] = body["pieces"]
    return found


def _headers(lines: list[str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in fields_of(lines)]


def _number(value: float | None) -> float:
    return 0.0 if value is None else value
