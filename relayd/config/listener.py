"""`listeners:` the addresses that accept clients, and the limits of a client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from relayd.config.acme import Acme
from relayd.config.address import fault_of, parse_listen
from relayd.config.fields import file_fault
from relayd.schema import Duration, Size, section, setting
from relayd.wire.forwarded import network_fault

OWNER = r"(?:[A-Za-z0-9_.\-]{1,32})?(?::[A-Za-z0-9_.\-]{1,32})?"


@section()
class ListenerTimeouts:
    """How long a client may take. Each limit is separate; none adds to another."""

    header: Duration = setting(default=Duration(10), doc="From the first byte of a request to the end of its header section; further bytes do not reset it.", zero_is_off=True)
    keepalive: Duration = setting(default=Duration(75), doc="Silence between two requests on one connection.", zero_is_off=True)
    body: Duration = setting(default=Duration(30), doc="Silence inside a request body.", zero_is_off=True)
    write: Duration = setting(default=Duration(60), doc="Time without progress while bytes wait for the client: its system acknowledges none.", zero_is_off=True)
    handshake: Duration = setting(default=Duration(10), doc="The TLS handshake, and the PROXY protocol header.", zero_is_off=True)


@section()
class ListenerLimits:
    """Limits of a request's head, and of connections."""

    request_line: Size = setting(default=Size(16 * 1024), doc="Bytes of the request line; above it 414.", minimum=8000, maximum=1 << 20)
    field_line: Size = setting(default=Size(32 * 1024), doc="Bytes of one header field line; above it 431.", minimum=1024, maximum=1 << 20)
    header: Size = setting(default=Size(64 * 1024), doc="Bytes of the whole header section; above it 431.", minimum=8192, maximum=1 << 20)
    fields: int = setting(default=200, doc="Number of header fields; above it 431.", minimum=10, maximum=10000)
    trailer: Size = setting(default=Size(8 * 1024), doc="Bytes of the trailer section of a chunked body.", minimum=0, maximum=1 << 20)
    requests: int = setting(default=1000, doc="Requests on one connection before it is closed; 0 means no limit.", minimum=0)
    connections: int = setting(default=0, doc="Open client connections of this listener; 0 means the number that the file descriptors permit. At the limit relayd stops accepting.", minimum=0)
    connections_per_peer: int = setting(default=1000, doc="Open connections of one peer address; above it 503. 0 means no limit; Unix sockets and trusted proxies have none.", minimum=0)


@section()
class Certificate:
    """One certificate chain and its key. The names in the certificate choose it by SNI; the first one is the default."""

    cert: str = setting(doc="PEM file with the certificate and its intermediates.", example="/etc/relayd/tls/example.org.pem")
    key: str = setting(doc="PEM file with the private key.", example="/etc/relayd/tls/example.org.key")

    def check(self) -> Iterable[tuple[str, str]]:
        for name, path in (("cert", self.cert), ("key", self.key)):
            if fault := file_fault(path):
                yield name, fault


@section()
class Tls:
    """TLS on a listener: certificates from files, from a certificate authority with ACME, or both."""

    certificates: tuple[Certificate, ...] = setting(default=(), doc="Certificates from files; the first is the default, for clients without a server name or with another one. Files are read again on reload, and within seconds when they change; files that cannot be used are reported, and the certificates in use stay.")
    acme: Acme | None = setting(default=None, doc="Certificates that relayd obtains and renews by itself. Without `certificates`, the first of `domains` that has a certificate is the default.")
    min_version: Literal["1.2", "1.3"] = setting(default="1.2", doc="The oldest TLS version spoken.")
    client_ca: str | None = setting(default=None, doc="PEM file with the authorities of client certificates, for consumers with `mtls`. Clients are asked for a certificate; one that is expired, not for clients, or of another authority ends the handshake. The file is read again like those of `certificates`.", example="/etc/relayd/tls/clients-ca.pem")
    client_certificate: Literal["optional", "required"] = setting(default="optional", doc="With `client_ca`: whether a client without a certificate can connect.")

    def check(self) -> Iterable[tuple[str, str]]:
        if not self.certificates and self.acme is None:
            yield "certificates", "is needed, or acme"
        if self.client_ca is not None and (fault := file_fault(self.client_ca)):
            yield "client_ca", fault
        if self.client_ca is None and self.client_certificate == "required":
            yield "client_certificate", "needs client_ca"


