"""Patterns of models that no request can match."""

from __future__ import annotations

import pytest

from relayd.config.load import load_text

WHOLE = """listeners: {{p: {{address: "127.0.0.1:1"}}}}
upstreams: {{u: {{protocol: openai_chat, endpoints: ["http://127.0.0.1:2/v1"]{upstream}}}}}
models: {{"gpt-*": u, fast: {{upstream: u, model: small}}}}
groups: {{g: {{{group}}}}}
consumers: {{team: {{none: true{team}}}}}
routes: [{{name: r, match: {{prefix: /v1/}}, protocol: openai_chat, upstream: {to}{route}}}]
"""


def warned(to: str = "by_model", **parts: str) -> dict[str, str]:
    text = WHOLE.format(to=to, **{"upstream": "", "group": "", "team": "", "route": "", **parts})
    return {one.path: one.message for one in load_text(text, "c.yaml").warnings if "matches" in one.message}


@pytest.mark.parametrize("pattern", ["gpt-5", "gpt-*", "*", "fast", "f*"])
def test_a_pattern_of_a_model_that_clients_can_name_has_no_warning(pattern: str) -> None:
    rates = f'rates: [{{requests: 1, per: 1m, model: "{pattern}"}}]'
    assert not warned(team=f', {rates}, models: ["{pattern}"]', group=rates, route=f", {rates}")


def test_a_typing_error_is_a_warning_with_its_place_and_a_suggestion() -> None:
    rates = "rates: [{requests: 1, per: 1m}, {requests: 1, per: 1m, model: fats}]"
    found = warned(team=f", {rates}, models: ['gtp-*', fast]", group=rates, route=f", {rates}")
    assert set(found) == {"consumers.team.rates[1].model", "consumers.team.models[0]", "groups.g.rates[1].model", "routes[0].rates[1].model"}
    assert found["groups.g.rates[1].model"] == "no request can name a model that matches; did you mean fast?"


def test_an_upstream_sees_its_own_names() -> None:
    assert not warned(upstream=", rates: [{requests: 1, per: 1m, model: small}]")
    assert warned(upstream=", rates: [{requests: 1, per: 1m, model: large}]")


def test_where_models_does_not_choose_any_name_is_possible() -> None:
    assert not warned(to="u", team=", models: [anything]")
