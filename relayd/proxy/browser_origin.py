"""Which pages may use an application inside relayd with the rights that a browser has without a key.

A consumer may be known by the address of the client alone (`addresses`, `none`). Then every page that a browser on this
machine shows could send requests in its name:

1. A page of another site sends requests to this host. Browsers name the site (Origin, Sec-Fetch-Site).
2. A page of another site gives the name of its own host the address of relayd (DNS rebinding), and browsers then take
   relayd for the host of the page. They still send that name (Host). A name is genuine if the route's `match.host` has
   it, or if a certificate has proved it; an address and localhost cannot be rebound.

A request with a known key, a token or a session is not concerned: no page can know these.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from relayd.lazy_regex import lazy_regex
from relayd.proxy.browser_session import client_request
from relayd.proxy.exchange import Exchange

PORT = lazy_regex(r":[0-9]*\Z")
# Scripts of a page cannot remove these fields, but may replace User-Agent. A GET of the same origin has no Origin, and
# without TLS no Sec-Fetch-Site.
BROWSER_FIELDS = (b"origin", b"sec-fetch-site", b"accept-language")
NAVIGATION = (b"navigate", b"nested-navigate")
Field = Callable[[bytes], bytes | None]


def is_cross_site(fetch_site: bytes | None, origin: bytes | None, host: bytes) -> bool:
    """True if a page of another origin made a browser send this request, with the cookies or certificate of its user.

    `fetch_site` and `origin` are the fields Sec-Fetch-Site (Fetch Metadata, 2.4) and Origin (RFC 6454 7), `host` is the
    requested host with its port. Browsers send at least one of these fields with a POST; other clients send none.
    """
    if fetch_site is not None:
        return fetch_site.lower() not in (b"same-origin", b"none")
    if origin is None:
        return False
    _, separator, requesting_host = origin.partition(b"://")
    return not separator or requesting_host.lower() != host.lower()  # `null` is the origin of a sandboxed page


def is_browser(field: Field) -> bool:
    """True if a browser has sent the request with these fields."""
    agent = field(b"user-agent") or b""
    return agent.startswith(b"Mozilla/") or any(field(name) is not None for name in BROWSER_FIELDS)


def host_of(authority: str) -> str:
    """The host of an authority, without its port and the brackets of an IPv6 address, in lower case."""
    return PORT.sub("", authority).strip("[]").rstrip(".").lower()


def is_local_host(host: str) -> bool:
    """True for names that always mean this machine."""
    return host in ("", "localhost", "127.0.0.1", "::1")


def can_be_rebound(host: str) -> bool:
    """True for a name whose address its owner can change: none of the local ones, and no address."""
    if is_local_host(host) or host.endswith(".localhost"):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def fault_of_page(exchange: Exchange, authority: bytes) -> str:
    """Why the page that has sent a request to an application may not use it: `wrong_host` or `cross_site`, empty if it
    may. `authority` is the requested host with its port. Raises KeysBehind."""
    route, field = exchange.route, exchange.head.get
    assert route is not None
    is_open = route.allow is None and not route.admin_write
    is_sign_in = exchange.identity is None and route.allow is not None
    if is_open or is_sign_in or exchange.session is not None or not is_browser(field) or has_proof(exchange):
        return ""
    is_encrypted = exchange.down.tls if exchange.origin is None else exchange.origin.proto == b"https"
    is_named = is_encrypted or bool(route.config.match.host)
    if not is_named and can_be_rebound(host_of(authority.decode("latin-1"))):
        return "wrong_host"
    site, origin = field(b"sec-fetch-site"), field(b"origin")
    if route.cors is None and is_cross_site(site, origin, authority):
        is_link = exchange.head.method in (b"GET", b"HEAD") and (field(b"sec-fetch-mode") or b"") in NAVIGATION
        return "" if is_link else "cross_site"
    is_action = exchange.head.method not in (b"GET", b"HEAD")
    return "cross_site" if is_action and site is None and origin is None else ""


def has_proof(exchange: Exchange) -> bool:
    """True if a key, a token or a certificate identifies the consumer. Raises KeysBehind."""
    # Without proof, only a consumer who may enter is found, and here nobody may.
    return exchange.plan.consumers.identify(client_request(exchange), lambda identity: False) is not None
