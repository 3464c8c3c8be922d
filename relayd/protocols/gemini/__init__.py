"""Gemini's generateContent as an endpoint's dialect; Gemini's own clients are served by pass-through."""

from __future__ import annotations

from relayd.protocols import _chat_usage
from relayd.protocols.dialect import Dialect
from relayd.protocols.gemini.errors import read_error, render_error
from relayd.protocols.gemini.reader import reader
from relayd.protocols.gemini.request import recalled_keys, write_request, write_steps
from relayd.protocols.gemini.usage import TAP
from relayd.protocols.model_list import GEMINI, GEMINI_SOURCE

DIALECT = Dialect(
    name="gemini",
    title="Google Gemini",
    paths=(),
    provider="gcp.gemini",
    operations=(
        (b":generateContent", "generate_content"), (b":streamGenerateContent", "generate_content"),
        (b":embedContent", "embeddings"),
    ),
    render_error=render_error,
    read_error=read_error,
    write_request=write_request,
    recalled_keys=recalled_keys,
    reader=reader,
    write_steps=write_steps,
    default_base_path=b"/v1beta",
    key_header=b"x-goog-api-key",
    tap=TAP,
    image_mark=rb'"mime_?[tT]ype"\s*:\s*"image/',
    other_taps=((b"/chat/completions", _chat_usage.TAP),),
    model_list=GEMINI_SOURCE,
    listing=GEMINI,
    drops=(
        "logit_bias, user, metadata, verbosity, prompt_cache_key and safety_identifier are left out.",
        "parallel_tool_calls: false is left out: the model may call several functions in one turn.",
        "A function's strict, and the name of a message's author, are left out.",
        "Names of documents and the name of a schema are left out; the model sees their contents.",
        "Reasoning in the history is left out, except the signatures of calls.",
        "Models before 2.5 do not think: the effort is left out. Budgets and efforts become the nearest that the model "
        "supports.",
        "Five stop strings are sent; relayd itself ends the response at the others.",
        "A seed beyond 32 bits is reduced to 32 bits, deterministically.",
        "The detail of images (low, high, auto) is left out.",
        "Files by id are refused.",
        "Code that the model ran at Google, grounding and citations are left out of the response.",
        "Images that a model generates become Markdown images with a data URL.",
    ),
)
