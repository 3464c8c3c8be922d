"""Clients in a list of networks, without a key.

The address is the one in the access log: behind `trusted_proxies` it is that of the client which they name, and an
IPv4-mapped IPv6 address is the IPv4 address. A request that presents a key, even an unknown one, is not recognised by its
address; placeholders that SDKs need, as `none` or `EMPTY`, are no keys. A trusted proxy that does not name its clients
makes all of them have its own address.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from relayd.access.client_request import ClientRequest
from relayd.access.credential import AI_KEY_FIELDS, Credential, presents_key
from relayd.access.token_claims import ENTRY, Party
from relayd.schema import section, setting
from relayd.wire.forwarded import UNIX, Networks, network_fault

RANK = 3


@section()
class Options:
    """A list of networks."""

    addresses: tuple[str, ...] = setting(doc="Addresses and networks of clients that need no key; `unix` for clients on a Unix socket. Behind `trusted_proxies` the address of the client counts that they name. A request that presents a key, even an unknown one, is not recognised by its address.", example=["10.0.0.0/8", "::1"])

    def check(self) -> Iterable[tuple[str, str]]:
        if not self.addresses:
            yield "addresses", "is empty"
        seen: set[str] = set()
        for index, network in enumerate(self.addresses):
            if network != UNIX and (fault := network_fault(network)):
                yield f"addresses[{index}]", fault
            elif network in seen:
                yield f"addresses[{index}]", "is written twice"
            seen.add(network)


class Authenticator:
    """One consumer's networks."""

    rank: ClassVar[int] = RANK

    def __init__(self, options: Options) -> None:
        self._options = options
        self._networks = Networks(())

    def prepare(self) -> None:
        """Parse the networks, once for a plan."""
        self._networks = Networks(self._options.addresses)

    def credentials(self, key_headers: Sequence[str] = AI_KEY_FIELDS) -> Iterable[Credential]:
        """No key is expected."""
        return ()

    def lines(self) -> list[str]:
        """A client sends nothing."""
        return []

    def party(self, request: ClientRequest) -> Party | None:
        """The entry, if the client's address is in one of the networks."""
        return ENTRY if self._networks.contains(request.client) and not presents_key(request.presented) else None
