"""The addresses of Caddy's sites as listeners with certificates."""

from __future__ import annotations

import ipaddress

from relayd.config.patterns import fault_of_host
from relayd.dataclass import dataclass
from relayd.importers._directive import Directive
from relayd.importers._draft import Draft, Values
from relayd.lazy_regex import lazy_regex

_ADDRESS = lazy_regex(r"(?:(https?)://)?([^:/\[\]]*|\[[0-9a-fA-F:.]+\])(?::(\d+))?(/.*)?")


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a site. `host` is empty if the site takes every host."""

    host: str
    port: int
    tls: bool


def addresses(site: Directive) -> list[Address]:
    """The addresses of a site; those that relayd cannot have are reported."""
    result = []
    for text in " ".join(site.tokens).replace(",", " ").split():
        found = _ADDRESS.fullmatch(text)
        if found is None or (found[4] or "/") not in ("/", "/*") or (found[2] and found[2] != "*" and fault_of_host(found[2])):
            site.item.by_hand(f"{text} is no address that relayd has; see match of the routes")
            continue
        scheme, host, port = found[1], found[2] if found[2] != "*" else "", int(found[3] or 0)
        if not 0 < (port or 80) < 65536:
            site.item.by_hand(f"{text} has no usable port")
            continue
        tls = scheme == "https" or (scheme is None and port not in (80,) and bool(host)) or port == 443
        result.append(Address(host, port or (443 if tls else 80), tls))
    return result


def listen(draft: Draft, sites: list[tuple[Directive, list[Address]]]) -> None:
    """Add the listeners of all sites."""
    made: dict[int, Values] = {}
    plain_ports = {one.port for _, found in sites for one in found if not one.tls}
    for site, found in sites:
        off = site.first("tls")
        for one in found:
            values = made.setdefault(one.port, {"address": f"0.0.0.0:{one.port}"})
            if one.tls:
                _secure(draft, site, off, one, values)
    secure = [port for port, values in made.items() if "tls" in values]
    for port, values in list(made.items()):
        tls = values.get("tls", {})
        if "acme" in tls and "certificates" in tls:
            del tls["certificates"]
        if values.get("by_hand"):
            del made[port]
    for values in made.values():
        draft.listener("public", values, None)
    if secure and 80 not in plain_ports:
        draft.listener("plain", {"address": "0.0.0.0:80", "https_redirect": True}, None)


def _secure(draft: Draft, site: Directive, tls: Directive | None, one: Address, values: Values) -> None:
    if tls is not None and len(tls.args) == 2:
        pair = {"cert": tls.args[0], "key": tls.args[1]}
        certificates = values.setdefault("tls", {}).setdefault("certificates", [])
        if pair not in certificates:
            certificates.append(pair)
        tls.item.exact()
        return
    local = "." not in one.host or one.host.endswith((".localhost", ".local", ".internal")) or _is_address(one.host)
    if local or (tls is not None and tls.args[:1] == ["internal"]) or (tls is not None and tls.block):
        site.item.by_hand("needs a certificate from a file (tls.certificates of the listener); this address is not listened on")
        if tls is not None:
            for item in tls.item.everything():
                item.by_hand("see tls of the listener")
        if "tls" not in values:
            values["by_hand"] = True
        return
    values.pop("by_hand", None)
    acme = values.setdefault("tls", {}).setdefault("acme", {"domains": []})
    if one.host.startswith("*."):
        site.item.by_hand("a wildcard needs dns_hook; see tls.acme")
    elif one.host not in acme["domains"]:
        acme["domains"].append(one.host)
    if tls is not None and tls.args:
        acme["email"] = tls.args[0]
        tls.item.exact()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
