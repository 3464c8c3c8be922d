"""The plain chat front: `POST /chat` with model and messages, one answer that names the back-end it came from.

The body is a part of Chat Completions: model, messages, temperature, max_tokens, and the other settings of one answer
in words. `stream` is answered in one piece, as it always was here; tools and several answers are refused. Which
back-end word stands in the answer, and how long an answer is by default, the beginning of the model's name says.
"""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass

from relayd import clock
from relayd.protocols import _json, _openai_errors
from relayd.protocols._bounds import Allowance, Pieces, TooMuch
from relayd.protocols.canon import Begin, End, Event, Failure, Finish, RefusalDelta, Request, TextDelta
from relayd.protocols.dialect import Ask, Dialect, Refused, Rendered
from relayd.protocols.openai_chat.request_in import read_request as read_chat_request


@dataclass(frozen=True, slots=True)
class Backend:
    """A word for `backend`, the names of models that it is for, and the length of an answer where none is asked for."""

    word: str
    prefixes: tuple[str, ...]
    max_tokens: int


GEMINI = Backend("gemini", ("gemini", "models/gemini"), 2048)
LOCAL = Backend("litellm", ("",), 150)


def backend_of(model: str, backends: tuple[Backend, ...]) -> Backend:
    """The first whose prefix the name has; the last one where none has."""
    name = model.lower()
    return next((one for one in backends if name.startswith(one.prefixes)), backends[-1])


def dialect(backends: tuple[Backend, ...] = (GEMINI, LOCAL)) -> Dialect:
    """The dialect with other words; `backends` is not empty."""

    def read_request(body: bytes, ask: Ask) -> Request:
        request = read_chat_request(body, ask)
        if request.tools:
            raise Refused("This endpoint takes no tools.", "tools", "unsupported_value")
        if request.n is not None and request.n > 1:
            raise Refused("This endpoint gives one answer.", "n", "unsupported_value")
        most = request.max_tokens
        if most is None:
            most = backend_of(request.model, backends).max_tokens
        return dataclasses.replace(
            request,
            max_tokens=most,
            stream=False,
            include_usage=False,
            tool_choice=None,
            parallel_tool_calls=None,
            n=None,
            logprobs=None,
            top_logprobs=None,
            extra={},
        )

    def renderer(request: Request, ask: Ask) -> SimpleRenderer:
        return SimpleRenderer(request, ask, backend_of(request.model, backends).word)

    return Dialect(
        name="simple_chat",
        paths=("/chat",),
        render_error=_openai_errors.render_error,
        read_error=_openai_errors.read_error,
        read_request=read_request,
        renderer=renderer,
        drops=(
            "stream: the answer comes in one piece.",
            "logprobs, usage, thoughts and which stop string was met have no place in the answer.",
            "tools and more than one answer (n) are refused.",
        ),
    )


class SimpleRenderer:
    """Adds up one answer; owned by the exchange."""

    __slots__ = (
        "_allowance", "_backend", "_begin", "_failure", "_finish", "_is_over", "_model", "_request_id", "_texts",
    )  # fmt: skip

    def __init__(self, request: Request, ask: Ask, backend: str) -> None:
        self._model, self._request_id, self._backend = request.model, ask.request_id, backend
        self._texts, self._allowance = Pieces(), Allowance()
        self._begin = Begin()
        self._finish = "stop"
        self._failure: Failure | None = None
        self._is_over = False

    def feed(self, events: list[Event]) -> bytes:
        """Nothing goes out before the end."""
        for event in events:
            if self._is_over:
                break
            if isinstance(event, TextDelta | RefusalDelta):
                if event.choice == 0:
                    try:
                        self._allowance.take(len(event.text))
                    except TooMuch as fault:
                        self._is_over, self._failure = True, Failure(502, str(fault))
                        break
                    self._texts.add(event.text)
            elif isinstance(event, Begin):
                self._begin = event
            elif isinstance(event, Finish):
                if event.choice == 0 and event.reason != "tool_calls":  # there are none
                    self._finish = event.reason
            elif isinstance(event, End | Failure):
                self._is_over = True
                self._failure = event if isinstance(event, Failure) else None
        return b""

    def comment(self) -> bytes:
        """A plain answer has no keep-alive."""
        return b""

    def whole(self) -> Rendered:
        """The answer."""
        if not self._is_over:
            self._failure = Failure(502, "The upstream's answer is not complete.")
        if self._failure is not None:
            return _openai_errors.render_error(self._failure, self._request_id)
        message = {"role": "assistant", "content": self._texts.text()}
        body = {
            "id": f"chat-{secrets.token_hex(12)}",
            "object": "chat.completion",
            "created": self._begin.created or int(clock.wall()),
            "model": self._model,
            "backend": self._backend,
            "choices": [{"index": 0, "message": message, "finish_reason": self._finish}],
        }
        return Rendered(200, _json.write(body))


DIALECT = dialect()
