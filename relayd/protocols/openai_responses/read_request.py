"""Converts a Responses request (input, stored conversation and settings) to the canonical form.

Laws:
1. Every field is validated; an error names the path of the invalid field. Fields without effect on an endpoint
   (client_metadata, truncation) are accepted and left out.
2. The full input is the stored conversation followed by the new input; `instructions` apply to this request only. Tools
   declared by items are offered as long as the items are part of the full input.
3. A requested feature that is not available (prompt, conversation, background) is refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from relayd.protocols import _json
from relayd.protocols.canon import Format, Message, Request, Text, Thinking
from relayd.protocols.dialect import Refused, RequestContext, run_steps
from relayd.protocols.openai_responses import compaction, state
from relayd.protocols.openai_responses.item_tool_lists import item_tool_lists, without_repeated_lists
from relayd.protocols.openai_responses.items import Conversation, typed_item
from relayd.protocols.openai_responses.response_settings import KEY, ResponseSettings
from relayd.protocols.openai_responses.tools import ToolNames, tool_config_steps
from relayd.wire.json_steps import Steps, weight, write_steps

MAX_ITEMS = 1000
MAX_STORABLE_BODY_BYTES = 8 * 1024 * 1024  # storing a larger conversation would block the event loop
_LARGE_WEIGHT = 2048  # a heavier stored conversation is processed in steps
MAX_INSTRUCTIONS = 100 * 1024
MAX_OUTPUT_TOKENS = 10_000_000
MAX_TOP_LOGPROBS = 20
_LOGPROBS, _ENCRYPTED_REASONING = "message.output_text.logprobs", "reasoning.encrypted_content"


def read_request(body: bytes, context: RequestContext) -> Request:
    """Read a request body, a response.create message of a WebSocket, or a compaction request. Raises Refused."""
    return run_steps(read_steps(_json.read_object(body), context))


def read_steps(members: dict[str, Any], context: RequestContext) -> Steps[Request]:
    """Read a parsed body, in steps. Raises Refused."""
    try:
        if context.socket is not None:
            if members.get("type") != "response.create":
                raise Refused("The only event that a client can send is response.create.", "type", "invalid_value")
            members["stream"] = True
        elif context.path.rstrip("/").endswith("/responses/compact"):
            return (yield from _read_compaction(members, context))
        return (yield from _read(members, context))
    except Refused:
        previous = members.get("previous_response_id")
        state.delete_latest(context, previous if isinstance(previous, str) else None)
        raise


def read_for_count(members: dict[str, Any], context: RequestContext) -> Steps[Request]:
    """Read a request for a token count, in steps; `model` is optional. Raises Refused."""
    return (yield from _read({**members, "model": members.get("model") or "any"}, context))


def _read(members: dict[str, Any], context: RequestContext) -> Steps[Request]:
    _refuse_unsupported(members)
    model = _model(members)
    full_input = yield from _read_full_input(members, context)
    items, previous = full_input.items, full_input.previous
    tool_config = yield from tool_config_steps(members, item_tool_lists(full_input.located_items))
    messages, unknown = yield from full_input.messages(tool_config.names, context)
    instructions = _json.optional(members, "instructions", "a string")
    if instructions:
        if len(instructions.encode("utf-8", "surrogatepass")) > MAX_INSTRUCTIONS:
            raise Refused(f"instructions is longer than {MAX_INSTRUCTIONS} bytes.", "instructions", "string_too_long")
        messages = (Message("system", (Text(instructions),)), *messages)
    if not messages:
        raise Refused("The input is empty.", "input", "missing_required_parameter")
    included = _include(members)
    top_logprobs = _number(members, "top_logprobs", 0, MAX_TOP_LOGPROBS, "an integer")
    logprobs = _LOGPROBS in included or bool(top_logprobs)
    text = _json.optional(members, "text", "an object") or {}
    answer_format = _format(text)
    reasoning = _json.optional(members, "reasoning", "an object") or {}
    metadata = _json.optional(members, "metadata", "an object")
    store = _json.optional(members, "store", "a boolean")
    parallel = _json.optional(members, "parallel_tool_calls", "a boolean")
    request = Request(
        model=model,
        messages=messages,
        stream=bool(_json.optional(members, "stream", "a boolean")),
        tools=tool_config.tools,
        tool_choice=tool_config.choice,
        parallel_tool_calls=parallel if tool_config.tools else None,
        max_tokens=_number(members, "max_output_tokens", 1, MAX_OUTPUT_TOKENS, "an integer"),
        temperature=_number(members, "temperature", 0, 2),
        top_p=_number(members, "top_p", 0, 1),
        presence_penalty=_number(members, "presence_penalty", -2, 2),
        frequency_penalty=_number(members, "frequency_penalty", -2, 2),
        stop=_stop(members),
        logprobs=True if logprobs else None,
        top_logprobs=top_logprobs if logprobs else None,
        format=answer_format,
        thinking=_thinking(reasoning),
        verbosity=_json.optional(text, "verbosity", "a string", "text."),
        user=_json.optional(members, "user", "a string"),
        metadata=metadata,
        service_tier=_json.optional(members, "service_tier", "a string"),
        prompt_cache_key=_json.optional(members, "prompt_cache_key", "a string"),
        safety_identifier=_json.optional(members, "safety_identifier", "a string"),
        unknown=unknown,
        large=full_input.is_large,
    )
    echo = _echo(members, request, answer_format, instructions) | {
        "tools": tool_config.echo,
        "tool_choice": tool_config.echo_choice,
        "previous_response_id": previous,
    }
    is_storable = context.large_bytes <= MAX_STORABLE_BODY_BYTES
    stored = is_storable and store is not False
    keeps_items = stored or (is_storable and context.socket is not None)
    settings = ResponseSettings(
        echo,
        tool_config.names,
        items if keeps_items else (),  # free the memory: a stream may last for hours
        tool_config.allowed,
        previous,
        stored,
        logprobs,
        _ENCRYPTED_REASONING in included,
        echo_json=(yield from write_steps(echo)) if context.large_bytes else b"",
    )
    return replace(request, extra={KEY: settings})


def _read_compaction(members: dict[str, Any], context: RequestContext) -> Steps[Request]:
    compaction.require_seal_key(context)
    model = _model(members)
    full_input = yield from _read_full_input(members, context, input_required=False)
    items, previous = full_input.items, full_input.previous
    names = (yield from tool_config_steps({}, item_tool_lists(full_input.located_items))).names
    messages, unknown = yield from full_input.messages(names, context)
    if not messages:
        raise Refused("The conversation is empty: send input or previous_response_id.", "input")
    retained = compaction.retained_items(items)
    settings = ResponseSettings({}, names, items, previous_response_id=previous, retained_items=retained)
    return Request(
        model=model,
        messages=compaction.summary_messages(messages, _json.optional(members, "instructions", "a string")),
        prompt_cache_key=_json.optional(members, "prompt_cache_key", "a string"),
        unknown=unknown,
        extra={KEY: settings},
        large=full_input.is_large,
    )


def _refuse_unsupported(members: Mapping[str, Any]) -> None:
    for key, instead in (
        ("prompt", "send instructions and input"),
        ("conversation", "use previous_response_id"),
    ):
        if members.get(key) is not None:
            raise Refused(f"'{key}' is not supported: {instead}.", key, "unsupported_parameter")
    if _json.optional(members, "background", "a boolean"):
        raise Refused("Background responses are not supported.", "background", "unsupported_parameter")
    if _json.optional(members, "generate", "a boolean") is False:
        raise Refused("Requests with generate: false are not supported.", "generate", "unsupported_parameter")
    _json.optional(members, "max_tool_calls", "an integer")
    truncation = _json.optional(members, "truncation", "a string")
    if truncation not in (None, "disabled", "auto"):
        raise Refused("truncation must be auto or disabled.", "truncation", "invalid_value")


def _model(members: Mapping[str, Any]) -> str:
    model = _json.required(members, "model", "a string")
    if not model:
        raise Refused("Missing required parameter: 'model'.", "model", "missing_required_parameter")
    return str(model)


_UnknownCounts = Mapping[tuple[str, str], int]  # see Request.unknown


class _FullInput(NamedTuple):
    """All items, first those of the stored conversation, each with its path; and the id of the previous response.

    `is_large` is true if the stored conversation makes a short request a large one.
    """

    located_items: tuple[tuple[str, Mapping[str, Any]], ...]
    previous: str | None
    is_large: bool

    @property
    def items(self) -> tuple[Mapping[str, Any], ...]:
        """Return the items without their paths, for the store."""
        return tuple(item for _, item in self.located_items)

    def messages(self, names: ToolNames, context: RequestContext) -> Steps[tuple[tuple[Message, ...], _UnknownCounts]]:
        """Return the canonical messages and the counts of unknown item types, in steps. Raises Refused."""
        conversation = Conversation(names, lambda sealed, at: compaction.open_summary(sealed, at, context))
        for at, item in self.located_items:
            yield from conversation.add_steps(item, at)
            yield
        return conversation.messages(), conversation.unknown


def _read_full_input(
    members: Mapping[str, Any], context: RequestContext, input_required: bool = True
) -> Steps[_FullInput]:
    """Read the stored conversation and the new input, in steps. Raises Refused."""
    previous = _json.optional(members, "previous_response_id", "a string")
    items: list[Mapping[str, Any]] = []
    if previous is not None:
        record = yield from state.find_response(context, previous)
        if record is None:
            shown = f"Previous response with id '{previous[: state.MAX_ID_CHARS]}' not found."
            raise Refused(
                shown + state.storage_failure(context, previous), "previous_response_id", "previous_response_not_found"
            )
        items += record["items"]
    located_items = [(f"previous_response_id: item {number}", item) for number, item in enumerate(items)]
    new_items = members.get("input")
    if new_items is None and (input_required or previous is None):
        raise Refused("Missing required parameter: 'input'.", "input", "missing_required_parameter")
    if isinstance(new_items, str):
        new_items = [{"type": "message", "role": "user", "content": new_items}]
    elif new_items is None:
        new_items = []
    elif not isinstance(new_items, list):
        raise Refused(f"Invalid type for 'input': expected a string or a list, but got {_json.kind_name(new_items)}.",
                      "input", "invalid_type")  # fmt: skip
    if len(new_items) > MAX_ITEMS:
        raise Refused(f"input has {len(new_items)} items; at most {MAX_ITEMS} can be sent.", "input", "array_too_long")
    references = state.References(context)
    referenced_ids: set[str] = set()
    for number, entry in enumerate(new_items):
        at = f"input[{number}]"
        item = yield from _resolve(entry, at, references, referenced_ids, items)
        items.append(item)
        located_items.append((at, item))
        yield
    is_large = previous is not None and weight(items, _LARGE_WEIGHT) > _LARGE_WEIGHT
    return _FullInput((yield from without_repeated_lists(located_items)), previous, is_large)


def _resolve(
    entry: Any, at: str, references: state.References, referenced_ids: set[str], items: list[Mapping[str, Any]]
) -> Steps[Mapping[str, Any]]:
    """Return the item, or for an item_reference the referenced item; in steps.

    An object with an id only is a reference, too. Raises Refused; also for a second reference to the same item:
    `referenced_ids` holds the ids of the earlier references.
    """
    if isinstance(entry, dict) and entry.get("type") is None and set(entry) - {"type"} == {"id"}:
        entry = {"type": "item_reference", **{"id": entry["id"]}}
    item = typed_item(entry, at)
    if item["type"] != "item_reference":
        return item
    item_id = _json.required(item, "id", "a string", at + ".")
    if item_id in referenced_ids:
        raise Refused(f"Duplicate item found with id '{item_id[: state.MAX_ID_CHARS]}'.", at + ".id", "invalid_value")
    referenced_ids.add(item_id)
    found = yield from references.find(item_id, items)
    if found is None:
        message = f"Item with id '{item_id[: state.MAX_ID_CHARS]}' not found: it was not stored, or it has expired."
        raise Refused(message, at + ".id", "item_not_found")
    return found


def _number(members: Mapping[str, Any], key: str, minimum: float, maximum: float, kind: str = "a number") -> Any:
    value = _json.optional(members, key, kind)
    if value is not None and not minimum <= value <= maximum:
        raise Refused(f"'{key}' must be between {minimum} and {maximum}.", key, "invalid_value")
    return value


def _include(members: Mapping[str, Any]) -> frozenset[str]:
    entries = _json.optional(members, "include", "a list") or ()
    return frozenset(str(_json.checked(entry, "a string", "include")) for entry in entries)


def _stop(members: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Read stop strings. They are not part of Responses, but clients migrated from Chat Completions send them."""
    value = members.get("stop")
    if value is None or isinstance(value, str):
        return None if value is None else (value,)
    return tuple(str(_json.checked(entry, "a string", "stop")) for entry in _json.checked(value, "a list", "stop"))


