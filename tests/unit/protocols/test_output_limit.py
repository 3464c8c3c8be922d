"""The maximum of output tokens that a request states."""

from __future__ import annotations

import pytest

from relayd.protocols.output_limit import MOST_CHOICES, stated_maximum
from relayd.wire.body import inspect_json


@pytest.mark.parametrize("members, found", [
    ('"max_tokens": 10', 10),
    ('"max_completion_tokens": 11', 11),
    ('"max_output_tokens": 12', 12),
    ('"max_tokens": 10, "max_completion_tokens": 30', 30),
    ('"generationConfig": {"temperature": 1, "maxOutputTokens": 13}', 13),
    ('"options": {"num_predict" : 14}', 14),
    ('"max_tokens": 10, "n": 3', 30),
    ('"max_tokens": 10, "n": 0', 10),
    ('"max_tokens": 10, "n": 100000', 10 * MOST_CHOICES),
])
def test_every_spelling_is_found_and_choices_multiply_it(members: str, found: int) -> None:
    assert stated_maximum(inspect_json(b'{"model": "m", %b}' % members.encode())) == found


@pytest.mark.parametrize("members", ['"n": 2', '"max_tokens": null', '"max_tokens": "10"', '"options": {"num_predict": -1}', '"tools": [{"max_tokens": 10}]', '"generationConfig": {}'])
def test_a_request_without_a_maximum_states_none(members: str) -> None:
    assert stated_maximum(inspect_json(b'{"model": "m", %b}' % members.encode())) is None
