"""Ollama's native /api/chat as an endpoint's dialect; Ollama's own clients are served by pass-through."""

from __future__ import annotations

from relayd.protocols import _chat_usage
from relayd.protocols._thinking import learn, recalled_keys
from relayd.protocols.dialect import Dialect
from relayd.protocols.model_list import OLLAMA, OLLAMA_SOURCE
from relayd.protocols.ollama.errors import frame_error, read_error, render_error
from relayd.protocols.ollama.local import local
from relayd.protocols.ollama.reader import reader
from relayd.protocols.ollama.request import write_request, write_steps
from relayd.protocols.ollama.usage import TAP

DIALECT = Dialect(
    name="ollama",
    title="Ollama, native",
    paths=(),
    provider="ollama",
    operations=((b"/api/chat", "chat"), (b"/api/generate", "text_completion"), (b"/api/embed", "embeddings")),
    render_error=render_error,
    read_error=read_error,
    write_request=write_request,
    recalled_keys=recalled_keys,
    reader=reader,
    local=local,
    write_steps=write_steps,
    learn=learn,
    serves=frozenset({"openai_chat", "openai_responses"}),
    frame_error=frame_error,
    tap=TAP,
    other_taps=((b"/chat/completions", _chat_usage.TAP),),
    model_list=OLLAMA_SOURCE,
    listing=OLLAMA,
    drops=(
        "Ollama has no tool_choice: none offers no tools, a named tool is offered alone, required is left out.",
        "parallel_tool_calls, logit_bias, user, safety_identifier, metadata, verbosity, service_tier and cache keys "
        "are left out.",
        "The name of a message's author, the detail of images, strict, and the error mark of a tool result are left "
        "out; the text of the result stays.",
        "More than one choice (n), images by URL, files and audio are refused.",
        "The name, description and strictness of a response schema are left out.",
        "Levels of effort are sent to gpt-oss models only; other models are switched to think or not to think, without "
        "a budget. If a model rejects thinking, the request is repeated without it, and later requests omit it.",
        "Reasoning in the history is left out unless reasoning_history says otherwise.",
    ),
)