def _thinking(reasoning: Mapping[str, Any]) -> Thinking | None:
    effort = _json.optional(reasoning, "effort", "a string", "reasoning.")
    summary = _json.optional(reasoning, "summary", "a string", "reasoning.")
    if effort is None and summary is None:
        return None
    return Thinking(effort, enabled=False if effort == "none" else None, visible=True if summary is not None else None)


def _format(text: Mapping[str, Any]) -> Format | None:
    entry = _json.optional(text, "format", "an object", "text.")
    if entry is None:
        return None
    at = "text.format."
    kind = _json.required(entry, "type", "a string", at)
    if kind in ("text", "json_object"):
        return Format(kind)
    if kind != "json_schema":
        raise Refused(f"The format '{kind[:64]}' is not supported.", "text.format.type", "invalid_value")
    return Format(
        kind,
        _json.required(entry, "name", "a string", at),
        _json.required(entry, "schema", "an object", at),
        _json.optional(entry, "strict", "a boolean", at),
        _json.optional(entry, "description", "a string", at),
    )


def _echo(
    members: Mapping[str, Any], request: Request, answer_format: Format | None, instructions: str | None
) -> dict[str, Any]:
    """Return the Response members that repeat the request, with the defaults of absent settings."""
    shown: dict[str, Any] = {"type": answer_format.kind if answer_format is not None else "text"}
    if answer_format is not None and answer_format.kind == "json_schema":
        shown |= {
            "name": answer_format.name,
            "schema": answer_format.schema,
            "description": answer_format.description,
            "strict": bool(answer_format.strict),
        }
    reasoning = _json.optional(members, "reasoning", "an object") or {}
    text: dict[str, Any] = {"format": shown}
    if request.verbosity is not None:
        text["verbosity"] = request.verbosity
    parallel = members.get("parallel_tool_calls")

    def or_default(value: Any, default: Any) -> Any:
        return default if value is None else value

    echo = {
        "model": request.model,
        "instructions": instructions,
        "parallel_tool_calls": or_default(parallel, True),
        "max_tool_calls": members.get("max_tool_calls"),
        "text": text,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "temperature": or_default(request.temperature, 1.0),
        "top_p": or_default(request.top_p, 1.0),
        "presence_penalty": or_default(request.presence_penalty, 0.0),
        "frequency_penalty": or_default(request.frequency_penalty, 0.0),
        "top_logprobs": or_default(request.top_logprobs, 0),
        "max_output_tokens": request.max_tokens,
        "truncation": or_default(members.get("truncation"), "disabled"),
        "store": members.get("store") is not False,
        "background": False,
        "service_tier": or_default(request.service_tier, "default"),
        "metadata": or_default(request.metadata, {}),
        "safety_identifier": request.safety_identifier,
        "prompt_cache_key": request.prompt_cache_key,
    }
    if request.user is not None:
        echo["user"] = request.user
    return echo
