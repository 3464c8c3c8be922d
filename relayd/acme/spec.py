"""What the configuration wants: one certificate per name."""

from __future__ import annotations

from collections.abc import Mapping

from relayd.config.acme import Acme
from relayd.config.https import acme_sections, challenge_kinds
from relayd.config.listener import Listener
from relayd.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class CertificateSpec:
    """The certificate of one name. `kinds`: the challenges to try, in this order."""

    name: str
    section: Acme
    kinds: tuple[str, ...]


def specs_of(listeners: Mapping[str, Listener]) -> tuple[CertificateSpec, ...]:
    """The certificates that listeners want. Listeners with the same name share its certificate."""
    found: dict[str, CertificateSpec] = {}
    for listener, section in acme_sections(listeners):
        for domain in section.domains:
            name = domain.lower()
            found.setdefault(name, CertificateSpec(name, section, challenge_kinds(listener, domain, listeners)))
    return tuple(found.values())
