"""Anthropic's Messages API, both halves: clients such as Claude Code and the Anthropic SDKs with any endpoint, and
endpoints of this API with any client.

read_request, renderer and local serve the client, write_request and reader the endpoint, errors both.
"""

from __future__ import annotations

from relayd.protocols.anthropic_messages import (
    errors,
    generated_thinking,
    local,
    rate_fields,
    read_request,
    reader,
    renderer,
    usage,
    write_request,
)
from relayd.protocols.cacheable import CacheRules
from relayd.protocols.dialect import Dialect
from relayd.protocols.model_list import ANTHROPIC, ANTHROPIC_SOURCE

DIALECT = Dialect(
    name="anthropic_messages",
    title="Anthropic Messages",
    paths=("/messages",),
    provider="anthropic",
    operations=((b"/messages", "chat"),),
    render_error=errors.render_error,
    read_error=errors.read_error,
    read_request=read_request.read_request,
    renderer=renderer.renderer,
    strip_generated=generated_thinking.strip_generated,
    generated_marks=generated_thinking.MARKS,
    has_generated_parts=generated_thinking.has_generated_parts,
    local=local.local,
    write_request=write_request.write_request,
    recalled_keys=write_request.recalled_keys,
    reader=reader.reader,
    read_steps=read_request.read_steps,
    write_steps=write_request.write_steps,
    local_steps=local.local_steps,
    count_paths=(local.COUNT_PATH.encode(),),
    max_items={"messages": read_request.MOST_MESSAGES, "tools": read_request.MOST_TOOLS},
    drops=read_request.DROPS + write_request.DROPS,
    default_base_path=b"/v1",
    key_header=b"x-api-key",
    frame_error=errors.frame_error,
    tap=usage.TAP,
    image_mark=rb'"type"\s*:\s*"image"',
    model_list=ANTHROPIC_SOURCE,
    cache_rules=CacheRules(
        paths=(b"/messages",), state=("mcp_servers", "container"), fields=(b"anthropic-version", b"anthropic-beta"),
    ),
    listing=ANTHROPIC,
    rate_fields=rate_fields.ANTHROPIC_FIELDS,
)
