"""Counts the text of a response that a client gets, for the charge of one whose tokens are not reported.

1. The first piece is counted when the next one follows, or at the end if no tokens were reported. So a response that
   arrives in one piece, and reports its tokens as nearly all do, is not read.
2. Of a long stream, one piece in SAMPLED is counted, and the pieces before it in proportion to their bytes: the pieces
   of a stream are alike, and the result becomes an estimate of tokens. The first pieces and long ones are all counted.
3. A text that is cut between two pieces may be missed. A stream whose deltas are texts repeats them as a whole, which
   is not counted again.
"""

from __future__ import annotations

from relayd.lazy_regex import lazy_regex
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.filters.filter import Filter
from relayd.telemetry.outcome import Record

COUNTED_PIECES, SAMPLED = 16, 8
LONG_BYTES = 1024
# The members in which the dialects carry text, reasoning and the arguments of tools.
_TEXT = lazy_regex(
    rb'"(content|text|delta|thinking|reasoning|reasoning_content|refusal|arguments|partial_json|response)"'
    rb'[ \t\r\n]*:[ \t\r\n]*"([^"\\]*(?:\\.[^"\\]*)*)'
)


class CountText(Filter):
    """Reads pieces as they pass, in the client's dialect."""

    __slots__ = ("_ai_request", "_deltas", "_first", "_others", "_pieces", "_uncounted_bytes")

    def __init__(self, ai_request: AiRequest) -> None:
        super().__init__()
        self._ai_request = ai_request
        self._deltas = self._others = 0
        self._pieces = self._uncounted_bytes = 0
        self._first = b""  # the first piece, while it is not counted

    def process(self, data: bytes) -> bytes:
        """Count the characters of a piece, or keep the first one."""
        self._pieces = pieces = self._pieces + 1
        if pieces == 1:
            self._first = data
            return data
        if self._first:
            self._count_first()
        if pieces > COUNTED_PIECES and pieces % SAMPLED and len(data) < LONG_BYTES:
            self._uncounted_bytes += len(data)
        elif data:
            self._count(data)
        return data

    def account(self, record: Record) -> None:
        """Count what is not counted yet if the tokens were not reported."""
        if self._first and record.usage is None:
            self._count_first()

    def _count_first(self) -> None:
        first, self._first = self._first, b""
        self._count(first)

    def _count(self, data: bytes) -> None:
        deltas = others = 0
        for key, text in _TEXT.findall(data):
            if key == b"delta":
                deltas += len(text)
            else:
                others += len(text)
        if self._uncounted_bytes and len(data) < LONG_BYTES:
            deltas += deltas * self._uncounted_bytes // len(data)
            others += others * self._uncounted_bytes // len(data)
            self._uncounted_bytes = 0
        self._deltas += deltas
        self._others += others
        self._ai_request.output_characters = self._deltas or self._others
