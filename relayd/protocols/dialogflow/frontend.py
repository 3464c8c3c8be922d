"""The fulfilment webhook of Dialogflow ES v2: answers a spoken question with a short text, using the session's history.

Laws:
1. A session's turns are stored for half an hour after the last one, a bounded number of bounded texts; failed turns are
   not stored.
2. The response never exceeds Dialogflow's limit (64 KiB). Dialogflow waits 5 seconds, which the route's total timeout
   must enforce; a timeout is answered with an apology, because Dialogflow shows no errors.
3. GET and HEAD are health checks and never go upstream.

The model's name in requests is `dialogflow`; `models:` in the configuration maps it to a model.
"""

from __future__ import annotations

import hashlib
from typing import Any

from relayd import clock
from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex
from relayd.protocols import _json, _openai_errors
from relayd.protocols._bounds import TextBuffer
from relayd.protocols.canon import End, Event, Failure, Message, RefusalDelta, Request, Text, TextDelta
from relayd.protocols.dialect import Dialect, EncodedResponse, Memory, Refused, Renderer, RequestContext, run_steps
from relayd.wire.json_steps import Steps

MOST_BYTES = 64 * 1024
MOST_QUERY = 8192
MOST_REMEMBERED = 4096  # characters of one text
_KEY = "dialogflow."
_LANGUAGE = lazy_regex(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8}){0,3}")


@dataclass(frozen=True, slots=True)
class Settings:
    """The request's settings, and texts for missing responses.

    model: the name for the table of models. turns: the number of stored questions and answers, kept for remember_s.
    late, silent: the text for a response that comes too late, and for an empty one.
    """

    model: str = "dialogflow"
    instructions: str = "Answer in at most three short sentences that can be read aloud. No lists, no markup."
    max_tokens: int = 256
    turns: int = 10
    remember_s: float = 1800.0
    late: str = "I need more time for that. Please ask me again."
    silent: str = "I have no answer to that."


_DEFAULTS = Settings()


def dialect(settings: Settings = _DEFAULTS) -> Dialect:
    """The dialect with other settings."""

    def read_request(body: bytes, context: RequestContext) -> Request:
        return run_steps(read_steps(_json.read_object(body), context))

    def read_steps(members: dict[str, Any], context: RequestContext) -> Steps[Request]:
        yield
        query = _json.required(members, "queryResult", "an object")
        text = _json.required(query, "queryText", "a string", "queryResult.")
        if not text.strip() or len(text) > MOST_QUERY:
            raise Refused("The question is empty or too long.", "queryResult.queryText", "invalid_value")
        session = _json.optional(members, "session", "a string") or ""
        language = _json.optional(query, "languageCode", "a string", "queryResult.") or ""
        instructions = settings.instructions
        if _LANGUAGE.fullmatch(language):
            instructions += f" The language is {language}."
        messages = [Message("system", (Text(instructions),))]
        turns = yield from _turns(context.memory, session, settings)
        for question, answer in turns:
            messages += [Message("user", (Text(question),)), Message("assistant", (Text(answer),))]
        messages.append(Message("user", (Text(text),)))
        return Request(
            model=settings.model,
            messages=tuple(messages),
            max_tokens=settings.max_tokens,
            extra={"session": session, "query": text, "turns": turns},
        )

    def renderer(request: Request, context: RequestContext) -> FulfilmentRenderer:
        return FulfilmentRenderer(request, context, settings)

    def render_error(failure: Failure, request_id: str) -> EncodedResponse:
        if failure.status == 504:
            return _fulfilment(settings.late)
        return _openai_errors.render_error(failure, request_id)

    return Dialect(
        name="dialogflow",
        title="Dialogflow fulfilment",
        paths=("/webhook",),
        render_error=render_error,
        read_error=_openai_errors.read_error,
        read_request=read_request,
        read_steps=read_steps,
        recalls=True,
        renderer=renderer,
        local=local,
        drops=(
            "Contexts, parameters and payloads are left out: the model sees the text and the history.",
            "The response contains the text and a refusal only: reasoning, tool calls, logprobs, usage, a reached "
            "limit, a filter, the matched stop string and more than one choice are left out.",
        ),
    )


def local(context: RequestContext, body: bytes) -> EncodedResponse | None:
    """The response to a health check of a browser or a monitor."""
    if context.method in ("GET", "HEAD"):
        return EncodedResponse(200, _json.write({"status": "ok", "webhook": "dialogflow"}))
    return None


class FulfilmentRenderer(Renderer):
    """Collects one response and stores it; owned by the exchange."""

    __slots__ = ("_context", "_failure", "_is_ended", "_request", "_settings", "_size_chars", "_texts")

    def __init__(self, request: Request, context: RequestContext, settings: Settings) -> None:
        self._request, self._context, self._settings = request, context, settings
        self._texts, self._size_chars = TextBuffer(), 0
        self._failure: Failure | None = None
        self._is_ended = False

    def render(self, events: list[Event]) -> bytes:
        """Collect the events; no bytes before the end."""
        for event in events:
            if self._is_ended:
                break
            if isinstance(event, TextDelta | RefusalDelta):
                if event.choice == 0 and self._size_chars < MOST_BYTES:  # the rest would exceed the limit
                    self._size_chars += len(event.text)
                    self._texts.add(event.text)
            elif isinstance(event, Failure):
                self._is_ended, self._failure = True, event
            elif isinstance(event, End):
                self._is_ended = True
                self._remember()
        return b""

    def keepalive(self) -> bytes:
        """A plain response has no keep-alive."""
        return b""

    def response(self) -> EncodedResponse:
        """The plain response."""
        if not self._is_ended:
            self._failure = Failure(502, "The upstream's answer is not complete.")
        if self._failure is None:
            return _fulfilment(self._texts.text().strip() or self._settings.silent)
        if self._failure.status == 504:
            return _fulfilment(self._settings.late)
        return _openai_errors.render_error(self._failure, self._context.request_id)

    def _remember(self) -> None:
        session, answer = self._request.extra["session"], self._texts.text().strip()
        if not session or not answer:
            return
        last = [*self._request.extra["turns"], (self._request.extra["query"], answer)][-self._settings.turns :]
        stored = [[question[:MOST_REMEMBERED], text[:MOST_REMEMBERED]] for question, text in last]
        self._context.memory.put(_key(session), {"at": clock.wall(), "turns": stored})


def _key(session: str) -> str:
    return _KEY + hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()


def _turns(memory: Memory, session: str, settings: Settings) -> Steps[list[tuple[str, str]]]:
    """The stored turns of this session; empty if they are older than remember_s."""
    stored: Any = (yield from memory.get_steps(_key(session))) if session else None
    if not isinstance(stored, dict) or not isinstance(stored.get("at"), int | float):
        return []
    if clock.wall() - stored["at"] > settings.remember_s:
        return []
    turns = [turn for turn in _json.a_list(stored.get("turns")) if isinstance(turn, list) and len(turn) == 2]
    return [(str(question), str(answer)) for question, answer in turns]


def _fulfilment(text: str) -> EncodedResponse:
    """The response, truncated to Dialogflow's limit."""
    body = _json.write({"fulfillmentText": text})
    while len(body) > MOST_BYTES:
        # Escapes lengthen characters, so that one truncation may not suffice.
        text = text[: len(text) * MOST_BYTES // len(body) - 8].rstrip() + "…"
        body = _json.write({"fulfillmentText": text})
    return EncodedResponse(200, body)
