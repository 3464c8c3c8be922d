"""The plain chat front: `POST /chat` with model and messages, one response that names its back-end."""

from __future__ import annotations

from relayd.protocols import _openai_errors
from relayd.protocols.dialect import Dialect
from relayd.protocols.simple_chat import frontend

DIALECT = Dialect(
    name="simple_chat",
    title="plain chat front",
    paths=("/chat",),
    operations=((b"/chat", "chat"),),
    render_error=_openai_errors.render_error,
    read_error=_openai_errors.read_error,
    read_request=frontend.read_request,
    read_steps=frontend.read_steps,
    renderer=frontend.renderer,
    names_backend=True,
    drops=(
        "stream: the response comes in one piece.",
        "logprobs, usage, reasoning and the matched stop string are left out of the response.",
        "tools and more than one choice (n) are refused.",
    ),
)
