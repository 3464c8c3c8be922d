"""Containers as the Engine API describes them: which are meant, which are ready, and at which address.

Pure functions of the API's JSON (`GET /containers/json`, `GET /events`). Unknown and missing fields are tolerated.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from relayd.dataclass import dataclass
from relayd.upstream.discovered import LookupFault

SERVICE, PROJECT = "com.docker.compose.service", "com.docker.compose.project"
SHOWN_NAMES = 4


@dataclass(frozen=True, slots=True, order=True)
class Published:
    """A TCP port of a container that is also a port of the host. `is_ipv6` and `host` are the host's address; `host` is
    empty for all of its addresses."""

    container_port: int
    is_ipv6: bool
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Container:
    """`networks` are IP addresses by the name of the network; `ports` are the TCP ports that the image or the container
    exposes, `published` those of them that the host publishes. `is_host` is true if it uses the network of the host."""

    id: str
    name: str
    labels: Mapping[str, str]
    state: str
    status: str
    networks: Mapping[str, str]
    ports: tuple[int, ...]
    is_host: bool
    published: tuple[Published, ...]

    @property
    def why_not_ready(self) -> str:
        """Why it must not get requests, from its state and its own health check; empty if it may."""
        if self.state != "running":
            return f"is {self.state or 'in an unknown state'}"
        for text in ("unhealthy", "health: starting"):
            if f"({text})" in self.status:
                return f"is {text}" if text == "unhealthy" else "has not passed its health check yet"
        return ""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which containers are meant, and where they are reached. None means: not restricted, or found by a rule. `published`
    is the address of the host if its published ports are used, else None."""

    name: str | None
    labels: tuple[str, ...]
    network: str | None
    port: int | None
    published: str | None = None

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """True if the container with this name and these labels is meant."""
        return (self.name is None or is_named(name, self.name)) and all(
            key in labels and (not equals or labels[key] == value)
            for key, equals, value in (label.partition("=") for label in self.labels)
        )

    def host_and_port(self, container: Container) -> tuple[str, int] | str:
        """Where the container is reached, or the reason why that is unclear."""
        if self.published is not None and not container.is_host:
            return self._published(container, self.published)
        host = self._host(container)
        if not isinstance(host, tuple):
            return host
        if self.port is not None:
            return host[0], self.port
        if len(container.ports) != 1:
            exposed = ", ".join(str(port) for port in container.ports[:SHOWN_NAMES])
            return f"exposes several ports ({exposed}): set port" if exposed else "exposes no port: set port"
        return host[0], container.ports[0]

    def _published(self, container: Container, host: str) -> tuple[str, int] | str:
        """The published port, an IPv4 address first; `host` if it is published at all addresses."""
        ports = sorted({one.container_port for one in container.published})
        if self.port is None and len(ports) > 1:
            return f"publishes several ports ({', '.join(map(str, ports[:SHOWN_NAMES]))}): set port"
        found = [one for one in sorted(container.published) if self.port in (None, one.container_port)]
        if not found:
            return "publishes no port" if self.port is None else f"does not publish port {self.port}"
        return found[0].host or host, found[0].port

    def _host(self, container: Container) -> tuple[str] | str:
        """The IP address in a tuple, or the reason why there is none."""
        names = ", ".join(sorted(container.networks)[:SHOWN_NAMES])
        if self.network is not None:
            address = container.networks.get(self.network, "127.0.0.1" if container.is_host and self.network == "host" else "")
            return (address,) if address else f"has no address in the network {self.network}, only in: {names or 'none'}"
        if container.is_host:
            return (self.published or "127.0.0.1",)
        if len(container.networks) > 1:
            return f"is in several networks ({names}): set network"
        return tuple(container.networks.values())[:1] or "has no address yet"  # type: ignore[return-value]


def is_named(name: str, wanted: str) -> bool:
    """True for the wanted name, for a replica of it (name.1, as Dokku writes it), or for its pattern with *."""
    if "*" in wanted:
        return fnmatch.fnmatchcase(name, wanted.replace("[", "[[]"))
    return name == wanted or re.fullmatch(re.escape(wanted) + r"\.[0-9]+", name) is not None


def read_containers(data: bytes) -> list[Container]:
    """The containers of a listing, sorted by name. Raises LookupFault."""
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list):
        raise LookupFault("the engine's answer is not a list of containers")
    found = [_container(entry) for entry in entries if isinstance(entry, dict)]
    return sorted((one for one in found if one.id), key=lambda one: (one.name, one.id))


def _container(entry: Mapping[str, Any]) -> Container:
    names = [name.lstrip("/") for name in _list(entry.get("Names")) if isinstance(name, str)]
    networks = _mapping(_mapping(entry.get("NetworkSettings")).get("Networks"))
    addresses = {}
    for name, network in networks.items():
        address = _text(_mapping(network).get("IPAddress")) or _text(_mapping(network).get("GlobalIPv6Address"))
        if address:
            addresses[name] = address
    ports = [
        port for port in _list(entry.get("Ports"))
        if isinstance(port, dict) and isinstance(port.get("PrivatePort"), int) and port.get("Type", "tcp") == "tcp"
    ]
    # A link adds names such as other/alias.
    name = next((name for name in names if "/" not in name), names[0] if names else "")
    return Container(
        _text(entry.get("Id")), name, _texts(entry.get("Labels")), _text(entry.get("State")).lower(),
        _text(entry.get("Status")), addresses, tuple(sorted({port["PrivatePort"] for port in ports})),
        "host" in networks or _mapping(entry.get("HostConfig")).get("NetworkMode") == "host",
        tuple(_published(port) for port in ports if isinstance(port.get("PublicPort"), int)),
    )


def _published(port: Mapping[str, Any]) -> Published:
    host = _text(port.get("IP"))
    return Published(port["PrivatePort"], ":" in host, "" if host in ("0.0.0.0", "::") else host, port["PublicPort"])


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the engine. `kind` is container or network, `container` the id of the container that it concerns."""

    kind: str
    action: str
    container: str
    name: str
    attributes: Mapping[str, str]


def read_event(line: bytes) -> Event | None:
    """An event; None for a line that is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    actor = _mapping(entry.get("Actor"))
    attributes = _texts(actor.get("Attributes"))
    kind = _text(entry.get("Type"))
    container = attributes.get("container", "") if kind == "network" else _text(actor.get("ID") or entry.get("id"))
    return Event(kind, _text(entry.get("Action") or entry.get("status")), container, attributes.get("name", "").lstrip("/"), attributes)


def reasons(reasons_by_name: Sequence[tuple[str, str]]) -> str:
    """Why containers were left out, as one text of bounded length."""
    shown = [f"{name} {why}" for name, why in reasons_by_name[:SHOWN_NAMES]]
    further = len(reasons_by_name) - len(shown)
    return "; ".join([*shown, *([f"and {further} more"] if further else [])])


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> dict[str, str]:
    return {name: text for name, text in _mapping(value).items() if isinstance(text, str)}
