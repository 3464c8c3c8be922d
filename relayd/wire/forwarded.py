"""Addresses, trusted networks and the syntax of addresses in forwarding fields. Caches are bounded."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from relayd.lazy_regex import lazy_regex

UNIX = "unix"
_MEMO_LIMIT = 4096
_MEMO_LENGTH = 64
_ZONE = lazy_regex(r"[A-Za-z0-9._~\-]+")

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_address(text: str) -> _Address | None:
    """The address in `text` without its zone; an IPv4-mapped address as IPv4. None if it is not an address.

    Only a link-local IPv6 address has a zone (RFC 4007 6).
    """
    if len(text) > _MEMO_LENGTH:
        return None
    text, mark, zone = text.partition("%")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if mark and not (address.version == 6 and address.is_link_local and _ZONE.fullmatch(zone)):
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse_network(text: str) -> _Network:
    """The network or single address in `text`; host bits must be zero. Raises ValueError."""
    network = ipaddress.ip_network(text.strip())
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((int(mapped), network.prefixlen - 96))
    return network


def network_fault(text: str) -> str:
    """Why this is neither an address nor a network, or empty."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        pass
    else:
        return ""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return "is neither an address nor a network such as 10.0.0.0/8"
    return f"has bits outside its mask; the network is {network}"


class Networks:
    """A set of networks, as of `trusted_proxies`; `unix` means peers on a Unix socket. A look-up needs one step for
    each length of a prefix, regardless of the number of networks.

    Raises ValueError for a text that is neither an address nor a network.
    """

    __slots__ = ("_cache", "_prefixes", "_unix")

    def __init__(self, texts: Iterable[str]) -> None:
        texts = [text.strip() for text in texts]
        self._unix = UNIX in texts
        prefixes: dict[tuple[int, int], set[int]] = {}  # version, host bits: the prefixes
        for network in (parse_network(text) for text in texts if text != UNIX):
            host_bits = network.max_prefixlen - network.prefixlen
            prefixes.setdefault((network.version, host_bits), set()).add(int(network.network_address) >> host_bits)
        self._prefixes = tuple(prefixes.items())
        self._cache: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return self._unix or bool(self._prefixes)

    def contains(self, address: str) -> bool:
        known = self._cache.get(address)
        if known is None:
            known = self._matches(address)
            if len(self._cache) < _MEMO_LIMIT and len(address) <= _MEMO_LENGTH:
                self._cache[address] = known
        return known

    def _matches(self, text: str) -> bool:
        if text == UNIX:
            return self._unix
        address = parse_address(text) if self._prefixes else None
        if address is None:
            return False
        version, number = address.version, int(address)
        return any(number >> bits in known for (of, bits), known in self._prefixes if of == version)


def element_address(element: bytes) -> str | None:
    """The canonical address of a list element: plain, with port, in brackets or quotes. None if it is none."""
    if len(element) > _MEMO_LENGTH:
        return None
    try:
        text = element.decode("ascii")
    except UnicodeDecodeError:
        return None
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or (port and not _is_port(port)) or ":" not in text:
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _is_port(":" + port):
            return None
    address = parse_address(text)
    return None if address is None else str(address)


def _is_port(text: str) -> bool:
    return text[0] == ":" and text[1:].isdigit() and len(text) <= 6


_TOKEN_BYTES = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


def quoted(text: bytes) -> bytes:
    """A token unchanged, any other text as a quoted-string."""
    if text and _TOKEN_BYTES.issuperset(text):
        return text
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def node_of(address: str) -> bytes:
    parsed = parse_address(address)
    if parsed is None:
        return b"unknown"
    return b'"[%b]"' % str(parsed).encode() if parsed.version == 6 else str(parsed).encode()


def forwarded_element(client: str, host: bytes, proto: bytes) -> bytes:
    """One element of Forwarded (RFC 7239 4): IPv6 in brackets and quotes, no address as `unknown`, no empty host.

    `host` is the validated authority, so it contains no control byte. It is quoted if it has a port.
    """
    element = b"for=" + node_of(client)
    if host:
        element += b";host=" + quoted(host)
    return element + b";proto=" + quoted(proto)
