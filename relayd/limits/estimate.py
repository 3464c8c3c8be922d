"""Estimates of what a request uses, for reservations and for responses without a report of their tokens.

relayd has no tokenizer of an endpoint's model. A token is counted as four bytes of the request or four characters of
the response. Media inside a JSON body (data URLs, base64 in a member `data`) count IMAGE_TOKENS each instead of their
bytes.
"""

from __future__ import annotations

BYTES_PER_TOKEN = 4
IMAGE_TOKENS = 1600
SHORTEST_MEDIA_BYTES = 1024
MOST_MARKS, SEARCHED_BYTES = 256, 1024 * 1024  # the search for media is bounded; the rest counts as text
_MARKS = (b";base64,", b'"data":')


def input_tokens(body: bytes | None) -> int:
    """The input tokens of a request with this JSON body."""
    if not body:
        return 0
    text_bytes, media = len(body), 0
    for mark in _MARKS if text_bytes > SHORTEST_MEDIA_BYTES else ():
        position, budget = 0, SEARCHED_BYTES
        for _ in range(MOST_MARKS):
            found = body.find(mark, position, position + budget)
            if found < 0:
                break
            budget -= found - position
            begin = found + len(mark)
            position = body.find(b'"', begin + 2)
            if position < 0:
                break
            if position - begin >= SHORTEST_MEDIA_BYTES:
                media += 1
                text_bytes -= position - begin
    return -(-text_bytes // BYTES_PER_TOKEN) + media * IMAGE_TOKENS


def output_tokens(characters: int) -> int:
    """The output tokens of this much text."""
    return -(-characters // BYTES_PER_TOKEN)
