"""`consumers:` and `groups:`."""

from __future__ import annotations

import pathlib

import pytest

from relayd.config.access import AUTHENTICATORS
from relayd.config.load import load_text
from relayd.errors import ConfigError
from relayd.schema.plugins import options_of
from tests.unit.config.section_case import accepted, faults, text_of


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K", "sk-1")
    monkeypatch.setenv("L", "sk-2")


def consumer_faults(**sections: str) -> dict[str, str]:
    sections.setdefault("groups", "{paying: {}}")
    return faults(**sections)


def test_a_consumer_belongs_to_a_group_and_may_be_restricted() -> None:
    config, warnings = accepted(
        groups="{paying: {limits: 4, priority: 3, models: ['gpt-*'], routes: [r]}}",
        consumers="{a: {key: {env: K}, group: paying, models: ['gpt-*', fast], routes: [r]}}",
        routes="[{name: r, respond: 200, allow: [paying, a]}]",
    )
    assert not warnings
    assert config.consumers["a"].models == ("gpt-*", "fast") and config.groups["paying"].limits.requests == 4


@pytest.mark.parametrize(("sections", "path", "message"), [
    ({"consumers": "{a: {key: {env: K}, group: payin}}"}, "consumers.a.group", "did you mean paying"),
    ({"consumers": "{paying: {key: {env: K}}}"}, "consumers.paying", "name of a group"),
    ({"consumers": "{a: {key: {env: K}, routes: [q]}}"}, "consumers.a.routes[0]", "unknown route"),
    ({"groups": "{g: {routes: [r, q]}}"}, "groups.g.routes[1]", "unknown route"),
    ({"groups": "{'g h': {}}"}, "groups.g h", "letters"),
    ({"routes": "[{name: r, respond: 200, allow: [nobody]}]"}, "routes[0].allow[0]", "unknown consumer or group"),
    ({"consumers": "{a: {key: {env: K}, models: ['gpt-*', '']}}"}, "consumers.a.models[1]", "empty"),
    ({"consumers": "{a: {key: {env: K}, models: ['gpt ']}}"}, "consumers.a.models[0]", "blank"),
    ({"consumers": "{a: {key: {env: K}, models: [x, x]}}"}, "consumers.a.models[1]", "twice"),
    ({"consumers": "{a: {key: {env: K}, models: []}}"}, "consumers.a.models", "no model could be used"),
    ({"groups": "{g: {routes: []}}"}, "groups.g.routes", "no route could be used"),
])
def test_a_reference_or_pattern_that_means_nothing_is_a_fault(sections: dict[str, str], path: str, message: str) -> None:
    found = consumer_faults(**sections)
    assert list(found) == [path] and message in found[path]


@pytest.mark.parametrize(("consumer", "route", "warned"), [
    ("models: [x]", "allow: [a]", True), ("group: paying", "allow: [paying]", True), ("models: [x], routes: [r]", "allow: [b]", True),
    ("models: [x]", "allow: [b]", False), ("models: [x]", "allow: [a], match: {model: [x]}", False),
    ("models: [x]", "allow: [a], protocol: openai_chat, upstream: c", False), ("group: free", "allow: [a]", False),
])
def test_a_route_that_does_not_read_the_models_of_its_consumer_is_warned_of(consumer: str, route: str, warned: bool) -> None:
    _, warnings = accepted(
        upstreams="{u: {endpoints: 'http://127.0.0.1:1'}, c: {protocol: openai_chat, endpoints: 'http://127.0.0.1:1'}}",
        groups="{paying: {models: ['gpt-*']}, free: {}}",
        consumers=f"{{a: {{key: {{env: K}}, {consumer}}}, b: {{key: {{env: L}}}}}}",
        routes=f"[{{name: r, {route if 'upstream' in route else 'upstream: u, ' + route}}}]",
    )
    assert ("not checked" in warnings.get("routes[0]", "")) == warned


def test_a_fault_names_its_line_and_column() -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(text_of() + "consumers:\n  a:\n    key: {env: K}\n    routes: [r, nowhere]\n", "c.yaml")
    (finding,) = caught.value.findings
    assert (finding.line, finding.column) == (6, 17)


def test_a_consumer_has_a_key_of_its_own(tmp_path: pathlib.Path) -> None:
    for name, key in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(key)
        (tmp_path / name).chmod(0o600)
    bearer = {name: f"{{bearer: {{file: {tmp_path}/{name}}}}}" for name in "abc"}
    accepted(consumers=f"{{x: {bearer['a']}, y: {bearer['c']}}}")
    assert list(faults(consumers=f"{{x: {bearer['a']}, y: {bearer['b']}}}")) == ["consumers.y.bearer"]
    assert list(faults(consumers="{x: {}}")) == ["consumers.x"]
    header = f"{{header: {{name: x-key, value: {{file: {tmp_path}/a}}}}}}"
    assert list(faults(consumers=f"{{x: {header}, y: {header}}}")) == ["consumers.y.header"]


def test_a_consumer_has_one_key_for_every_place_or_one_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K", "sk-1")
    monkeypatch.setenv("L", "sk-2")
    config, _ = accepted(consumers="{a: {key: {env: K}}, b: {bearer: {env: L}}}")
    assert options_of(config.consumers["a"], AUTHENTICATORS, "key").key.reveal() == "sk-1"
    assert list(faults(consumers="{a: {key: {env: K}, bearer: {env: L}}}")) == ["consumers.a.key"]
    assert list(faults(consumers="{a: {key: {env: K}}, b: {bearer: {env: K}}}")) == ["consumers.b.bearer"]
    monkeypatch.setenv("K", "two words")
    assert list(faults(consumers="{a: {key: {env: K}}}")) == ["consumers.a.key"]
