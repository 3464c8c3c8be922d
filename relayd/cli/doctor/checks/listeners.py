"""Every listener: its port is free or relayd's own, else the process that holds it; a running one accepts connections.

Connects to the listeners of the running relayd, and reads the certificate of those with TLS. Sends no request.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import AsyncGenerator, Collection
from typing import Any

from relayd.cli.admin_client import Unreachable
from relayd.cli.diagnosis import Finding, failure, fine, unknown, warning
from relayd.cli.doctor.examination import Context
from relayd.config.listener import Listener
from relayd.daemon.port_owner import port_owner
from relayd.daemon.preflight import day_of
from relayd.server.expiry import validity
from relayd.server.sockets import REUSE_PORT, dual_stack, split

NEEDS_CONFIGURATION = True
CONNECT_S = 3.0
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


async def run(context: Context) -> AsyncGenerator[Finding, None]:
    try:
        served = {one["address"] for one in (await context.page("/status"))["listeners"]}
    except (Unreachable, KeyError):
        served = set()
    for name, listener in context.config.listeners.items():
        subject = f"listener {name}, {listener.address}"
        if listener.address in served:
            yield await context.in_thread(reached, subject, listener)
        else:
            others = [one.address for one in context.config.listeners.values() if one is not listener]
            yield await context.in_thread(bindable, subject, listener, others)


def reached(subject: str, listener: Listener) -> Finding:
    """Whether the running relayd accepts connections there."""
    kind, host, port = split(listener.address)
    if kind == "systemd" or listener.proxy_protocol or (port == 0 and kind == "tcp"):
        return fine(subject, "is served by the running relayd")
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET6 if ":" in ANY.get(host, host) else socket.AF_INET
    target: Any = host if kind == "unix" else (ANY.get(host, host), port)
    try:
        with socket.socket(family) as plain:
            plain.settimeout(CONNECT_S)
            plain.connect(target)
            if listener.tls is None:
                return fine(subject, "accepts connections")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the certificate is only shown
            with context.wrap_socket(plain) as secure:
                until = day_of(validity(secure.getpeercert(binary_form=True) or b"").ends_s)
                return fine(subject, f"accepts connections, with a certificate until {until}")
    except PermissionError as error:
        return unknown(subject, f"this user may not connect: {error.strerror}", "run relayd doctor as root")
    except OSError as error:
        cause = f"the running relayd does not accept a connection: {error.strerror or error}"
        return failure(subject, cause, "relayd status; a firewall may also reject connections of this machine")


def bindable(subject: str, listener: Listener, others: Collection[str] = ()) -> Finding:
    """Whether a start could bind the address. Nothing listens meanwhile, so no client can connect."""
    kind, host, port = split(listener.address)
    if kind == "systemd":
        return unknown(subject, "systemd opens this socket", "systemctl status relayd.socket")
    if kind == "unix":
        return _unix(subject, host)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return failure(subject, f"the host cannot be resolved: {error.strerror}", "write an address of this machine")
    for family, kind_of, proto, _, address in found:
        try:
            with socket.socket(family, kind_of, proto) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if listener.reuse_port:
                    sock.setsockopt(*REUSE_PORT, 1)
                if family == socket.AF_INET6:
                    only = int(not dual_stack(listener.address, others))
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
                sock.bind(address)
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                return _not_bindable(subject, port, error)
    return fine(subject, "the port is free; relayd does not listen there now")


def _unix(subject: str, path: str) -> Finding:
    folder = os.path.dirname(path) or "."
    if os.path.isdir(folder) or folder.startswith("/run/relayd"):
        return fine(subject, "relayd does not listen there now")
    return failure(subject, f"the folder {folder} does not exist", f"create it: install -d -o relayd {folder}")


def _not_bindable(subject: str, port: int, error: OSError) -> Finding:
    if error.errno == errno.EADDRINUSE:
        owner = port_owner(port)
        if owner.startswith("relayd"):
            cause = f"is held by {owner}, which is not the relayd of this admin socket or has another address in force"
            return warning(subject, cause, "relayd status, then systemctl reload relayd")
        if not owner:
            return warning(subject, "is held by a process of another user", "run relayd doctor as root to name it")
        cure = "stop that process, or set another address for this listener"
        return failure(subject, f"is held by {owner}", cure)
    if error.errno == errno.EADDRNOTAVAIL:
        return failure(subject, "this machine does not have that address", "ip address; then correct the listener")
    if error.errno == errno.EACCES:
        cause = "this user may not bind ports below 1024; the service has CAP_NET_BIND_SERVICE for them"
        return unknown(subject, cause, "run relayd doctor as root")
    return failure(subject, f"cannot be bound: {error.strerror}", "correct the address of the listener")
