"""Compiles consumers and groups into identities."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from relayd.access.identity import Identity
from relayd.access.key_record import KeyRecord
from relayd.access.token_claims import Party
from relayd.config.access import Consumer, Group, IssuedKey
from relayd.config.load import load_section_text
from relayd.config.model import Config
from relayd.config.rates import rules_of
from relayd.errors import ConfigError
from relayd.limits.gate import Gate
from relayd.limits.ledger import Ledger
from relayd.limits.limit_set import LimitSet

NO_GROUP = Group()


class Identities:
    """Makes the identities of one plan. A setting of a group applies to a member that has none of its own, and the
    limits of a group are shared by its members."""

    def __init__(
        self, config: Config, gates: Mapping[str, Gate], limit_sets: Mapping[str, LimitSet], ledger: Ledger
    ) -> None:
        """`gates` (plan/gates.py) and `limit_sets` (plan/rates.py) are those of the plan, by name. The rates and
        budgets of keys of the key store count in `ledger`."""
        self._groups, self._gates, self._limit_sets, self._ledger = config.groups, gates, limit_sets, ledger
        self._taken = config.consumers.keys() | config.groups.keys()

    def of_consumer(self, name: str, consumer: Consumer) -> Identity:
        """The identity of an entry of `consumers`."""
        return self._identity(name, consumer, consumer.priority)

    def of_key(self, record: KeyRecord) -> Identity | None:
        """The identity of a key of the key store; None if the plan has no group of its group's name, if its name is
        that of a consumer or a group, or if its settings are damaged."""
        try:
            key = settings_of(record)
        except ConfigError:
            return None
        if record.name in self._taken or (key.group is not None and key.group not in self._groups):
            return None
        identity = self._identity(record.name, key, None)
        return replace(identity, limit_sets=(*self._limit_sets_of_key(record.name, key), *identity.limit_sets))

    def _identity(self, name: str, member: Consumer | IssuedKey, priority: int | None) -> Identity:
        group = self._groups.get(member.group or "", NO_GROUP)
        routes = group.routes if member.routes is None else member.routes
        return Identity(
            name=name,
            group=member.group or "",
            models=group.models if member.models is None else member.models,
            routes=None if routes is None else frozenset(routes),
            priority=(group.priority if priority is None else priority) or 0,
            gates=self._gates_of(f"consumer {name}", f"group {member.group}"),
            limit_sets=self._limit_sets_of(f"consumer {name}", f"group {member.group}"),
        )

    def of_party(self, name: str, consumer: Consumer, party: Party) -> Identity | None:
        """The identity of a party that an authenticator has recognised under an entry of `consumers`; None if its group
        does not exist."""
        if party.group is not None:
            if party.group not in self._groups:
                return None
            consumer = replace(consumer, group=party.group)
        identity = self.of_consumer(name, consumer)
        return replace(
            identity, name=f"{name}/{party.member}" if party.member else name, entry=name,
            models=identity.models if party.models is None else party.models,
        )

    def _gates_of(self, *names: str) -> tuple[Gate, ...]:
        return tuple(self._gates[name] for name in names if name in self._gates)

    def _limit_sets_of_key(self, name: str, key: IssuedKey) -> tuple[LimitSet, ...]:
        rules = rules_of(f"consumer {name}", key.rates, key.budget)
        if not rules:
            return ()
        made = LimitSet(rules, self._ledger)
        self._ledger.join(made.fixed())
        return (made,)

    def _limit_sets_of(self, *names: str) -> tuple[LimitSet, ...]:
        return tuple(self._limit_sets[name] for name in names if name in self._limit_sets)


def settings_of(record: KeyRecord) -> IssuedKey:
    """The settings of a key. Raises ConfigError."""
    made: IssuedKey = load_section_text(json.dumps(record.settings), f"key {record.name}", IssuedKey)
    return made
