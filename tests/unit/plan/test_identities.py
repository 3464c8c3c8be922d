"""What a member has of its group."""

from __future__ import annotations

from relayd.access.identity import Identity
from relayd.access.key_record import KeyRecord
from relayd.config.access import Consumer, Group
from relayd.config.limits import Limits
from relayd.config.listener import Listener
from relayd.config.model import Config
from relayd.config.rates import Budget, Rate
from relayd.limits.gate import Gate
from relayd.limits.ledger import Ledger
from relayd.plan.gates import gate_limits
from relayd.plan.identities import Identities
from relayd.plan.rates import limit_sets
from relayd.protocols.dialect import run_steps
from relayd.schema import Duration, Money

LISTENERS = {"public": Listener(address="127.0.0.1:8282")}


def made(consumer: Consumer, group: Group) -> Identity:
    config = Config(listeners=LISTENERS, consumers={"a": consumer}, groups={"g": group})
    gates = {name: Gate(name, limits) for name, limits in gate_limits(config).items()}
    ledger = Ledger()
    return Identities(config, gates, limit_sets(config, ledger), ledger).of_consumer("a", consumer)


def test_a_member_has_the_models_routes_and_priority_of_its_group() -> None:
    group = Group(priority=4, models=("gpt-*",), routes=("r",))
    identity = made(Consumer(group="g"), group)
    assert (identity.group, identity.priority, identity.models, sorted(identity.routes or ())) == ("g", 4, ("gpt-*",), ["r"])


def test_settings_of_its_own_replace_those_of_the_group() -> None:
    group = Group(priority=4, models=("gpt-*",), routes=("r",))
    identity = made(Consumer(group="g", priority=0, models=("fast",), routes=("q",)), group)
    assert (identity.priority, identity.models, sorted(identity.routes or ())) == (0, ("fast",), ["q"])


def test_the_limits_of_a_group_come_beside_those_of_the_member() -> None:
    identity = made(Consumer(group="g", limits=Limits(requests=1)), Group(limits=Limits(requests=5)))
    assert [gate.name for gate in identity.gates] == ["consumer a", "group g"]
    identity = made(Consumer(limits=Limits(requests=1)), Group(limits=Limits(requests=5)))
    assert [gate.name for gate in identity.gates] == ["consumer a"] and identity.group == ""


def test_the_rates_and_budgets_of_a_group_come_beside_those_of_the_member() -> None:
    own, common = (Rate(requests=60, per=Duration(60)),), (Budget(amount=Money(5), per="day"),)
    identity = made(Consumer(group="g", rates=own), Group(budget=common))
    assert [rule.scope for one in identity.limit_sets for rule in one.rules] == ["consumer a", "group g"]
    assert made(Consumer(group="g"), Group()).limit_sets == ()


def test_the_rates_of_an_issued_key_come_beside_those_of_its_group_and_are_listed_for_as_long_as_they_are_known() -> None:
    config, ledger = Config(listeners=LISTENERS, groups={"g": Group(rates=(Rate(requests=9, per=Duration(60)),))}), Ledger()
    settings = {"group": "g", "rates": [{"requests": 2, "per": "1m"}, {"tokens": 9, "per": "1h", "each": "model"}], "budget": [{"amount": 5, "per": "day"}]}
    record = KeyRecord("0" * 12, "k", "0" * 64, settings=settings)
    identity = Identities(config, {}, limit_sets(config, ledger), ledger).of_key(record)
    assert identity is not None and [[rule.scope for rule in one.rules] for one in identity.limit_sets] == [["consumer k"] * 3, ["group g"]]
    assert [one.rule.key for one in run_steps(ledger.counters())] == ["consumer k requests/60000ms", "consumer k cost/day"]
    window = identity.limit_sets[0].always[0].window
    again = Identities(config, {}, limit_sets(config, ledger), ledger).of_key(record)
    assert again is not None and again.limit_sets[0].always[0].window is window
    del identity, again, window
    assert run_steps(ledger.counters()) == []


def test_a_key_with_a_rate_that_cannot_be_read_is_not_accepted() -> None:
    config = Config(listeners=LISTENERS)
    record = KeyRecord("0" * 12, "k", "0" * 64, settings={"rates": [{"requests": 2}]})
    assert Identities(config, {}, {}, Ledger()).of_key(record) is None
