"""The client of a request that arrives through trusted proxies, and the forwarding fields for the next hop.

Laws:
1. Only entries written by a trusted peer are used. The list is searched from right to left, and the first untrusted
   address is the client (RFC 7239 8.1: everything left of it may be forged).
2. The search stops at an entry that is not an address. In X-Forwarded-For this entry and all entries left of it are
   dropped. In Forwarded, `unknown` and obfuscated nodes (RFC 7239 6.2, 6.3) are forwarded, malformed elements are not.
3. X-Forwarded-For takes precedence over Forwarded, because proxies that write X-Forwarded-For forward a client's
   Forwarded unchanged (nginx, Envoy, HAProxy with `option forwardfor`).
4. Both fields are sent with the same content: a Forwarded that contradicts the result is replaced.
5. The cost is bounded: at most MAX_ELEMENTS entries of a list are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from relayd.lazy_regex import lazy_regex
from relayd.wire.forwarded import UNIX, Networks, element_address, node_of, parse_address, quoted
from relayd.wire.forwarded_field import elements_from_last

MAX_ELEMENTS = 64
_SCHEME = lazy_regex(rb"[A-Za-z][A-Za-z0-9+.\-]{0,31}")
_HOST = lazy_regex(rb"(?:[A-Za-z0-9._~\-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_OBFUSCATED = lazy_regex(rb"(?:(?:unknown|_[A-Za-z0-9._\-]+)(?::(?:[0-9]{1,5}|_[A-Za-z0-9._\-]+))?)?", re.IGNORECASE)
_OBFUSCATED_PORT = lazy_regex(rb":_[A-Za-z0-9._\-]+\Z")


class Origin(NamedTuple):
    """`client` is an address or `unix`. `chain` is the X-Forwarded-For value to send, with the peer appended.
    `elements` are the Forwarded elements to send before relayd's own. `proto` and `host` are those of the client's
    request as reported by the proxies, else None."""

    client: str
    chain: bytes
    elements: list[bytes]
    proto: bytes | None
    host: bytes | None


class _ListResult(NamedTuple):
    """The result of searching one list. `forwardable` are its last entries that may be forwarded, `addresses` the
    addresses of the last entries that have one; both in the order of the list. `client_position` is the position of the
    client's entry, counted from 1 at the right; 0 if no entry has an address. `length` is the number of entries, -1 if
    the list is longer than MAX_ELEMENTS."""

    client: str
    forwardable: list[bytes]
    addresses: list[str]
    client_position: int
    length: int
    proto: bytes = b""
    host: bytes = b""


def origin_of(peer: str, values: Callable[[bytes], list[bytes]], trusted: Networks) -> Origin:
    """The origin of a request. `peer` is the address of the socket, or `unix`; `values` returns all values of a field,
    in order, for a lower-case name. An untrusted peer is the client itself."""
    if peer.startswith("::ffff:"):  # IPv4 on a dual-stack socket
        peer = str(parse_address(peer) or peer)
    if not trusted.contains(peer):
        return Origin(peer, _chain([], peer), [], None, None)
    listed, elements = values(b"x-forwarded-for"), values(b"forwarded")
    forwarded = _read_forwarded(peer, elements, trusted) if elements else None
    no_list = _ListResult(peer, [], [], 0, 0)
    result = _read_x_forwarded_for(peer, listed, trusted) if listed else forwarded or no_list
    proto = _trusted_value(_SCHEME, values(b"x-forwarded-proto"), result).lower()
    host = _trusted_value(_HOST, values(b"x-forwarded-host"), result)
    if result is forwarded:
        proto, host = proto or forwarded.proto, host or forwarded.host
    entries = result.forwardable if listed else [address.encode() for address in result.addresses]
    if forwarded is not None and forwarded.forwardable and _agrees(forwarded, result.client, proto, host):
        before = forwarded.forwardable
    else:
        before = _elements(result, proto, host)
    return Origin(result.client, _chain(entries, peer), before, proto or None, host or None)


def _chain(entries: list[bytes], peer: str) -> bytes:
    """The list with the peer. A peer on a Unix socket has no address: it is omitted, or `unknown` as the only entry."""
    if peer == UNIX:
        return b", ".join(entries) or b"unknown"
    return b", ".join([*entries, peer.encode("ascii", "replace")])


def _read_x_forwarded_for(peer: str, lines: list[bytes], trusted: Networks) -> _ListResult:
    """Search X-Forwarded-For."""
    entries = b",".join(lines).rsplit(b",", MAX_ELEMENTS)
    cut = len(entries) > MAX_ELEMENTS
    if cut:
        del entries[0]  # the remainder that was not split
    found = [entry for entry in (entry.strip(b" \t") for entry in entries) if entry]  # RFC 9110 5.6.1
    client, is_searching, client_position = peer, True, 0
    forwardable: list[bytes] = []
    addresses: list[str] = []
    for entry in reversed(found):
        address = element_address(entry)
        if address is None:
            break
        forwardable.append(entry)
        addresses.append(address)
        if is_searching:
            client, client_position = address, client_position + 1
            is_searching = trusted.contains(address)
    return _ListResult(client, forwardable[::-1], addresses[::-1], client_position, -1 if cut else len(found))


def _read_forwarded(peer: str, lines: list[bytes], trusted: Networks) -> _ListResult:
    """Search Forwarded."""
    client, is_searching, client_position = peer, True, 0
    proto = host = b""
    forwardable: list[bytes] = []
    addresses: list[str] = []
    for element in elements_from_last(lines):
        address = element_address(_OBFUSCATED_PORT.sub(b"", element.node))
        if len(forwardable) == MAX_ELEMENTS or (address is None and not _OBFUSCATED.fullmatch(element.node)):
            break
        if address is not None and len(addresses) == len(forwardable):
            addresses.append(address)
        forwardable.append(element.text)
        if is_searching:  # a trusted proxy wrote this element
            proto = element.proto.lower() if _SCHEME.fullmatch(element.proto) else b""
            host = element.host if _HOST.fullmatch(element.host) else b""
            if address is not None:
                client, client_position = address, client_position + 1
            is_searching = address is not None and trusted.contains(address)
    return _ListResult(client, forwardable[::-1], addresses[::-1], client_position, 0, proto, host)


def _trusted_value(form: re.Pattern[bytes], lines: list[bytes], result: _ListResult) -> bytes:
    """The value of X-Forwarded-Proto or -Host for the client: the entry at the client's position if the list is as long
    as X-Forwarded-For, else the last entry, which the peer itself wrote. b"" if there is none or it is malformed."""
    entries = [entry for part in b",".join(lines).rsplit(b",", MAX_ELEMENTS) if (entry := part.strip(b" \t"))]
    if not entries:
        return b""
    is_parallel = result.client_position > 0 and len(entries) == result.length
    value = entries[-result.client_position] if is_parallel else entries[-1]
    return value if form.fullmatch(value) else b""


def _agrees(forwarded: _ListResult, client: str, proto: bytes, host: bytes) -> bool:
    """True if Forwarded does not contradict the result."""
    if forwarded.client != client or forwarded.proto not in (b"", proto):
        return False
    return forwarded.host.lower() in (b"", host.lower())


def _elements(result: _ListResult, proto: bytes, host: bytes) -> list[bytes]:
    """Forwarded elements for a list of addresses; the client's element includes the known host and protocol."""
    made, client_index = [b"for=" + node_of(address) for address in result.addresses], result.client_position
    if not client_index and (proto or host):  # the client's address is unknown
        made, client_index = [b"for=unknown"], 1
    if client_index:
        made[-client_index] += b";host=" + quoted(host) if host else b""
        made[-client_index] += b";proto=" + quoted(proto) if proto else b""
    return made
