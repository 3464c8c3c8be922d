"""Addresses in relayd.yaml: of listeners and of endpoints.

Messages never repeat an endpoint's URL, because it may contain user information.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex

UNIX_PATH_BYTES = 107
HOST = r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?)*\.?"

_HOST = lazy_regex(f"(?:{HOST})|[A-Za-z0-9_][A-Za-z0-9_.\\-]{{0,252}}", re.ASCII)
_PORT = lazy_regex(r"[0-9]{1,5}", re.ASCII)
_SYSTEMD = lazy_regex(r"[A-Za-z0-9_.\-]{1,255}", re.ASCII)
_PATH = lazy_regex(r"(?:/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})*)*", re.ASCII)


class AddressError(ValueError):
    """An invalid address; the message is the reason."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """`kind` is tcp, unix or systemd; `name` the host, the path of the socket, or the name of the systemd socket."""

    kind: str
    name: str
    port: int = 0


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    """`scheme` is http or https; `unix` the path of a socket, else None; `path` begins with / or is empty.

    `host` has no brackets; `port` is the default of the scheme if the URL has none.
    """

    scheme: str
    host: str
    port: int
    path: str
    unix: str | None = None

    @property
    def authority(self) -> str:
        """The host, with the port unless it is the default of the scheme."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"


def parse_listen(text: str) -> ListenAddress:
    """host:port, [v6]:port, unix:/path or systemd:NAME. Port 0 lets the system choose. Raises AddressError."""
    if text.startswith("unix:"):
        return ListenAddress("unix", _socket_path(text[5:]))
    if text.startswith("systemd:"):
        if _SYSTEMD.fullmatch(text[8:]) is None:
            raise AddressError("systemd: needs the name of a socket (FileDescriptorName=)")
        return ListenAddress("systemd", text[8:])
    host, colon, port = text.rpartition(":")
    if not colon:
        raise AddressError("needs the form host:port, [v6]:port, unix:/path or systemd:NAME")
    if not host:
        raise AddressError(f"needs a host; for all addresses write 0.0.0.0:{port} or [::]:{port}")
    return ListenAddress("tcp", _host(host), _port(port, least=0))


def parse_endpoint(text: str) -> EndpointAddress:
    """http://host[:port][/path], https://..., unix:/socket[:/path]. Raises AddressError."""
    if text.startswith("unix:"):
        socket, colon, path = text[5:].partition(":")
        if colon and not path.startswith("/"):
            raise AddressError("the path after the second colon must begin with /")
        return EndpointAddress("http", "localhost", 80, _path(path), _socket_path(socket))
    try:
        url = urlsplit(text)
    except ValueError:
        raise AddressError("is not a URL") from None
    scheme = url.scheme
    if scheme not in ("http", "https") or not text.startswith(f"{scheme}://"):
        raise AddressError("must begin with http://, https:// or unix:/")
    _bare(url, text)
    host, port = url.netloc, {"http": 80, "https": 443}[scheme]
    if re.search(r":[^\]]*$", host):
        host, _, written = host.rpartition(":")
        port = _port(written)
    if not host:
        raise AddressError("has no host")
    return EndpointAddress(scheme, _host(host).lower(), port, _path(url.path))


def fault_of(parse: object, text: str) -> str | None:
    """The error message of a parser of this module for a text, or None."""
    try:
        parse(text)  # type: ignore[operator]
    except AddressError as fault:
        return str(fault)
    return None


def _bare(url: SplitResult, text: str) -> None:
    if "@" in url.netloc:
        raise AddressError("contains user information; configure keys under auth")
    if "?" in text:
        raise AddressError("contains a query; configure keys under auth, and send other parameters in the request")
    if "#" in text:
        raise AddressError("contains a fragment")
    if any(ord(sign) <= 0x20 or ord(sign) >= 0x7F or sign in "\\\"<>^`{|}" for sign in text):
        raise AddressError("contains a character that must be percent-encoded")


def _host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise AddressError("contains no IPv6 address in its brackets") from None
    if ":" in text:
        raise AddressError("an IPv6 address needs brackets: [::1]:8080")
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise AddressError("is not an IPv4 address") from None
    if len(text) > 253 or _HOST.fullmatch(text) is None:
        raise AddressError("is not a host name")
    return text


def _port(text: str, least: int = 1) -> int:
    if _PORT.fullmatch(text) is None or not least <= int(text) <= 65535:
        raise AddressError("needs a port between 1 and 65535")
    return int(text)


def _socket_path(path: str) -> str:
    if not path.startswith("/") or path.endswith("/") or ".." in path.split("/"):
        raise AddressError("unix: needs the absolute path of a socket")
    if len(path.encode("utf-8")) > UNIX_PATH_BYTES:
        raise AddressError(f"the path of a Unix socket has at most {UNIX_PATH_BYTES} bytes")
    return path


def _path(path: str) -> str:
    if _PATH.fullmatch(path) is None:
        raise AddressError("has a path with a character that must be percent-encoded")
    if any(part in (".", "..") for part in path.split("/")):
        raise AddressError("has a path with . or .. in it")
    return path