@section()
class Listener:
    """One address that accepts clients."""

    address: str = setting(doc="host:port, [v6]:port, unix:/path or systemd:NAME. `[::]:port` takes IPv4 clients too, unless another listener has `0.0.0.0:port`.", example="127.0.0.1:8282")
    tls: Tls | None = setting(default=None, doc="Certificates; without them the listener is plain HTTP.")
    https_redirect: bool = setting(default=False, doc="Answer every request with 308 to the same host and path over HTTPS, at the port of a listener with `tls`. ACME challenges are answered first. Requests that a trusted proxy has received over HTTPS are not redirected.")
    timeouts: ListenerTimeouts = setting(factory=ListenerTimeouts, doc="How long a client may take.")
    limits: ListenerLimits = setting(factory=ListenerLimits, doc="How much a client may send.")
    trusted_proxies: tuple[str, ...] = setting(default=(), doc="Addresses and networks whose X-Forwarded-*, Forwarded and X-Request-ID are trusted; `unix` for peers on a Unix socket. The client's address comes from X-Forwarded-For, or from Forwarded if X-Forwarded-For is absent. A proxy that writes only Forwarded must therefore remove the X-Forwarded-For of its clients.", example=["10.0.0.0/8"])
    proxy_protocol: bool = setting(default=False, doc="Expect a PROXY protocol header (v1 or v2) on every connection; the peers that may send it are `trusted_proxies`.")
    reuse_port: bool = setting(default=False, doc="Share the port with other instances (SO_REUSEPORT).")
    half_close: bool = setting(default=False, doc="Send the response to a client that has closed its sending direction after its request, as `nc -N` and `shutdown(SHUT_WR)` do. relayd cannot tell it from a client that has left until it writes to it: with `true`, a request whose client has left goes on until the first bytes of its response are rejected. With `false`, such a client has left, and its request is cancelled immediately, so that no endpoint works for nobody; it still gets a response that has begun while it sent its body, one of relayd itself, and the other direction of a tunnel.")
    backlog: int = setting(default=4096, doc="Connections that wait to be accepted.", minimum=1, maximum=65535)
    mode: str = setting(default="0660", doc="Permissions of a Unix socket, octal.", pattern="0?[0-7]{3}")
    owner: str = setting(default="", pattern=OWNER, doc="`user`, `user:group` or `:group` of a Unix socket; empty leaves it to relayd's own.", example=":www-data")

    def check(self) -> Iterable[tuple[str, str]]:
        if fault := fault_of(parse_listen, self.address):
            yield "address", fault
        for index, network in enumerate(self.trusted_proxies):
            if network != "unix" and (fault := network_fault(network)):
                yield f"trusted_proxies[{index}]", fault
        if self.https_redirect and self.tls is not None:
            yield "https_redirect", "belongs to a listener without tls"
        if self.proxy_protocol and not self.trusted_proxies:
            yield "proxy_protocol", "needs trusted_proxies: without it any client could claim any address"


@section()
class Admin:
    """The admin application: health, readiness, status, metrics and reload, on a Unix socket only."""

    address: str = setting(default="unix:/run/relayd/admin.sock", doc="unix:/path of the admin socket; relayd's commands find it here. `private` is a socket in a folder of the user that runs relayd, for a relayd besides the one of the system.", pattern="unix:/.+|private")
    mode: str = setting(default="0660", doc="Permissions of the socket, octal.", pattern="0?[0-7]{3}")
    owner: str = setting(default="", pattern=OWNER, doc="`user`, `user:group` or `:group` of the socket.", example=":adm")

    def check(self) -> Iterable[tuple[str, str]]:
        if self.address != "private" and (fault := fault_of(parse_listen, self.address)):
            yield "address", fault
