"""The terms of a request travel with it."""

from __future__ import annotations

import pytest

from relayd.protocols.canon import Request
from relayd.protocols.openai_responses.response_settings import KEY, settings_of
from tests.unit.protocols.openai_responses.talk import read


def test_the_terms_are_under_a_key_that_writers_leave_alone() -> None:
    request = read(store=False)
    assert KEY.startswith("_") and list(request.extra) == [KEY]
    assert settings_of(request).store is False


def test_the_conversation_is_kept_only_where_somebody_may_ask_for_it() -> None:
    assert len(settings_of(read()).items) == len(settings_of(read(store=True)).items) == 1
    assert settings_of(read(store=False)).items == ()


def test_a_request_of_another_dialect_has_none() -> None:
    with pytest.raises(KeyError):
        settings_of(Request("m", ()))
