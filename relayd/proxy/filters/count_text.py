"""Counts the text of a response that a client gets, for the charge of one whose tokens are not reported."""

from __future__ import annotations

import re

from relayd.proxy.ai_request import AiRequest
from relayd.proxy.filters.filter import Filter

# The members in which the dialects carry text, reasoning and the arguments of tools.
_TEXT = re.compile(
    rb'"(content|text|delta|thinking|reasoning|reasoning_content|refusal|arguments|partial_json|response)"'
    rb'[ \t\r\n]*:[ \t\r\n]*"([^"\\]*(?:\\.[^"\\]*)*)'
)


class CountText(Filter):
    """Reads pieces as they pass, in the client's dialect; a text that is cut between two pieces may be missed. A stream
    whose deltas are texts repeats them as a whole, which is not counted again."""

    __slots__ = ("_ai_request", "_deltas", "_others")

    def __init__(self, ai_request: AiRequest) -> None:
        super().__init__()
        self._ai_request = ai_request
        self._deltas = self._others = 0

    def process(self, data: bytes) -> bytes:
        """Count the characters of a piece."""
        if data:
            for key, text in _TEXT.findall(data):
                if key == b"delta":
                    self._deltas += len(text)
                else:
                    self._others += len(text)
            self._ai_request.output_characters = self._deltas or self._others
        return data
