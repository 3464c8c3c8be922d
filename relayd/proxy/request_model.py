"""The requested model: read from the path, the JSON body or the form, and compared with all other places that name it.

Rules:
1. If the model decides (a rule on models, `upstream: by_model`) or is replaced, a request that is unreadable or has
   more than one reading is refused, with the reason. So is a request of which two places name different models.
2. Otherwise nothing is refused: an unreadable request has no model, and its bytes pass through.
3. A model in the path is percent-decoded. A path whose normalised form names another model is refused.
"""

from __future__ import annotations

import functools
from urllib.parse import unquote_to_bytes

from relayd.access.identity import Identity
from relayd.errors import ExchangeError
from relayd.lazy_regex import lazy_regex
from relayd.plan.plan import Resilience
from relayd.protocols.multipart import MOST_PARTS, ModelFinder, MultipartError, boundary_of
from relayd.proxy.api_path import models_in_path
from relayd.proxy.model_names import in_body, in_fields, in_form, in_other_reading, in_query, unclear
from relayd.wire.body import JsonBody, folded, inspect_json, name_fault
from relayd.wire.headers import Memo
from relayd.wire.http1 import RequestHead
from relayd.wire.path import may_be_ambiguous, normalise, readings

_OLLAMA_PATH = lazy_regex(rb"/api/(show|delete|pull|push|create|copy)/?$")
_VERB = lazy_regex(rb"[A-Za-z0-9]+")
_OLLAMA_KEYS = frozenset(("model", "name", "source", "from", "modelfile"))
_FORM = b"multipart/form-data"
_CHARSET = lazy_regex(rb";\s*charset\s*=\s*\"?([^\s\";]*)")
_USUAL_TYPES = frozenset((b"Content-Type: application/json", b"content-type: application/json"))
_DASHES = (b"-", b"_")
_TYPE_OR_ENCODING = (b"T", b"t", b"E", b"e")
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"ascii")


def model_decides(resilience: Resilience | None, identity: Identity | None = None) -> bool:
    """True if the route selects targets by the model, or replaces the model, or if models, rates or budgets of the
    consumer or the route depend on it."""
    return resilience is not None and (
        resilience.by_model
        or (resilience.dialect is not None and resilience.counts_models)
        or (resilience.dialect is not None and identity is not None and identity.by_model)
        or any(target.model is not None for target in resilience.fallbacks)
        or any(target.model is not None for _, target in resilience.split)
    )


# ---- the path


def model_in_path(path: bytes) -> str | None:
    """The model that the path names. Raises ExchangeError for a path with more than one reading."""
    return _MODELS[path]


def _compared_model_in(path: bytes) -> str | None:
    if not may_be_ambiguous(path):
        return _model_in(path)
    model = _model_in(path)
    if model != _model_in(unquote_to_bytes(normalise(path))):
        raise ExchangeError("ambiguous_path", "another model after normalisation")
    return model


_MODELS: Memo[str | None] = Memo(_compared_model_in)


def _model_in(path: bytes) -> str | None:
    names = set()
    for found in models_in_path(path):
        raw = path[found.start : found.end]
        # Some readers truncate at a semicolon or a blank.
        if b";" in raw or (found.verb is not None and _VERB.fullmatch(found.verb) is None):
            raise ExchangeError("ambiguous_path", "the model in the path has no unambiguous end")
        names.add(raw)
    if not names:
        return None
    if len(names) > 1:
        raise ExchangeError("ambiguous_path", "the path names two models")
    try:
        model = unquote_to_bytes(names.pop()).decode("utf-8")
    except UnicodeDecodeError:
        raise ExchangeError("ambiguous_path", "the model is not UTF-8") from None
    if name_fault(model):
        raise ExchangeError("ambiguous_path", name_fault(model))
    return model


# ---- the body


def deciding_model(
    head: RequestHead, body: bytes | None, json_body: JsonBody | None = None, form: FormFinder | None = None
) -> str:
    """The model of a request with a whole body, for a decision; empty for none. Raises ExchangeError.

    `json_body` and `form` are the results of an earlier inspection, if any.
    """
    if not body:
        return agreed_model(head, "")
    require_readable(head)
    if json_body is None:
        if is_form(head):
            if form is None:
                form = FormFinder(_boundary(head))
                form.feed(body)
            form.end()
            return agreed_model(head, form.model or "")
        json_body = inspect_json(body)
    if json_body.refusal_reason:
        raise unclear(json_body.refusal_reason)
    if head.type_line not in _USUAL_TYPES:
        in_other_reading(head, body)
    verb = _OLLAMA_VERBS[head.path]
    model = json_body.model if verb is None else _model_in_ollama_body(verb, json_body)
    return agreed_model(head, model or "", json_body)


