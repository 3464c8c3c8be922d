"""`dialect:` what the endpoints of an upstream need or take beyond their AI dialect."""

from __future__ import annotations

from typing import Literal

from relayd.schema import section, setting


@section()
class DialectOptions:
    """How requests are written for endpoints of this upstream when they are translated. What passes is not changed."""

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = setting(default="max_tokens", doc="Chat: the name of the limit. OpenAI's reasoning models take only max_completion_tokens.")
    developer_role: bool = setting(default=False, doc="Chat: whether the role `developer` is known; else it becomes `system`.")
    reasoning_history: Literal["drop", "reasoning_content"] = setting(default="drop", doc="Chat: what becomes of earlier thoughts. DeepSeek, Qwen and gpt-oss keep the quality of tool loops with reasoning_content.")
    unanswered_calls: Literal["fill", "refuse"] = setting(default="fill", doc="A tool call in the history that has no answer: a short answer is put there, or the request is refused with 400.")
    default_max_tokens: int = setting(default=4096, doc="Where the endpoint must be told a limit (Anthropic) and the client gave none.", minimum=1)
    metadata: bool = setting(default=False, doc="Chat: whether `metadata` is taken.")
    verbosity: bool = setting(default=False, doc="Chat: whether `verbosity` is taken.")
    thinking: Literal["adaptive", "budget", "drop"] = setting(default="adaptive", doc="How the endpoint is asked to reason. Anthropic, where the name of the model does not tell its generation: by an effort (adaptive) or by a budget of tokens (models before that). All: with drop not at all, for models that cannot.")
    ask_usage: bool = setting(default=True, doc="Chat: whether streams that pass ask the endpoint for token counts where the client did not; they are counted, and taken out again. Off for endpoints that know no stream_options.")
