"""OpenAI's Chat Completions, the dialect of nearly every endpoint, in both directions."""

from __future__ import annotations

from relayd.protocols import _chat_usage
from relayd.protocols._openai_errors import read_error, render_error
from relayd.protocols._thinking import learn
from relayd.protocols.cacheable import CacheRules
from relayd.protocols.dialect import Dialect
from relayd.protocols.model_list import OPENAI_SOURCE
from relayd.protocols.openai_chat import read_messages, read_request, write_request
from relayd.protocols.openai_chat.reader import reader
from relayd.protocols.openai_chat.renderer import renderer
from relayd.protocols.rate_fields import OPENAI_FIELDS

DIALECT = Dialect(
    name="openai_chat",
    title="OpenAI Chat Completions",
    paths=("/chat/completions",),
    provider="openai",
    operations=((b"/chat/completions", "chat"), (b"/completions", "text_completion"), (b"/embeddings", "embeddings")),
    render_error=render_error,
    read_error=read_error,
    read_request=read_request.read_request,
    renderer=renderer,
    write_request=write_request.write_request,
    recalled_keys=write_request.recalled_keys,
    learn=learn,
    reader=reader,
    read_steps=read_request.read_steps,
    write_steps=write_request.write_steps,
    max_items={
        "messages": read_messages.MAX_MESSAGES, "tools": read_request.MAX_TOOLS, "functions": read_request.MAX_TOOLS,
    },
    serves=frozenset({"openai_responses"}),
    base_has_version=True,
    default_base_path=b"/v1",
    error_ends_stream=False,
    tap=_chat_usage.TAP,
    image_mark=rb'"image_url"\s*:\s*[{"]',
    can_ask_usage=True,
    model_list=OPENAI_SOURCE,
    cache_rules=CacheRules(
        paths=(b"/chat/completions",), samples="n", state=("web_search_options", "plugins"), store="store",
        fields=(b"openai-beta", b"openai-organization", b"openai-project"),
    ),
    rate_fields=OPENAI_FIELDS,
    drops=(
        "From a Chat client to another dialect: members of the request that are not in OpenAI's reference, `store`, "
        "`prediction`, `web_search_options` and the id of earlier audio responses are dropped; requests for an audio "
        "response are refused.",
        "To a Chat client: signatures of reasoning, redacted reasoning, the matched stop string, "
        "`system_fingerprint`, `service_tier` and annotations of the endpoint are dropped; a client of the old "
        "`functions` gets the first call only.",
        "To a Chat endpoint: `top_k`, thinking budgets (replaced by an effort), thinking disabled by other means than "
        "the effort `none`, signed and redacted reasoning, and the error mark of a tool result are dropped; the "
        "grammar of a custom tool becomes text in its description; `metadata`, `verbosity` and earlier reasoning are "
        "sent if the upstream's options say so; a file given by its URL is refused. An effort that the model does not "
        "support becomes the nearest; four stop strings are sent, and relayd itself ends the response at the others; "
        "names of tools that are longer than 64 characters are shortened.",
    ),
)
