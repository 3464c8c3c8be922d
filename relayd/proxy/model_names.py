"""The places besides the path and the body's own `model` that name a model: query, header fields, other members.

Rules:
1. A place that names the model for a well-known server is read, and replaced where an alias replaces the model. If the
   model decides, all places of a request must name the same model.
2. What names several models, or refers to stored data that may name one, is refused if the model decides.

Sources: OpenAI (Realtime: `?model=`, `session.model`; Responses: `prompt.id`; Assistants: `assistant_id`; Batch), Azure
OpenAI (`?deployment=` of Realtime) and Azure Machine Learning, Amazon SageMaker, the Gateway API Inference Extension,
OpenRouter (`models`, `route`, `preset`), Gemini (`generateContentRequest` of countTokens), LiteLLM (`fallbacks`; its
OpenAI SDK merges `extra_body` into the body). Not read: the model of a hosted tool (`tools[].model` of
image_generation), and of the members of a Gemini batch of embeddings, which Google requires to be that of the path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote_plus, unquote_to_bytes

from relayd.errors import ExchangeError
from relayd.lazy_regex import lazy_regex
from relayd.protocols._json import write_string
from relayd.wire.body import COMMON_KEYS, JsonBody, folded, inspect_member, name_fault
from relayd.wire.headers import MODEL_FIELDS, Memo, folded_name_of
from relayd.wire.http1 import RequestHead
from relayd.wire.path import may_be_ambiguous, readings

Named = tuple[str, str]  # the source, as in an error message, and the model's name

_OBJECTS = ("session", "extra_body", "generateContentRequest")  # their member `model` is read
_TRANSCRIPTIONS = frozenset(("audio", "inputaudiotranscription"))  # folded keys of a session with models of their own
_LISTS = ("models", "fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
_STORED = ("assistant_id", "preset")
_SPECIAL = {folded(key): key for key in (*_OBJECTS, *_LISTS, *_STORED, "route", "response")}
_PROMPTS = frozenset(("model", "messages", "prompt", "input", "contents"))  # a request to a model has one of these
_SPECIAL_PATH = lazy_regex(
    rb"/(batches|realtime/calls|realtime/transcription_sessions|evals|graders)(?:/[^/]+/runs|/run|/validate)?/?$",
    re.IGNORECASE,
)
_REFUSED_KINDS = {
    "batches": "a batch names models in its requests or in a file",
    "evals": "an evaluation names models in its data source and its graders",
    "graders": "a grader names its model in another key",
    "realtime/transcription_sessions": "a transcription session names its model in another key",
}
_MOST_FORM_BYTES = 256 * 1024  # a body is decoded in one turn of the loop
_JUNK = rb"[^&;=0-9A-Za-z]*"  # that some servers ignore in a key
_FORM_MODEL = lazy_regex(
    rb"[&;]" + _JUNK + _JUNK.join(bytes((letter,)) for letter in b"model") + _JUNK + rb"(?:\0[^&;=]*)?=", re.IGNORECASE
)
_EMPTY = (b"null", b"[]", b'""', b"{}", b"false")


def unclear(reason: str) -> ExchangeError:
    """The error for a request whose model is ambiguous."""
    return ExchangeError(
        "ambiguous_body", reason, message=f"The model cannot be read from this request with certainty: {reason}."
    )


def _kind_of(path: bytes) -> str:
    for one in readings(path) if may_be_ambiguous(path) else (path,):
        if (found := _SPECIAL_PATH.search(one)) is not None:
            return found[1].decode().lower()
    return ""


_KINDS: Memo[str] = Memo(_kind_of)


# ---- the query


def in_query(head: RequestHead) -> list[Named]:
    """The model in the query, if any. Raises ExchangeError if servers can read it differently."""
    query = head.query[1:]
    if not query or not (b"%" in query or b"mo" in (low := query.lower()) or b"deployment" in low):
        return []
    is_realtime = head.path.rstrip(b"/").lower().endswith(b"/realtime")
    keys = ("model", "deployment") if is_realtime else ("model",)
    found: list[Named] = []
    for part in query.split(b"&"):
        pieces = part.split(b";")
        for piece in pieces:
            raw, _, value = piece.partition(b"=")
            key = _decoded(raw).decode("utf-8", "replace")
            if (same := folded(key)) not in keys:
                continue
            if key != same:
                raise unclear(f"some servers read another parameter of the query as {same}")
            if len(pieces) > 1:
                raise unclear(f"the parameter {key} of the query has no unambiguous end")
            if any(source.endswith(key) for source, _ in found):
                raise unclear(f"the parameter {key} of the query is repeated")
            try:
                model = _decoded(value).decode("utf-8")
            except UnicodeDecodeError:
                raise unclear(f"the parameter {key} of the query is not UTF-8") from None
            if fault := name_fault(model):
                raise unclear(fault.replace("model", f"the parameter {key} of the query", 1))
            found.append((f"the query's {key}", model))
    return found


def query_with_model(head: RequestHead, model: str) -> bytes:
    """The query with this model in place of its own."""
    names = {source.rpartition(" ")[2] for source, _ in in_query(head)}
    if not names:
        return head.query
    parts = head.query[1:].split(b"&")
    for index, part in enumerate(parts):
        raw = part.partition(b"=")[0]
        if _decoded(raw).decode("utf-8", "replace") in names:
            parts[index] = raw + b"=" + quote_plus(model).encode()
    return b"?" + b"&".join(parts)


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


# ---- header fields


def in_fields(head: RequestHead) -> list[Named]:
    """The models in header fields. Raises ExchangeError for a value that is not a name."""
    found: list[Named] = []
    for line in head.overrides:
        if (name := folded_name_of(line)) in MODEL_FIELDS:
            model = line.partition(b":")[2].strip(b" \t").decode("latin-1")
            if not model.isascii() or name_fault(model):
                raise unclear(f"its field {name.decode()} is not the name of a model")
            found.append((f"its field {name.decode()}", model))
    return found


def line_with_model(line: bytes, model: str) -> bytes:
    """A header field line, with this model if it names one."""
    return line.partition(b":")[0] + b": " + model.encode() if folded_name_of(line) in MODEL_FIELDS else line


# ---- the body


def in_body(head: RequestHead, body: JsonBody) -> list[Named]:
    """The models that other members than `model` name. Raises ExchangeError for what cannot be compared."""
    if (reason := _REFUSED_KINDS.get(_KINDS[head.path])) is not None:
        raise unclear(reason)
    return [] if body.model and COMMON_KEYS.issuperset(body.spans) else list(_in_members(body, ""))


def in_other_reading(head: RequestHead, body: bytes) -> None:
    """Raises ExchangeError for a JSON body of which the Content-Type is that of a form (curl states it by default), if
    it names a model when it is read as a form."""
    if b"urlencoded" not in head.type_line.lower():
        return
    if len(body) > _MOST_FORM_BYTES:
        raise unclear("its Content-Type is that of a form, and it is too large to be compared as one")
    if _FORM_MODEL.search(_decoded(body)) is not None:
        raise unclear("its Content-Type is that of a form, and as a form it names another model")


def in_form(head: RequestHead) -> None:
    """Raises ExchangeError for a form that may name a model in another field than `model`."""
    if _KINDS[head.path] == "realtime/calls":
        raise unclear("the session in its form may name a model")


def _in_members(body: JsonBody, prefix: str) -> Iterator[Named]:
    spans = body.spans
    special = [(key, known) for key in spans if key not in COMMON_KEYS and (known := _SPECIAL.get(folded(key)))]
    if not body.model and not prefix:
        prompt = inspect_member(body, "prompt")
        if prompt is not None and (prompt.fault or "id" in prompt.spans):
            raise unclear("prompt refers to a stored prompt, which may name a model")
        if "assistant_id" in spans:
            raise unclear("assistant_id refers to a stored assistant, which names a model")
    if not special:
        return
    is_turn = body.string("type") == "response.create"
    is_request = is_turn or bool(prefix) or any(folded(key) in _PROMPTS for key in spans)
    for key, known in special:
        if not is_request and known not in _OBJECTS:
            continue
        span = body.span(key)
        if span is None:
            raise unclear(f"the key {prefix}{key} is repeated")
        text = body.body[span[0] : span[1]] if span[1] - span[0] < 16 else b"..."
        if text in _EMPTY:
            continue
        if known in _LISTS:
            raise unclear(f"{prefix}{key} may name other models")
        if known == "route" and (text == b'"fallback"' or body.body[span[0] : span[0] + 1] == b"{"):
            raise unclear(f"{prefix}{key} permits other models")
        if known == "preset":
            raise unclear(f"{prefix}{key} refers to stored settings, which may name a model")
        if known in ("response", *_OBJECTS):
            yield from _in_object(body, key, known, prefix)


def _in_object(body: JsonBody, key: str, known: str, prefix: str) -> Iterator[Named]:
    """The model in the member `key`, which is read like `known`."""
    member = inspect_member(body, key)
    if member is None:
        return
    if reason := member.refusal_reason:
        raise unclear(f"{prefix}{key} cannot be read: {reason}")
    if known == "extra_body":
        if prefix:
            raise unclear(f"{prefix}{key} is an extra_body of another one")
        yield from _in_members(member, f"{key}.")
    if member.model is None:
        if known == "session" and not _TRANSCRIPTIONS.isdisjoint(map(folded, member.spans)):
            raise unclear(f"{prefix}{key} may name a model of transcription")
        return
    if known == "response" or key != known:
        raise unclear(f"{prefix}{key}.model may be read as the model")
    yield f"{prefix}{key}.model", member.model


def edits_of(body: JsonBody, model: str) -> list[tuple[int, int, bytes]]:
    """The edits of a body that write this model in other members than `model`."""
    edits = []
    for key in _OBJECTS:
        span = body.span(key)
        member = None if span is None else inspect_member(body, key)
        if span is not None and member is not None and (inner := member.span("model")) is not None:
            start = "models/" if (member.model or "").startswith("models/") else ""  # as Google's APIs want it
            edits.append((span[0] + inner[0], span[0] + inner[1], write_string(start + model)))
    return edits
