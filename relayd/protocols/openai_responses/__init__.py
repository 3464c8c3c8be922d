"""OpenAI's Responses API: clients and endpoints, with stored responses, WebSocket transport and compaction."""

from __future__ import annotations

from relayd.protocols._openai_errors import read_error, render_error
from relayd.protocols._thinking import recalled_keys
from relayd.protocols.cacheable import CacheRules
from relayd.protocols.canon import Request
from relayd.protocols.dialect import Dialect, Renderer, RequestContext
from relayd.protocols.model_list import OPENAI_SOURCE
from relayd.protocols.openai_responses import generated_items, usage, websocket
from relayd.protocols.openai_responses.compaction import CompactionRenderer
from relayd.protocols.openai_responses.read_request import MAX_ITEMS, read_request, read_steps
from relayd.protocols.openai_responses.reader import reader
from relayd.protocols.openai_responses.renderer import ResponsesRenderer
from relayd.protocols.openai_responses.response_settings import settings_of
from relayd.protocols.openai_responses.retrieval import COUNT_PATH, local, local_steps, stored_steps
from relayd.protocols.openai_responses.tools import MAX_TOOLS
from relayd.protocols.openai_responses.write_request import write_request, write_steps
from relayd.protocols.rate_fields import OPENAI_FIELDS


def renderer(request: Request, context: RequestContext) -> Renderer:
    """Make the renderer of a request: for a response or for a compaction."""
    is_compaction = settings_of(request).retained_items is not None
    return CompactionRenderer(request, context) if is_compaction else ResponsesRenderer(request, context)


DIALECT = Dialect(
    name="openai_responses",
    title="OpenAI Responses",
    paths=("/responses", "/responses/compact"),
    provider="openai",
    operations=((b"/responses", "chat"), (b"/embeddings", "embeddings")),
    render_error=render_error,
    read_error=read_error,
    read_request=read_request,
    renderer=renderer,
    strip_generated=generated_items.strip_generated,
    generated_marks=generated_items.MARKS,
    has_generated_parts=generated_items.has_generated_parts,
    continues_stored=generated_items.continues_stored,
    names_stored=generated_items.names_stored,
    stored_keys=generated_items.stored_keys,
    recalls=True,
    local=local,
    local_steps=local_steps,
    stored_steps=stored_steps,
    count_paths=(COUNT_PATH.encode(),),
    write_request=write_request,
    recalled_keys=recalled_keys,
    reader=reader,
    read_steps=read_steps,
    write_steps=write_steps,
    max_items={"input": MAX_ITEMS, "tools": MAX_TOOLS},
    serves=frozenset({"openai_chat"}),
    base_has_version=True,
    default_base_path=b"/v1",
    frame_error=websocket.error_frame,
    tap=usage.TAP,
    image_mark=rb'"type"\s*:\s*"input_image"',
    model_list=OPENAI_SOURCE,
    cache_rules=CacheRules(
        paths=(b"/responses",), samples="n", state=("previous_response_id", "conversation", "prompt", "background"),
        store="store", stores_by_default=True, items="input",
        fields=(b"openai-beta", b"openai-organization", b"openai-project"),
    ),
    rate_fields=OPENAI_FIELDS,
    websocket=websocket.TRANSPORT,
    drops=(
        "Hosted tools (web_search, file_search, code_interpreter, mcp, image_generation and others) are left out; a "
        "tool_choice that requires one is refused.",
        "background, conversation and prompt are refused; images and audio by file_id are refused.",
        "Items of an unknown type are sent as text if they contain text, else left out; the access log and a metric "
        "count both. An unknown item that is the output of a known call is refused if it has no text.",
        "Tools declared by input items (additional_tools, tool_search_output) are offered like those in tools; a "
        "tool_search that the client executes becomes a function; deferred tools are offered immediately.",
        "input_tokens returns an estimate, except for a Responses upstream, which counts the tokens itself.",
        "truncation, max_tool_calls and client_metadata are accepted and have no effect.",
        "Towards a Responses upstream: seed, logit_bias, top_k and penalties are left out; n above 1 and audio are "
        "refused; relayd itself ends the answer at stop strings; thoughts signed by another kind of upstream are left "
        "out; a thinking budget becomes an effort level, and an effort that the model lacks becomes the nearest one; "
        "the name of a message's author and the mark of a failed tool result are left out.",
        "Towards a Responses client: the matched stop string, and all answers except the first, are left out.",
    ),
)
