"""Claims: issuer, audience, times with their leeway, and the party that they name."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.access.token import TokenFault
from relayd.access.token_claims import ClaimRules, Party

RULES = ClaimRules("https://issuer", "relayd", 30.0)
NOW = 1_800_000_000.0
GOOD: dict[str, Any] = {"iss": "https://issuer", "aud": "relayd", "exp": NOW + 60}


def test_good_claims_are_valid_until_exp_and_the_leeway() -> None:
    assert RULES.expiry(GOOD, NOW) == NOW + 90
    assert RULES.expiry({**GOOD, "exp": NOW - 29}, NOW) == NOW + 1
    assert RULES.expiry({**GOOD, "aud": ["other", "relayd"], "nbf": NOW + 30, "iat": NOW + 30}, NOW)


@pytest.mark.parametrize(("change", "reason"), [
    ({"iss": "https://issuer/"}, "another issuer"),
    ({"iss": None}, "another issuer"),
    ({"iss": ["https://issuer"]}, "another issuer"),
    ({"aud": "other"}, "another audience"),
    ({"aud": "relayd2"}, "another audience"),
    ({"aud": []}, "another audience"),
    ({"aud": None}, "another audience"),
    ({"aud": {"relayd": 1}}, "neither a text nor a list"),
    ({"aud": ["relayd", 5]}, "neither a text nor a list"),
    ({"exp": NOW - 30}, "has expired"),
    ({"exp": 0}, "has expired"),
    ({"exp": -1}, "exp of the token is no time"),
    ({"exp": 1e400}, "exp of the token is no time"),
    ({"exp": float("nan")}, "exp of the token is no time"),
    ({"exp": 10**400}, "exp of the token is no time"),
    ({"exp": "9999999999"}, "exp of the token is no time"),
    ({"exp": True}, "exp of the token is no time"),
    ({"exp": None}, "exp of the token is no time"),
    ({"nbf": NOW + 31}, r"not valid yet \(nbf\)"),
    ({"iat": NOW + 31}, r"not valid yet \(iat\)"),
    ({"nbf": "soon"}, "nbf of the token is no time"),
])
def test_claims_that_do_not_fit_are_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(TokenFault, match=reason):
        RULES.expiry({**GOOD, **change}, NOW)


def test_a_token_that_never_expires_is_refused() -> None:
    with pytest.raises(TokenFault, match="no exp"):
        RULES.expiry({"iss": "https://issuer", "aud": "relayd"}, NOW)


def test_without_an_audience_only_tokens_for_no_audience_are_meant_for_relayd() -> None:
    rules = ClaimRules("https://issuer", None, 0.0)
    assert rules.expiry({"iss": "https://issuer", "exp": NOW + 1}, NOW) == NOW + 1
    with pytest.raises(TokenFault, match="names an audience"):
        rules.expiry(GOOD, NOW)


def test_claims_name_member_group_and_models() -> None:
    rules = ClaimRules("i", None, 0.0, consumer="sub", group="realm.team", models="scope")
    claims = {"sub": "ann", "realm": {"team": "paying"}, "scope": "gpt-* fast gpt-*"}
    assert rules.party(claims) == Party("ann", "paying", ("gpt-*", "fast"))
    assert rules.party({**claims, "sub": 42, "scope": ["a"]}) == Party("42", "paying", ("a",))
    assert rules.party({**claims, "realm.team": "free"}).group == "free", "a claim with dots in its name comes first"
    assert ClaimRules("i", None, 0.0).party(claims) == Party()


@pytest.mark.parametrize("change", [
    {"sub": None}, {"sub": ""}, {"sub": " ann"}, {"sub": "a\nb"}, {"sub": "a\x1b[0m"}, {"sub": "x" * 129}, {"sub": True}, {"sub": ["ann"]},
    {"sub": 1.5}, {"sub": 10**30}, {"realm": {}}, {"realm": "team"}, {"realm": None}, {"scope": None}, {"scope": [5]}, {"scope": ["a"] * 101},
    {"scope": ["a\x00"]}, {"scope": ""}, {"scope": {"a": 1}},
])
def test_a_claim_that_chooses_and_cannot_is_a_refusal(change: dict[str, Any]) -> None:
    rules = ClaimRules("i", None, 0.0, consumer="sub", group="realm.team", models="scope")
    claims = {"sub": "ann", "realm": {"team": "paying"}, "scope": "gpt-*"}
    assert rules.party(claims)
    with pytest.raises(TokenFault, match="the claim"):
        rules.party({**claims, **change})
