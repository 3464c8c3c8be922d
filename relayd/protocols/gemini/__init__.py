"""Gemini's generateContent as an endpoint's dialect; Gemini's own clients are served by pass-through."""

from __future__ import annotations

from relayd.protocols import _chat_usage
from relayd.protocols.dialect import Dialect
from relayd.protocols.gemini.reader import reader
from relayd.protocols.gemini.errors import read_error, render_error
from relayd.protocols.gemini.request import write_request, write_steps
from relayd.protocols.gemini.usage import TAP
from relayd.protocols.model_list import GEMINI, GEMINI_SOURCE

DIALECT = Dialect(
    name="gemini",
    title="Google Gemini",
    paths=(),
    render_error=render_error,
    read_error=read_error,
    write_request=write_request,
    reader=reader,
    write_steps=write_steps,
    default_base_path=b"/v1beta",
    key_header=b"x-goog-api-key",
    tap=TAP,
    other_taps=((b"/chat/completions", _chat_usage.TAP),),
    model_list=GEMINI_SOURCE,
    listing=GEMINI,
    drops=(
        "logit_bias, user, metadata, verbosity, prompt_cache_key and safety_identifier have no place there.",
        "parallel_tool_calls: false has none either: the model may call several functions in one turn.",
        "Whether a function is strict, and the name of a message's author, are left out.",
        "Names of documents and the name of a schema are left out; the model sees their contents.",
        "Thoughts in the history are left out, save for the signatures of calls.",
        "Models before 2.5 do not think: the effort is left out. Budgets and efforts become the nearest that the model "
        "has.",
        "Five stop strings go there; relayd itself ends the answer at the others.",
        "A seed beyond 32 bits becomes one of 32 bits, always the same.",
        "low, high and auto detail of images is left out.",
        "Files by id are refused, and so are arguments in the history that are no JSON object.",
        "Code that the model ran at Google, grounding and citations are left out of the answer.",
        "Images that a model draws become Markdown images with a data URL.",
    ),
)