def agreed_model(head: RequestHead, model: str, json_body: JsonBody | None = None) -> str:
    """The model that all places of a request name; empty for none. `model` is the body's own, `json_body` a JSON body.
    Raises ExchangeError if two places differ."""
    in_path = _MODELS[head.path]
    others = [*in_query(head), *in_fields(head)] if head.query or head.overrides else []
    if json_body is not None:
        others += in_body(head, json_body)
    elif is_form(head):
        in_form(head)
    if in_path is not None:
        if model and model.removeprefix("models/") != in_path:
            raise unclear("the path names another model")
        model = in_path
    for source, name in others:
        model = model or name
        if name and name.removeprefix("models/") != model.removeprefix("models/"):
            raise unclear(f"{source} names another model")
    return model


def model_key(head: RequestHead, json_body: JsonBody) -> str:
    """The member of a body that names the model. On some paths of Ollama it is not `model`."""
    verb = _OLLAMA_VERBS[head.path]
    return "model" if verb is None else _ollama_key(verb, json_body)


def _ollama_verb(path: bytes) -> bytes | None:
    """The verb of an Ollama request that manages models, in any reading of the path; None for other paths. Raises
    ExchangeError for a path with too many readings."""
    if b"/api" not in path and b"%" not in path and b"\\" not in path:
        return None
    for reading in readings(path) if may_be_ambiguous(path) else (path,):
        if (match := _OLLAMA_PATH.search(reading)) is not None:
            return match[1]
    return None


_OLLAMA_VERBS: Memo[bytes | None] = Memo(_ollama_verb)


def _ollama_key(verb: bytes, json_body: JsonBody) -> str:
    """A copy reads `source`, a new model is created `from` another; otherwise `name` is the older form of `model`."""
    if verb == b"copy":
        return "source"
    if verb == b"create" and "from" in json_body.spans:
        return "from"
    has_no_model = "model" not in json_body.spans or json_body.model == ""
    return "name" if "name" in json_body.spans and has_no_model else "model"


def _model_in_ollama_body(verb: bytes, json_body: JsonBody) -> str | None:
    """The model in the body of an Ollama request. Raises ExchangeError if it is ambiguous."""
    for key in json_body.spans:
        if (folded_key := folded(key)) in _OLLAMA_KEYS and (key != folded_key or json_body.spans[key] is None):
            problem = "the key is repeated" if key == folded_key else "a key equals it only for some readers"
            raise unclear(f"{folded_key} names a model, and {problem}")
    if verb == b"create" and "modelfile" in json_body.spans:
        raise unclear("its modelfile may name another model")
    if json_body.model and "name" in json_body.spans and json_body.string("name") != json_body.model:
        raise unclear("model and name differ")
    key = _ollama_key(verb, json_body)
    if key == "model" or key not in json_body.spans:
        return json_body.model
    named = json_body.string(key)
    if reason := name_fault(named):
        raise unclear(reason.replace("model", key))
    return named


def probable_model(head: RequestHead, body: bytes | None, json_body: JsonBody | None) -> str:
    """The model of a request if it decides nothing; empty if it is missing or ambiguous."""
    try:
        in_path = model_in_path(head.path)
        if in_path is not None or not body:
            return in_path or ""
        if json_body is not None:
            key = model_key(head, json_body)
            return (json_body.model if key == "model" else json_body.string(key)) or ""
        form = FormFinder(_boundary(head))
        form.feed(body)
        return form.model or ""
    except ExchangeError:
        return ""


@functools.lru_cache(maxsize=32)  # most requests have the same fields
def _is_usual(names: frozenset[bytes]) -> bool:
    """True if Content-Type is the only one of these lower-case names that describes the body to some server."""
    alike = [name for name in names if name.replace(b"_", b"-") in (b"content-type", b"content-encoding")]
    return alike == [b"content-type"]


def require_readable(head: RequestHead) -> None:
    """Check that the header section permits reading the body. Raises ExchangeError."""
    names = head.names
    if names is not None and len(names) == len(head.lines) and head.type_line in _USUAL_TYPES and _is_usual(names):
        return
    type_count = 0
    for line in head.lines:
        if line in _USUAL_TYPES:
            type_count += 1
            continue
        # Servers differ in whether Content_Type equals Content-Type.
        if line[7:8] not in _DASHES or line[8:9] not in _TYPE_OR_ENCODING or line[:7].lower() != b"content":
            continue
        name, _, value = line.partition(b":")
        name, value = name.lower().replace(b"_", b"-"), value.strip(b" \t").lower()
        if name == b"content-encoding" and value not in (b"", b"identity"):
            raise unclear("its Content-Encoding is not identity")
        if name == b"content-type":
            type_count += 1
            if b"charset" in value:
                charset = _CHARSET.search(value)
                if charset is None or charset[1] not in _CHARSETS or value.count(b"charset") > 1:
                    raise unclear("its charset is not UTF-8")
    if type_count > 1:
        raise unclear("it has more than one Content-Type")
    if is_form(head) and not _boundary(head):
        raise unclear("its form has no boundary, or an ambiguous one")


