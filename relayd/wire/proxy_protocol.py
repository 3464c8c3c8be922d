"""The PROXY protocol, versions 1 and 2: a header before the first byte in which a trusted load balancer sends the
client's address.

Laws:
1. A header is complete and valid, or the connection is closed: the caller never continues after a fault.
2. The size is bounded: 107 bytes for version 1, 16 + V2_PAYLOAD bytes for version 2.
3. LOCAL and UNKNOWN keep the peer address of the socket (Source None); their addresses are ignored.

The caller checks whether the peer may send this header (`trusted_proxies`).
"""

from __future__ import annotations

import ipaddress

from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1_LINE = 107
V2_PAYLOAD = 216 + 4096  # the longest address block (two Unix paths) and 4 KiB of TLVs

_V1 = lazy_regex(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f:.]{2,39}) ([0-9A-Fa-f:.]{2,39}) ([0-9]{1,5}) ([0-9]{1,5})")
_V1_UNKNOWN = lazy_regex(rb"PROXY UNKNOWN(?: [^\r\n]*)?")


class ProxyProtocolError(ValueError):
    """The first bytes are not a valid header. `rule` is a stable identifier for the log."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Source:
    """Source and destination of the client's connection. A Unix source has the address `unix` and port 0."""

    address: str
    port: int
    destination: str
    destination_port: int


def parse(buffer: bytes) -> tuple[Source | None, int] | None:
    """The source and the length of the header; None if more bytes are needed. Raises ProxyProtocolError."""
    if buffer.startswith(b"PROXY "):
        return _version_1(buffer)
    if buffer.startswith(SIGNATURE):
        return _version_2(buffer)
    if b"PROXY ".startswith(buffer) or SIGNATURE.startswith(buffer):
        return None
    raise ProxyProtocolError("signature")


def _version_1(buffer: bytes) -> tuple[Source | None, int] | None:
    end = buffer.find(b"\r", 0, V1_LINE - 1)
    if end < 0:
        if len(buffer) >= V1_LINE - 1:
            raise ProxyProtocolError("length")
        return None
    if len(buffer) == end + 1:
        return None
    if buffer[end + 1] != 0x0A:
        raise ProxyProtocolError("line_end")
    line = buffer[:end]
    if _V1_UNKNOWN.fullmatch(line):
        return None, end + 2
    match = _V1.fullmatch(line)
    if match is None:
        raise ProxyProtocolError("line")
    family = 4 if match[1] == b"TCP4" else 6
    source = Source(_text(match[2], family), _port(match[4]), _text(match[3], family), _port(match[5]))
    return source, end + 2


def _text(text: bytes, family: int) -> str:
    try:
        address = ipaddress.ip_address(text.decode("ascii"))
    except ValueError:
        raise ProxyProtocolError("address") from None
    if address.version != family:
        raise ProxyProtocolError("address")
    return str(address)


def _port(text: bytes) -> int:
    port = int(text)
    if port > 65535 or (len(text) > 1 and text.startswith(b"0")):
        raise ProxyProtocolError("port")
    return port


# Family and transport -> length of the address block. Datagram transports are invalid on a stream socket.
_BLOCKS = {0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216}


def _version_2(buffer: bytes) -> tuple[Source | None, int] | None:
    if len(buffer) > 12 and buffer[12] not in (0x20, 0x21):
        raise ProxyProtocolError("version" if buffer[12] >> 4 != 2 else "command")
    if len(buffer) < 16:
        return None
    length = int.from_bytes(buffer[14:16], "big")
    if length > V2_PAYLOAD:
        raise ProxyProtocolError("length")
    if len(buffer) < 16 + length:
        return None
    if buffer[12] == 0x20:  # LOCAL: the address block is ignored
        return None, 16 + length
    family = buffer[13]
    block = _BLOCKS.get(family)
    if block is None:
        raise ProxyProtocolError("family")
    if length < block:
        raise ProxyProtocolError("length")
    payload = buffer[16 : 16 + length]
    if family == 0x00:
        return None, 16 + length
    _check_tlvs(payload[block:])
    if family == 0x31:
        return Source("unix", 0, "unix", 0), 16 + length
    size = 4 if family == 0x11 else 16
    ports = payload[2 * size : 2 * size + 4]
    source = Source(
        str(ipaddress.ip_address(payload[:size])),
        int.from_bytes(ports[:2], "big"),
        str(ipaddress.ip_address(payload[size : 2 * size])),
        int.from_bytes(ports[2:], "big"),
    )
    return source, 16 + length


def _check_tlvs(data: bytes) -> None:
    """Validate the type-length-value records: none of them is used, but none may extend beyond the header."""
    position = 0
    while position < len(data):
        if position + 3 > len(data):
            raise ProxyProtocolError("tlv")
        position += 3 + int.from_bytes(data[position + 1 : position + 3], "big")
    if position != len(data):
        raise ProxyProtocolError("tlv")
