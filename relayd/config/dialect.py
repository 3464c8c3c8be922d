"""`dialect:` the particular features of an upstream's endpoints within their AI dialect."""

from __future__ import annotations

from typing import Literal

from relayd.schema import section, setting


@section()
class DialectOptions:
    """How requests are translated for the endpoints of this upstream. Requests that pass are not changed."""

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = setting(default="max_tokens", doc="Chat: the name of the token limit. OpenAI's reasoning models accept only max_completion_tokens.")
    developer_role: bool = setting(default=False, doc="Chat: the endpoint accepts the role `developer`; otherwise it is sent as `system`.")
    reasoning_history: Literal["drop", "reasoning_content"] = setting(default="drop", doc="Chat: how the reasoning of earlier turns is sent. DeepSeek, Qwen and gpt-oss keep the quality of tool loops with reasoning_content.")
    unanswered_calls: Literal["fill", "refuse"] = setting(default="fill", doc="A tool call in the history without a result: fill inserts a short result, refuse answers 400.")
    default_max_tokens: int = setting(default=4096, doc="The token limit that is sent if the endpoint requires one (Anthropic) and the client gave none.", minimum=1)
    metadata: bool = setting(default=False, doc="Chat: the endpoint accepts `metadata`.")
    verbosity: bool = setting(default=False, doc="Chat: the endpoint accepts `verbosity`.")
    thinking: Literal["adaptive", "budget", "drop"] = setting(default="adaptive", doc="How reasoning is requested. For Anthropic models whose generation is not evident from their name: by an effort (adaptive), or by a budget of tokens (older models). For all dialects: drop requests no reasoning, for models without it.")
    ask_usage: bool = setting(default=True, doc="Chat: request token counts from the endpoint for streams that pass, even if the client did not. relayd counts them and removes them from the response. Switch it off for endpoints that do not accept stream_options.")
