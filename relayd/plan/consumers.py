"""Compiles the authenticators of all consumers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from relayd.access.consumers import Consumers, Recognised
from relayd.access.credential import AI_KEY_FIELDS, Credential
from relayd.access.identity import Identity
from relayd.access.key_ring import KeyRing
from relayd.access.key_store import KeyStore
from relayd.config.access import authenticators_of
from relayd.config.model import Config
from relayd.errors import OptionError
from relayd.plan.identities import Identities
from relayd.protocols.dialect import Dialect


def compile_consumers(
    config: Config, dialects: Mapping[str, Dialect], identities: Identities, faults: list[tuple[str, str]],
    keys: KeyStore | None = None,
) -> Consumers:
    """The consumers of a configuration, and those of the key store. Faults are added to `faults` as pairs of key and
    fault."""
    headers = (one.key_header.decode() for one in dialects.values() if one.key_header is not None)
    fields = tuple(dict.fromkeys((*AI_KEY_FIELDS, *headers)))
    credentials: list[tuple[Identity, Credential]] = []
    recognised: list[Recognised] = []
    challenges: list[tuple[str, str]] = []
    for name, consumer in config.consumers.items():
        identity = identities.of_consumer(name, consumer)
        for authenticator in authenticators_of(consumer).values():
            credentials += [(identity, one) for one in authenticator.credentials(fields)]
            if challenge := getattr(authenticator, "challenge", ""):
                challenges += [(party, challenge) for party in (name, consumer.group) if party]
            if not hasattr(authenticator, "party"):
                continue
            try:
                authenticator.prepare()
            except OptionError as fault:
                faults.append((f"consumers.{name}.{fault.key}", fault.message))
            recognised.append(Recognised(name, authenticator, partial(identities.of_party, name, consumer)))
    ring = None if keys is None else KeyRing(keys, identities.of_key)
    return Consumers(credentials, recognised, config.consumers, challenges, ring, fields)
