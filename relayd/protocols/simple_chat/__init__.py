"""The plain chat front: `POST /chat` with model and messages, one answer that names the back-end it came from."""

from __future__ import annotations

from relayd.protocols import _openai_errors
from relayd.protocols.dialect import Dialect
from relayd.protocols.simple_chat import frontend

DIALECT = Dialect(
    name="simple_chat",
    title="plain chat front",
    paths=("/chat",),
    render_error=_openai_errors.render_error,
    read_error=_openai_errors.read_error,
    read_request=frontend.read_request,
    read_steps=frontend.read_steps,
    renderer=frontend.renderer,
    names_backend=True,
    drops=(
        "stream: the answer comes in one piece.",
        "logprobs, usage, thoughts and which stop string was met have no place in the answer.",
        "tools and more than one answer (n) are refused.",
    ),
)
