"""The counters of a request: which of them count it, and which already refuse it."""

from __future__ import annotations

import pytest

from relayd.limits.counter import REQUESTS, TOTAL, Rule
from relayd.limits.ledger import Ledger
from relayd.limits.limit_set import LimitSet, Selectors, network_of
from relayd.limits.window import Span

MINUTE = Span.sliding(60)
ALL = Rule("consumer a", REQUESTS, 2, MINUTE)
GPT = Rule("consumer a", REQUESTS, 1, MINUTE, model="gpt-*")
EACH_CLIENT = Rule("consumer a", TOTAL, 9, MINUTE, each="client")
EACH_MODEL = Rule("consumer a", REQUESTS, 1, MINUTE, each="model")


def keys(limits: LimitSet, model: str = "gpt-5", consumer: str = "a", client: str = "192.0.2.1") -> list[str]:
    return [one.window.key for one in limits.counters(Selectors(model, consumer, client))]


def use(ledger: Ledger, limits: LimitSet, count: int) -> None:
    for _ in range(count):
        ledger.reserve([(one, 1) for one in limits.fixed()], ledger.now())


def test_a_request_counts_for_the_entries_that_select_its_model() -> None:
    limits = LimitSet((ALL, GPT), Ledger())
    assert keys(limits, "gpt-5") == [ALL.key, GPT.key]
    assert keys(limits, "o1") == keys(limits, "") == [ALL.key]


def test_every_value_of_each_has_its_own_counter_and_keeps_it() -> None:
    limits = LimitSet((EACH_CLIENT, EACH_MODEL), Ledger())
    assert keys(limits) == [f"{EACH_CLIENT.key} 192.0.2.1", f"{EACH_MODEL.key} gpt-5"]
    first, second = (limits.counters(Selectors("gpt-5", "a", client))[0] for client in ("192.0.2.1", "192.0.2.2"))
    assert first.window is not second.window
    assert limits.counters(Selectors("gpt-5", "a", "192.0.2.1"))[0] is first


def test_a_model_in_another_case_counts_as_the_same() -> None:
    limits = LimitSet((GPT, EACH_MODEL), Ledger())
    assert keys(limits, "GPT-5") == keys(limits, "gpt-5") == [GPT.key, f"{EACH_MODEL.key} gpt-5"]


def test_a_request_without_a_consumer_counts_for_its_address() -> None:
    selectors = Selectors("m", "", "2001:db8:1:2:3:4:5:6")
    assert selectors.value("consumer") == "2001:db8:1:2::/64"
    assert Selectors("m", "team", "192.0.2.1").value("consumer") == "team"


@pytest.mark.parametrize("address, network", [
    ("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::/64"),
    ("2001:db8::ffff:1", "2001:db8::/64"), ("fe80::1%eth0", "fe80::/64"), ("unix:", "unix:"), ("", ""),
])
def test_a_host_has_one_network_however_many_addresses_it_uses(address: str, network: str) -> None:
    assert network_of(address) == network


def test_an_early_refusal_needs_a_limit_that_is_used_up_for_every_model() -> None:
    ledger = Ledger()
    limits = LimitSet((ALL, GPT), ledger)
    use(ledger, limits, 1)
    assert limits.used_up() is None, "only gpt-* is used up"
    limits = LimitSet((ALL,), ledger)
    use(ledger, limits, 1)
    found = limits.used_up()
    assert found is not None and found.rule == ALL


@pytest.mark.parametrize("rule", [Rule("a", REQUESTS, 1, MINUTE, counts_only=True), Rule("a", REQUESTS, 1, MINUTE, wait_s=5)])
def test_a_limit_that_refuses_nothing_now_refuses_nothing_early(rule: Rule) -> None:
    ledger = Ledger()
    limits = LimitSet((rule,), ledger)
    use(ledger, limits, 1)
    assert limits.fixed()[0].window.used == 1 and limits.used_up() is None


def test_only_limits_of_tokens_need_an_estimate_and_only_those_of_models_the_model() -> None:
    ledger = Ledger()
    sets = [LimitSet((rule,), ledger) for rule in (ALL, GPT, EACH_CLIENT, EACH_MODEL)]
    assert [one.by_tokens for one in sets] == [False, False, True, False]
    assert [one.by_model for one in sets] == [False, True, False, True]
