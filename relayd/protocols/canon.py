"""The canonical form that every AI dialect is read into and written from: a pair of dialects is two halves, not a case.

    client's bytes -> read_request -> Request -> write_request -> endpoint's bytes
    endpoint's bytes -> Reader -> events -> Renderer -> client's bytes

Laws:
1. A response is a sequence of events: Begin, then deltas, then exactly one of Finish and Failure. A Reader gives the
   same sequence for a stream and for a plain response, so that both forms of a Renderer agree by construction.
2. Tool calls are numbered 0, 1, ... per choice in the order in which they began; a ToolStart precedes its ToolDeltas
   and has a name and an id that are never empty. Fragments of several calls may interleave: a Renderer that can have
   only one open call buffers the others.
3. `None` means that the client gave no value; zero and the empty string are values.
4. Values of the request are those of the client's JSON: nothing is rounded, sorted or translated here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any

from relayd.dataclass import dataclass
from relayd.usage import Usage as Usage  # an event too: the token counts so far; the last one applies


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text of a message."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image: `url` is http(s) or a data URL; `detail` is low, high, auto or None."""

    url: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class File:
    """A document: `data` is a data URL (`data:application/pdf;base64,...`), or one of `url` and `file_id` is given."""

    filename: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None


@dataclass(frozen=True, slots=True)
class Audio:
    """Audio: base64 `data` in `format` (wav, mp3)."""

    data: str
    format: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """The text of an assistant's refusal."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Reasoning of the assistant in the history; `signature` and `redacted` are opaque proofs of its origin."""

    text: str
    signature: str | None = None
    redacted: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call in the history. `arguments` is JSON text, or the raw input for kind `custom`. `name` is a tool's name."""

    id: str
    name: str
    arguments: str
    kind: str = "function"  # function | custom
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of a call; only in messages of role tool."""

    call_id: str
    parts: tuple[Text | Image | File, ...]
    is_error: bool = False


Part = Text | Image | File | Audio | Refusal | Reasoning | ToolCall | ToolResult


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `role` is system, developer, user, assistant or tool; a tool message holds ToolResults only."""

    role: str
    parts: tuple[Part, ...]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. Kind `custom` takes free text; `grammar` is its format object, or None."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None
    kind: str = "function"  # function | custom
    grammar: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`mode` is auto, required, none or named (the tool `name`)."""

    mode: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """The required form of the response: `kind` is text, json_object or json_schema."""

    kind: str
    name: str | None = None
    schema: Mapping[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Thinking:
    """The requested amount of reasoning: `effort` is none, minimal, low, medium, high or the client's own value;
    `budget` is in tokens.

    `enabled` is False if the client disabled reasoning, None if it gave no value; `visible` requests the text of it.
    """

    effort: str | None = None
    budget: int | None = None
    enabled: bool | None = None
    visible: bool | None = None


class SharedTools(tuple[Tool, ...]):
    """The tools of a list that many requests repeat. `encoded` is their JSON by dialect; `tokens` is their estimated
    token count, -1 until it is computed."""

    encoded: dict[str, bytes]
    tokens: int

    def __new__(cls, tools: Iterable[Tool]) -> SharedTools:
        shared = super().__new__(cls, tools)
        shared.encoded = {}
        shared.tokens = -1
        return shared


@dataclass(frozen=True, slots=True)
class Request:
    """A request of any dialect. `model` is the endpoint's name of the model once relayd has selected a target.

    `extra` holds top-level members that the canonical form does not know, for a writer of the same dialect family.
    `unknown` counts the parts of unknown types, by type and by `carried` (as text) or `left_out`.
    `stop` is None or the list of stop strings. `include_usage`: a Chat client requested usage in the stream.
    `large`: the request is written in steps, not in one turn of the event loop.
    """

    model: str
    messages: tuple[Message, ...]
    stream: bool = False
    include_usage: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] | None = None
    n: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    format: Format | None = None
    thinking: Thinking | None = None
    verbosity: str | None = None
    user: str | None = None
    metadata: Mapping[str, Any] | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    unknown: Mapping[tuple[str, str], int] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    large: bool = False


# ---- events of a response


@dataclass(frozen=True, slots=True)
class Begin:
    """The response has begun. `id` and `model` are the endpoint's, `created` is in Unix seconds (0: unknown)."""

    id: str = ""
    model: str = ""
    created: int = 0


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of text; `logprobs` is Chat's list of token objects, if the endpoint sent it."""

    text: str
    choice: int = 0
    logprobs: Sequence[Any] | None = None


@dataclass(frozen=True, slots=True)
class RefusalDelta:
    """A piece of a refusal."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of reasoning text. A `signature` or `redacted` block ends it; a later delta begins a new block."""

    text: str = ""
    choice: int = 0
    signature: str | None = None
    redacted: str | None = None


@dataclass(frozen=True, slots=True)
class ToolStart:
    """A tool call begins. `signature` is the endpoint's opaque proof (Gemini), stored in the Memory."""

    index: int
    id: str
    name: str
    choice: int = 0
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class ToolDelta:
    """A piece of a tool call's arguments (JSON text)."""

    index: int
    arguments: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """One choice is complete. `reason` is stop, length, tool_calls or content_filter; `stop` a matched stop string."""

    reason: str
    choice: int = 0
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class End:
    """The whole response is complete: the last event of every sequence that did not fail."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The response failed: an HTTP error of the endpoint, an error in its stream, or a truncated stream.

    `status` is the matching HTTP status; `code`, `type` and `param` are the endpoint's ("" if it gave none);
    `retry_after_s` is None or seconds. `message` may be shown to the client.
    """

    status: int
    message: str
    code: str = ""
    type: str = ""
    param: str | None = None
    retry_after_s: float | None = None


Event = (
    Begin | TextDelta | RefusalDelta | ReasoningDelta | ToolStart | ToolDelta | Usage | Finish | End | Failure
)
