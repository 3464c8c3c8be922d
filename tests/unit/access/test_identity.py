"""What an identity allows."""

from __future__ import annotations

import pytest

from relayd.access.identity import Identity


@pytest.mark.parametrize(("models", "model", "may"), [
    (None, "anything", True), (("gpt-*", "fast"), "gpt-5", True), (("gpt-*", "fast"), "fast", True),
    (("gpt-*", "fast"), "faster", False), (("gpt-*",), "GPT-5", True), (("GPT-5",), "gpt-5", True), (("gpt-*",), "models/gpt-5", False),
    (("*-mini",), "gpt-mini", True), (("*",), "x", True), ((), "x", False),
])
def test_a_model_is_allowed_by_name_or_pattern(models: tuple[str, ...] | None, model: str, may: bool) -> None:
    assert Identity("a", models=models).may_use(model) is may


@pytest.mark.parametrize(("identity", "allow", "may"), [
    (Identity("a"), None, True),
    (Identity("a"), frozenset({"a"}), True),
    (Identity("a"), frozenset({"b"}), False),
    (Identity("a", group="g"), frozenset({"g"}), True),
    (Identity("a"), frozenset({""}), False),
    (Identity("ci/sub", entry="ci"), frozenset({"ci"}), True),
    (Identity("ci/sub", entry="ci"), frozenset({"ci/sub"}), False),
    (Identity("a", routes=frozenset({"r"})), frozenset({"b"}), True),
    (Identity("a", routes=frozenset({"other"})), frozenset({"a"}), False),
    (Identity("a", routes=frozenset({"other"})), None, False),
])
def test_a_route_is_entered_by_its_allow_or_by_the_identitys_own_routes(
    identity: Identity, allow: frozenset[str] | None, may: bool
) -> None:
    assert identity.may_enter("r", allow) is may
