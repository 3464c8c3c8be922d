"""What can be asked for and answered, one sample of each: for relayd-protocols(7) and the contract of all dialects.

A sample of a request is written as each client's dialect writes it; a dialect that is not named has no words for it.
Texts and numbers with a 7 in them stand nowhere else, so that they are found again in what an endpoint would get.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolDelta,
    ToolStart,
    Usage,
)

CHAT, RESPONSES, MESSAGES = "openai_chat", "openai_responses", "anthropic_messages"
PLAIN: Mapping[str, Mapping[str, Any]] = {
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "Well?"}]},
    RESPONSES: {"model": "m", "input": [{"role": "user", "content": "Well?"}]},
    MESSAGES: {"model": "m", "max_tokens": 1024, "messages": [{"role": "user", "content": "Well?"}]},
    "simple_chat": {"model": "m", "messages": [{"role": "user", "content": "Well?"}]},
    "dialogflow": {"queryResult": {"queryText": "Well?"}},
}

Members = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """One thing that a request can hold. `asked` are members by the client's dialect, laid over PLAIN.

    It is carried where the endpoint's request differs from that of `without` and holds `mark`. `word` is a pattern by
    which the drops of a dialect name it.
    """

    what: str
    word: str
    asked: Mapping[str, Members]
    mark: str | None = None
    without: Mapping[str, Members] = field(default_factory=dict)
    in_words: bool = False  # without its mark it is still carried, said in other words


def _user(chat: Any = None, responses: Any = None, messages: Any = None) -> dict[str, Members]:
    """A turn of the user with this one part behind a text, for the dialects that have a form of it."""
    made: dict[str, Members] = {}
    if chat is not None:
        content = [{"type": "text", "text": "See:"}, chat]
        made[CHAT] = {"messages": [{"role": "user", "content": content}]}
    if responses is not None:
        content = [{"type": "input_text", "text": "See:"}, responses]
        made[RESPONSES] = {"input": [{"role": "user", "content": content}]}
    if messages is not None:
        content = [{"type": "text", "text": "See:"}, messages]
        made[MESSAGES] = {"messages": [{"role": "user", "content": content}]}
    return made


def _all(**members: Any) -> dict[str, Members]:
    return {CHAT: members, RESPONSES: members, MESSAGES: members}


def _openai(**members: Any) -> dict[str, Members]:
    return {CHAT: members, RESPONSES: members}


_PNG = "iVBORw0KGgo7"
_PDF = "JVBERi0xLjQ7"
_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_WELL = {"role": "user", "content": "Well?"}


def _functions(
    choice: Members | None = None, strict: bool | None = None, two: bool = False, **more: Any
) -> dict[str, Members]:
    """One function or two, and how they are chosen in each dialect."""
    function = {"name": "look_up_7", "description": "Finds.", "parameters": _SCHEMA}
    own = {"name": "look_up_7", "description": "Finds.", "input_schema": _SCHEMA}
    said = {} if strict is None else {"strict": strict}
    chosen: dict[str, Members] = {
        dialect: {} if choice is None else {"tool_choice": choice[dialect]} for dialect in (CHAT, RESPONSES, MESSAGES)
    }
    other = {"name": "other", "parameters": _SCHEMA}
    made: dict[str, list[Members]] = {
        CHAT: [{"type": "function", "function": one} for one in ({**function, **said}, other)],
        RESPONSES: [{"type": "function", **one} for one in ({**function, **said}, other)],
        MESSAGES: [{**own, **said}, {"name": "other", "input_schema": _SCHEMA}],
    }
    return {
        dialect: {"tools": tools if two else tools[:1], **chosen[dialect], **({} if dialect == MESSAGES else more)}
        for dialect, tools in made.items()
    }


def _custom(grammar: bool) -> dict[str, Members]:
    form = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: WORD7"}}
    flat = {"type": "grammar", "syntax": "lark", "definition": "start: WORD7"}
    return {
        CHAT: {"tools": [{"type": "custom", "custom": {"name": "patch_7", **({"format": form} if grammar else {})}}]},
        RESPONSES: {"tools": [{"type": "custom", "name": "patch_7", **({"format": flat} if grammar else {})}]},
    }


def _loop(chat: Any, responses: Any, messages: Any, *, failed: bool = False) -> dict[str, Members]:
    """A call of the history and these results of it."""
    arguments = '{"city":"Bern"}'
    call = {"id": "call_a7", "type": "function", "function": {"name": "look_up_7", "arguments": arguments}}
    made: dict[str, Members] = {}
    if chat is not None:
        made[CHAT] = {"messages": [_WELL, {"role": "assistant", "tool_calls": [call]},
                                   {"role": "tool", "tool_call_id": "call_a7", "content": chat}]}  # fmt: skip
    if responses is not None:
        made[RESPONSES] = {"input": [
            _WELL, {"type": "function_call", "call_id": "call_a7", "name": "look_up_7", "arguments": arguments},
            {"type": "function_call_output", "call_id": "call_a7", "output": responses},
        ]}  # fmt: skip
    if messages is not None:
        use = {"type": "tool_use", "id": "call_a7", "name": "look_up_7", "input": {"city": "Bern"}}
        result = {"type": "tool_result", "tool_use_id": "call_a7", "content": messages}
        made[MESSAGES] = {"messages": [
            _WELL, {"role": "assistant", "content": [use]},
            {"role": "user", "content": [{**result, "is_error": True} if failed else result]},
        ]}  # fmt: skip
    return made


def _said(chat: Any = None, responses: Any = None, messages: Any = None) -> dict[str, Members]:
    """A turn of the assistant in the history, between two of the user."""
    made: dict[str, Members] = {}
    if chat is not None:
        made[CHAT] = {"messages": [_WELL, {"role": "assistant", **chat}, _WELL]}
    if responses is not None:
        made[RESPONSES] = {"input": [_WELL, *responses, _WELL]}
    if messages is not None:
        made[MESSAGES] = {"messages": [_WELL, {"role": "assistant", "content": messages}, _WELL]}
    return made


_CHOSEN = {
    CHAT: {"type": "function", "function": {"name": "look_up_7"}},
    RESPONSES: {"type": "function", "name": "look_up_7"},
    MESSAGES: {"type": "tool", "name": "look_up_7"},
}
_SUMMARIZED = {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "high"}}
_OMITTED = {"thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "high"}}
_INCLUDED = {"include": ["message.output_text.logprobs"]}
_ANSWERED = {"type": "object", "properties": {"verdict_7": {"type": "string"}}, "required": ["verdict_7"],
             "additionalProperties": False}  # fmt: skip


def _form(name: str, **more: Any) -> dict[str, Members]:
    """An answer by a schema; a Messages client has no name for it."""
    inner = {"name": name, "schema": _ANSWERED, **more}
    return {
        CHAT: {"response_format": {"type": "json_schema", "json_schema": inner}},
        RESPONSES: {"text": {"format": {"type": "json_schema", **inner}}},
        MESSAGES: {"output_config": {"format": {"type": "json_schema", "schema": _ANSWERED}}},
    }


def _no_messages(asked: dict[str, Members]) -> dict[str, Members]:
    return {dialect: members for dialect, members in asked.items() if dialect != MESSAGES}


_WORDS = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Yes."}]}]
_REFUSAL = [{"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "Never 7."}]}]
_THOUGHT = [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hmm 7."}]}]
_YES = {"type": "text", "text": "Yes."}

REQUESTS: tuple[Sample, ...] = (
    Sample("streaming", r"^stream", _all(stream=True)),
    Sample("instructions", "instructions|system", {
        CHAT: {"messages": [{"role": "system", "content": "Be terse 7."}, _WELL]},
        RESPONSES: {"instructions": "Be terse 7."}, MESSAGES: {"system": "Be terse 7."}}, "Be terse 7."),
    Sample("developer messages", "developer", {
        CHAT: {"messages": [{"role": "developer", "content": "Be terse 7."}, _WELL]},
        RESPONSES: {"input": [{"role": "developer", "content": "Be terse 7."}, _WELL]}}, "Be terse 7."),
    Sample("earlier answers", "history", _said({"content": "Yes 7."}, [{"role": "assistant", "content": "Yes 7."}],
                                               "Yes 7."), "Yes 7."),
    Sample("name of a message's author", r"\bname of a message|author",
           {CHAT: {"messages": [{"role": "user", "content": "Well?", "name": "alice_7"}]}}, "alice_7"),
    Sample("images", "images", _user({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PNG}"}},
           {"type": "input_image", "image_url": f"data:image/png;base64,{_PNG}"},
           {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _PNG}}), _PNG),
    Sample("images by address", "images by address", _user(
        {"type": "image_url", "image_url": {"url": "https://a.example/7.png"}},
        {"type": "input_image", "image_url": "https://a.example/7.png"},
        {"type": "image", "source": {"type": "url", "url": "https://a.example/7.png"}}), "https://a.example/7.png"),
    Sample("detail of an image", "detail", _user(
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PNG}", "detail": "low"}},
        {"type": "input_image", "image_url": f"data:image/png;base64,{_PNG}", "detail": "low"}), None, _user(
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PNG}"}},
        {"type": "input_image", "image_url": f"data:image/png;base64,{_PNG}"})),
    Sample("documents", "files|documents", _user(
        {"type": "file", "file": {"filename": "r.pdf", "file_data": f"data:application/pdf;base64,{_PDF}"}},
        {"type": "input_file", "filename": "r.pdf", "file_data": f"data:application/pdf;base64,{_PDF}"},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": _PDF}}), _PDF),
    Sample("names of documents", "[Nn]ames? of documents?", _user(
        {"type": "file", "file": {"filename": "r7.pdf", "file_data": f"data:application/pdf;base64,{_PDF}"}},
        {"type": "input_file", "filename": "r7.pdf", "file_data": f"data:application/pdf;base64,{_PDF}"},
        {"type": "document", "title": "r7.pdf",
         "source": {"type": "base64", "media_type": "application/pdf", "data": _PDF}}), "r7.pdf"),
    Sample("documents by address", "files? (?:given )?by (?:its )?address", _user(
        None, {"type": "input_file", "file_url": "https://a.example/7.pdf"},
        {"type": "document", "source": {"type": "url", "url": "https://a.example/7.pdf"}}), "https://a.example/7.pdf"),
    Sample("documents by id", "files by id", _user({"type": "file", "file": {"file_id": "file-7"}},
                                                    {"type": "input_file", "file_id": "file-7"}), "file-7"),
    Sample("sound", "sound", _user({"type": "input_audio", "input_audio": {"data": "UklGRg7", "format": "wav"}},
           {"type": "input_audio", "input_audio": {"data": "UklGRg7", "format": "wav"}}), "UklGRg7"),
    Sample("functions", "tools", _functions(), "look_up_7"),
    Sample("strict functions", "strict", _functions(strict=True), None, _functions(strict=False)),
    Sample("custom tools", "custom tool", _custom(False), "patch_7"),
    Sample("grammar of a custom tool", "grammar", _custom(True), "WORD7", _custom(False)),
    Sample("hosted tools", "[Hh]osted tools|[Ss]erver tools", {
        RESPONSES: {"tools": [{"type": "web_search"}]},
        MESSAGES: {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}}),
    Sample("a call demanded", "tool_choice", _functions({CHAT: "required", RESPONSES: "required",
           MESSAGES: {"type": "any"}}), None, _functions()),
    Sample("a call of one function demanded", "tool_choice", _functions(_CHOSEN, two=True), None, _functions(two=True)),
    Sample("calls forbidden", "tool_choice", _functions({CHAT: "none", RESPONSES: "none", MESSAGES: {"type": "none"}}),
           None, _functions()),
    Sample("one call at a time", "parallel_tool_calls", _functions(
        {CHAT: "auto", RESPONSES: "auto", MESSAGES: {"type": "auto", "disable_parallel_tool_use": True}},
        parallel_tool_calls=False), None, _functions({CHAT: "auto", RESPONSES: "auto", MESSAGES: {"type": "auto"}})),
    Sample("calls and results of the history", "history", _loop("sunny 7", "sunny 7", "sunny 7"), "sunny 7"),
    Sample("a result marked as failed", "failed|is_error|error mark", _loop(None, None, "broken", failed=True), None,
           _loop(None, None, "broken")),
    Sample("images in results", "images", _loop(
        [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PNG}"}}],
        [{"type": "input_image", "image_url": f"data:image/png;base64,{_PNG}"}],
        [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _PNG}}]), _PNG),
    Sample("refusals of the history", "refusal", _said({"refusal": "Never 7."}, _REFUSAL), "Never 7."),
    Sample("thoughts of the history", "[Tt]houghts|(?<!_)[Rr]easoning(?!_)", _said(
        {"reasoning_content": "Hmm 7.", "content": "Yes."}, [*_THOUGHT, *_WORDS],
        [{"type": "thinking", "thinking": "Hmm 7."}, _YES]), "Hmm 7."),
    Sample("signed thoughts of the history", "[Tt]houghts|(?<!_)[Rr]easoning(?!_)", _said(None, None, [
        {"type": "thinking", "thinking": "Hmm.", "signature": "c2lnbmVk7"}, _YES]), "c2lnbmVk7"),
    Sample("redacted thoughts of the history", "[Tt]houghts|(?<!_)[Rr]easoning(?!_)", _said(None, None, [
        {"type": "redacted_thinking", "data": "aGlkZGVu7"}, _YES]), "aGlkZGVu7"),
    Sample("effort of reasoning", "effort", {CHAT: {"reasoning_effort": "high"},
           RESPONSES: {"reasoning": {"effort": "high"}}, MESSAGES: {"output_config": {"effort": "high"}}}),
    Sample("budget of reasoning", "budget", {CHAT: {"reasoning": {"max_tokens": 9007}, "max_tokens": 32000},
           MESSAGES: {"thinking": {"type": "enabled", "budget_tokens": 9007}, "max_tokens": 32000}}, "9007",
           {CHAT: {"max_tokens": 32000}, MESSAGES: {"max_tokens": 32000}}, in_words=True),
    Sample("reasoning switched off", "effort|switch|think", {CHAT: {"reasoning_effort": "none"},
           RESPONSES: {"reasoning": {"effort": "none"}}, MESSAGES: {"thinking": {"type": "disabled"}}}),
    Sample("wish not to see the thoughts", r"thinking\.display", {MESSAGES: _OMITTED}, None,
           {MESSAGES: _SUMMARIZED}),
    Sample("answers in JSON", "json_object", {CHAT: {"response_format": {"type": "json_object"}},
                                              RESPONSES: {"text": {"format": {"type": "json_object"}}}}),
    Sample("answers by a schema", "schema", _form("answer"), "verdict_7"),
    Sample("name of a schema", "schema", _no_messages(_form("answer_7")), "answer_7"),
    Sample("limit of the answer", "limit", {CHAT: {"max_tokens": 777}, RESPONSES: {"max_output_tokens": 777},
                                            MESSAGES: {"max_tokens": 777}}, "777"),
    Sample("temperature", "temperature", _all(temperature=0.4375), "0.4375"),
    Sample("top_p", "top_p", _all(top_p=0.4375), "0.4375"),
    Sample("top_k", "top_k", {CHAT: {"top_k": 37}, MESSAGES: {"top_k": 37}}, "37"),
    Sample("stop strings", "stop strings|stop_sequences", {CHAT: {"stop": ["halt 7"]}, RESPONSES: {"stop": ["halt 7"]},
                                                          MESSAGES: {"stop_sequences": ["halt 7"]}}, "halt 7"),
    Sample("seed", "seed", {CHAT: {"seed": 4277}}, "4277"),
    Sample("presence_penalty", "penalties", _openai(presence_penalty=0.4375), "0.4375"),
    Sample("frequency_penalty", "penalties", _openai(frequency_penalty=0.4375), "0.4375"),
    Sample("logit_bias", "logit_bias", {CHAT: {"logit_bias": {"77": 1}}}, "77"),
    Sample("logprobs", "logprobs", {CHAT: {"logprobs": True}, RESPONSES: _INCLUDED}),
    Sample("top_logprobs", "logprobs", {CHAT: {"logprobs": True, "top_logprobs": 7}, RESPONSES: {"top_logprobs": 7}},
           "7", {CHAT: {"logprobs": True}, RESPONSES: _INCLUDED}),
    Sample("more than one answer", r"\bn\b", {CHAT: {"n": 2}}),
    Sample("user", r"\buser\b", {CHAT: {"user": "u-7"}, RESPONSES: {"user": "u-7"},
                                 MESSAGES: {"metadata": {"user_id": "u-7"}}}, "u-7"),
    Sample("safety_identifier", "safety_identifier", _openai(safety_identifier="s-7"), "s-7"),
    Sample("metadata", "metadata", _openai(metadata={"run": "r-7"}), "r-7"),
    Sample("service_tier", "service_tier", _openai(service_tier="flex"), "flex"),
    Sample("prompt_cache_key", "prompt_cache_key|cache keys", _openai(prompt_cache_key="k-7"), "k-7"),
    Sample("verbosity", "verbosity", {CHAT: {"verbosity": "low"}, RESPONSES: {"text": {"verbosity": "low"}}}),
    Sample("cache marks", "cache_control", {MESSAGES: {"system": [
        {"type": "text", "text": "Be terse.", "cache_control": {"type": "ephemeral"}}]}}, None,
        {MESSAGES: {"system": [{"type": "text", "text": "Be terse."}]}}),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answered:
    """One thing that an answer can hold: its events, those of an answer without it, and the mark that is looked for."""

    what: str
    word: str
    events: tuple[Event, ...]
    mark: str | None = None
    without: tuple[Event, ...] = ()


def _run(
    *events: Event, finish: str = "stop", usage: Usage | None = None, stop: str | None = None
) -> tuple[Event, ...]:
    counted: tuple[Event, ...] = () if usage is None else (usage,)
    return (Begin("id-1", "served", 1_700_000_000), *events, Finish(finish, stop=stop), *counted, End())


_TEXT = _run(TextDelta("Yes."))
_TOKEN = {"token": "Yes.", "logprob": -0.4375, "bytes": [89], "top_logprobs": []}
_START, _REST = ToolStart(0, "call_a7", "look_up_7"), ToolDelta(0, '{"city":"Bern 7"}')
_COUNTS = "usage|[Tt]oken counts"

ANSWERS: tuple[Answered, ...] = (
    Answered("text", "text", _run(TextDelta("Yes 7.")), "Yes 7.", _TEXT),
    Answered("refusals", "refusal", _run(RefusalDelta("Never 7.")), "Never 7.", _TEXT),
    Answered("thoughts", "[Tt]houghts|(?<!_)[Rr]easoning(?!_)", _run(ReasoningDelta("Hmm 7."), TextDelta("Yes.")), "Hmm 7.", _TEXT),
    Answered("signatures of thoughts", "[Ss]ignatures of (?:thoughts|reasoning)|thoughts|reasoning", _run(
        ReasoningDelta("Hmm."), ReasoningDelta(signature="c2lnbmVk7"), TextDelta("Yes.")), None,
        _run(ReasoningDelta("Hmm."), TextDelta("Yes."))),
    Answered("redacted thoughts", "redacted|thoughts|reasoning", _run(ReasoningDelta(redacted="aGlkZGVu7"), TextDelta("Yes.")),
             None, _TEXT),
    Answered("calls of functions", "tools|tool calls", _run(_START, _REST, finish="tool_calls"), "Bern 7", _TEXT),
    Answered("several calls at once", "tools|tool calls|first call", _run(
        _START, _REST, ToolStart(1, "call_b7", "look_up_7"), ToolDelta(1, '{"city":"Köln 7"}'), finish="tool_calls"),
        "Köln 7", _run(_START, _REST, finish="tool_calls")),
    Answered("token probabilities", "logprobs", _run(TextDelta("Yes.", logprobs=(_TOKEN,))), "-0.4375", _TEXT),
    Answered("that the limit was met", "limit", _run(TextDelta("Yes."), finish="length"), None, _TEXT),
    Answered("that the answer was filtered", "filter", _run(TextDelta("Yes."), finish="content_filter"), None, _TEXT),
    Answered("the stop string that was met", "stop string", _run(TextDelta("Yes."), stop="halt 7"), "halt 7", _TEXT),
    Answered("token counts", _COUNTS, _run(TextDelta("Yes."), usage=Usage(7117, 717)), "717", _TEXT),
    Answered("cached tokens", _COUNTS, _run(TextDelta("Yes."), usage=Usage(9000, 5, cached_read=7117)), "7117",
             _run(TextDelta("Yes."), usage=Usage(9000, 5))),
    Answered("tokens of reasoning", _COUNTS, _run(TextDelta("Yes."), usage=Usage(10, 9000, reasoning=7117)),
             "7117", _run(TextDelta("Yes."), usage=Usage(10, 9000))),
    Answered("more than one answer", r"\bn\b|more than one|every (?:answer|choice) but|answers except", _run(
        TextDelta("Yes."), TextDelta("No 7.", choice=1)), "No 7.", _TEXT),
)  # fmt: skip
