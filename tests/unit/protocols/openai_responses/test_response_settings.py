"""The settings that travel with a request."""

from __future__ import annotations

import pytest

from relayd.protocols.canon import Request
from relayd.protocols.openai_responses.response_settings import KEY, settings_of
from tests.unit.protocols.openai_responses.harness import read


def test_settings_have_a_private_key_in_extra() -> None:
    request = read(store=False)
    assert KEY.startswith("_") and list(request.extra) == [KEY]
    assert settings_of(request).store is False


def test_the_conversation_is_kept_only_if_it_will_be_stored() -> None:
    assert len(settings_of(read()).items) == len(settings_of(read(store=True)).items) == 1
    assert settings_of(read(store=False)).items == ()


def test_a_request_of_another_dialect_has_no_settings() -> None:
    with pytest.raises(KeyError):
        settings_of(Request("m", ()))
