"""The `listen` directives and certificates of an nginx server as listeners."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import field

from relayd.dataclass import dataclass
from relayd.importers._directive import Directive
from relayd.importers._draft import Values
from relayd.importers._nginx_proxy import Scope
from relayd.importers._report import Item

NO_EFFECT = {"default_server", "default", "bind", "deferred", "so_keepalive", "ipv6only", "ssl", "fastopen", "rcvbuf", "sndbuf"}


@dataclass(slots=True)
class Listen:
    """One socket. `public`: reachable from other machines."""

    item: Item
    address: str
    port: int
    tls: bool = False
    default: bool = False
    public: bool = True
    values: Values = field(default_factory=dict)


def listens(server: Directive) -> list[Listen]:
    """The sockets of a server; nginx listens on port 80 if it names none."""
    ssl = any(one.args == ["on"] for one in server.all("ssl"))
    for one in server.all("ssl"):
        one.item.exact()
    result = [listen for one in server.all("listen") if one.args and (listen := _listen(one)) is not None]
    for listen in result:
        listen.tls = listen.tls or ssl
    return result or [Listen(server.item, "0.0.0.0:80", 80)]


def _listen(one: Directive) -> Listen | None:
    address = one.args[0]
    if address.startswith("unix:"):
        made = Listen(one.item, address, 0, public=False)
    else:
        found = re.fullmatch(r"(?:(\[[0-9a-fA-F:.]+\]|[^:]+):)?(\d+)", address) or re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:]+)()", address)
        if found is None:
            one.item.by_hand("is not understood")
            return None
        host = "127.0.0.1" if found[1] == "localhost" else "0.0.0.0" if found[1] in (None, "*") else found[1]
        port = int(found[2] or 80)
        made = Listen(one.item, f"{host}:{port}", port, public=not _is_loopback(host))
    for option in one.args[1:]:
        name, _, value = option.partition("=")
        if name == "ssl":
            made.tls = True
        if name in ("default_server", "default"):
            made.default = True
        if name in NO_EFFECT:
            continue
        if name == "http2" or name in ("quic", "spdy"):
            one.item.approximate("clients use HTTP/1.1")
        elif name == "reuseport":
            made.values["reuse_port"] = True
        elif name == "backlog" and value.isdigit():
            made.values["backlog"] = int(value)
        elif name == "proxy_protocol":
            made.values |= {"proxy_protocol": True, "trusted_proxies": ["127.0.0.1"]}
            one.item.by_hand("name the peers that may send the PROXY protocol in trusted_proxies; 127.0.0.1 is written")
        else:
            one.item.unsupported(f"relayd has no {name} of a listener")
    one.item.exact()
    return made


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def tls_of(server: Directive, scope: Scope) -> Values | None:
    """The certificates of a server; None if it has none that relayd can use."""
    files = [one for one in scope.all("ssl_certificate") if one.args]
    keys = [one for one in scope.all("ssl_certificate_key") if one.args]
    if not files or len(files) != len(keys) or any("$" in one.args[0] for one in files + keys):
        for one in files + keys:
            one.item.by_hand("see tls.certificates of the listener")
        return None
    for one in files + keys:
        one.item.exact()
    values: Values = {"certificates": [{"cert": cert.args[0], "key": key.args[0]} for cert, key in zip(files, keys, strict=True)]}
    for one in scope.all("ssl_protocols"):
        versions = set(one.args)
        if versions == {"TLSv1.3"}:
            values["min_version"] = "1.3"
            one.item.exact()
        elif versions & {"TLSv1", "TLSv1.1", "SSLv3"}:
            one.item.approximate("relayd speaks TLS 1.2 and later")
        else:
            one.item.exact()
    return values