def is_form(head: RequestHead) -> bool:
    """True if the body is multipart/form-data."""
    line = head.type_line
    if line in _USUAL_TYPES:
        return False
    kind = line.partition(b":")[2]
    return kind.strip(b" \t")[: len(_FORM)].lower() == _FORM


def _boundary(head: RequestHead) -> bytes:
    return boundary_of((head.get(b"content-type") or b"").decode("latin-1")) or b""


class FormFinder:
    """Reads a form as it arrives until its model is found or excluded, and checks the rest of the form."""

    __slots__ = ("_finder", "_has_no_model", "_reads_all", "_refuses", "bytes_read")

    def __init__(self, boundary: bytes, *, refuses: bool = True, whole: bool = False) -> None:
        """`refuses`: a form with more than one reading is refused, else it has no model. `whole`: the form is read to
        its end. `bytes_read` is the number of bytes read so far."""
        self._finder = ModelFinder(boundary)
        self._refuses, self._reads_all = refuses, whole
        self._has_no_model = False
        self.bytes_read = 0

    @property
    def reads_all(self) -> bool:
        """True if the form must be read to its end."""
        return self._reads_all

    @property
    def model(self) -> str | None:
        return None if self._has_no_model else self._finder.model

    @property
    def refuses(self) -> bool:
        """True if the model of the form decides."""
        return self._refuses

    def feed(self, data: bytes) -> bool:
        """Read a piece. Returns True if no more is needed. Raises ExchangeError."""
        self.bytes_read += len(data)
        if self._has_no_model:
            return not self._reads_all
        try:
            model = self._finder.scan(data)
        except MultipartError as fault:
            return self._reject(_FORM_FAULTS.get(fault.rule, f"its form is not valid ({fault.rule})"))
        if model and name_fault(model):
            return self._reject(name_fault(model))
        return not self._reads_all and (model is not None or self._finder.is_complete)

    def end(self) -> None:
        """Check the end of the form. Raises ExchangeError."""
        try:
            self._finder.finish()
        except MultipartError as fault:
            self._reject(_FORM_FAULTS.get(fault.rule, fault.rule))

    def _reject(self, reason: str) -> bool:
        if self._refuses:
            raise unclear(reason)
        self._has_no_model = True
        return not self._reads_all

    def renamed(self, form: bytes, model: str) -> bytes:
        """Replace the model in the form, or in its beginning."""
        finder = self._finder
        start, end = finder.value_offset, finder.value_offset + finder.value_bytes
        return b"".join((memoryview(form)[:start], model.encode(), memoryview(form)[end:]))


class FormTransform:
    """Forwards a form whose model was read from its beginning, and replaces the model if required. The rest must not
    contain another model. Owned by the request body for one attempt; the first piece contains the whole beginning."""

    __slots__ = ("_form", "_model", "_position", "grows_bytes")

    def __init__(self, form: FormFinder, model: str | None) -> None:
        """`model` replaces the form's own, None keeps it. `grows_bytes` is the change of the form's size."""
        self._form, self._model = form, model
        self._position = 0
        self.grows_bytes = 0 if model is None else len(model.encode()) - len((form.model or "").encode())

    def feed(self, data: bytes, last: bool) -> bytes:
        """Convert a piece. Raises ExchangeError if the rest of the form is invalid or has more than one reading."""
        form, start = self._form, self._position
        self._position += len(data)
        new = data[max(0, form.bytes_read - start) :]
        if new:
            form.feed(new)
        if last:
            form.end()
        return data if start or self._model is None else form.renamed(data, self._model)


def form_finder(head: RequestHead, *, refuses: bool = True, whole: bool = False) -> FormFinder | None:
    """The model finder for a form; None for other bodies. Raises ExchangeError for an ambiguous boundary."""
    if not is_form(head):
        return None
    boundary = _boundary(head)
    if not boundary and refuses:
        require_readable(head)
    return FormFinder(boundary, refuses=refuses, whole=whole) if boundary else None


_FORM_FAULTS = {
    "repeated_model": "its form has two fields model",
    "name": "its form has a field that is named model for some readers",
    "model_is_a_file": "the field model of its form is a file",
    "model_type": "the field model of its form is not plain text",
    "model_coding": "the field model of its form has a Content-Transfer-Encoding",
    "value": "the field model of its form is not valid UTF-8",
    "value_size": "model is too long",
    "cut": "its form is truncated",
    "parts": f"its form has more than {MOST_PARTS} parts",
    "nested": "a part of its form contains a form",
    "behind_end": "data follows the end of its form",
    "before_beginning": "data precedes the beginning of its form",
}
