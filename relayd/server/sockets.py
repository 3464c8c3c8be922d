"""Listening sockets: binds addresses, with errors that name the cause and a remedy."""

from __future__ import annotations

import contextlib
import errno
import grp
import hashlib
import os
import pwd
import socket
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from relayd.config.listener import Listener
from relayd.errors import ConfigError, Finding

STORED = "relayd-"
REUSE_PORT = (socket.SOL_SOCKET, socket.SO_REUSEPORT)
INET = (socket.AF_INET, socket.AF_INET6)


def split(address: str) -> tuple[str, str, int]:
    """`(kind, host or path or name, port)`; kind is tcp, unix or systemd."""
    if address.startswith("unix:"):
        return "unix", address[5:], 0
    if address.startswith("systemd:"):
        return "systemd", address[8:], 0
    host, _, port = address.rpartition(":")
    return "tcp", host.strip("[]"), int(port)


def bind_error(name: str, message: str, suggestion: str = "") -> ConfigError:
    """The error of a listener whose address cannot be bound."""
    return ConfigError([Finding("", 0, 0, f"listeners.{name}.address", message, suggestion)])


def bind(
    name: str, listener: Listener, inherited: dict[str, list[socket.socket]], *, other_addresses: Collection[str] = (),
    replaced: Sequence[socket.socket] = (),
) -> list[socket.socket]:
    """The listening sockets of one listener: inherited, or bound here. Raises ConfigError.

    `other_addresses`: the addresses of the other listeners. `replaced`: sockets that are closed once the new
    configuration is in force; an address that overlaps with theirs is no conflict.
    """
    kind, target, port = split(listener.address)
    if kind == "systemd":
        return activated(name, target, inherited)
    try:
        stored = reuse_inherited(listener, inherited, other_addresses)
        if stored:
            return stored
        if kind == "unix":
            return [bind_unix(target, listener)]
        return bind_tcp(target, port, listener, other_addresses, replaced)
    except OSError as error:
        message = f"cannot listen on {listener.address}: {error.strerror}"
        raise bind_error(name, message, _advice(error, port)) from error


def activated(name: str, wanted: str, inherited: dict[str, list[socket.socket]]) -> list[socket.socket]:
    """The sockets of a socket unit. systemd passes them when it starts the service, never later."""
    found = [sock for sock in inherited.get(wanted, []) if sock.fileno() >= 0]
    if found:
        return found
    known = ", ".join(one for one in inherited if not one.startswith(STORED)) or "none"
    raise bind_error(
        name, f"systemd passed no socket named {wanted!r} at the start of this process (passed: {known})",
        f"write FileDescriptorName={wanted} into relayd.socket, then: systemctl daemon-reload && systemctl restart "
        "relayd.socket relayd.service; a reload cannot receive a socket, the restart ends no stream",
    )


def stored_name(address: str, reuse_port: bool = False) -> str:
    """The name under which a socket of this address is passed from process to process."""
    return STORED + hashlib.sha256(f"{address}|{reuse_port}".encode()).hexdigest()[:16]


def dual_stack(address: str, other_addresses: Collection[str]) -> bool:
    """True if an IPv6 socket accepts IPv4 clients too: at [::], unless 0.0.0.0 of the same port is configured."""
    kind, host, port = split(address)
    return kind == "tcp" and host == "::" and f"0.0.0.0:{port}" not in other_addresses


def sockets_match(sockets: Sequence[socket.socket], address: str, other_addresses: Collection[str]) -> bool:
    """True if sockets of this address still have the IPV6_V6ONLY setting that these other addresses require."""
    dual = dual_stack(address, other_addresses)
    return all(
        dual != bool(one.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
        for one in sockets if one.family == socket.AF_INET6 and address.startswith("[::]:")
    )


def reuse_inherited(
    listener: Listener, inherited: dict[str, list[socket.socket]], other_addresses: Collection[str] = ()
) -> list[socket.socket]:
    """The sockets of the previous process, if it listened at the same address. Each can be used once."""
    name = stored_name(listener.address, listener.reuse_port)
    if not sockets_match(inherited.get(name, []), listener.address, other_addresses):
        return []
    found = inherited.pop(name, [])
    if found and listener.address.startswith("unix:"):
        path = Path(listener.address[5:])
        if not path.is_socket():  # its path is gone: no client could reach it
            for sock in found:
                sock.close()
            return []
        path.chmod(int(listener.mode, 8))
    for sock in found:
        sock.listen(listener.backlog)
    return found


def _advice(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another process listens there" + (f"; see: ss -ltnp 'sport = :{port}'" if port else "")
    if error.errno == errno.EACCES and 0 < port < 1024:
        return "ports below 1024 need CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address"
    return ""


def bind_tcp(
    host: str, port: int, listener: Listener, other_addresses: Collection[str] = (),
    replaced: Sequence[socket.socket] = (),
) -> list[socket.socket]:
    """One socket for each address of the host name. An empty host or * means all addresses."""
    dual = dual_stack(listener.address, other_addresses)
    wanted = None if host in ("", "*") else host
    found = socket.getaddrinfo(wanted, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    try:
        for family, kind, proto, _, address in dict.fromkeys(found):
            try:
                sock = socket.socket(family, kind, proto)
            except OSError as error:
                if wanted is None and error.errno == errno.EAFNOSUPPORT:
                    continue  # a machine with only one of the two families has no such addresses
                raise
            bound.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if listener.reuse_port:
                sock.setsockopt(*REUSE_PORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not dual))
            with _shared_port(port, sock, *replaced):
                sock.bind(address)
                sock.listen(listener.backlog)
    except OSError:
        for sock in bound:
            sock.close()
        raise
    return bound


@contextlib.contextmanager
def _shared_port(port: int, *sockets: socket.socket) -> Iterator[None]:
    """Context in which the new socket (the first) may overlap with the sockets of the same port that it replaces."""
    new, *old = sockets
    overlapping = [one for one in old if one.family in INET and one.getsockname()[1] == port]
    changed = [one for one in (new, *overlapping) if not one.getsockopt(*REUSE_PORT)] if overlapping else []
    for one in changed:
        one.setsockopt(*REUSE_PORT, 1)
    try:
        yield
    finally:
        for one in changed:
            one.setsockopt(*REUSE_PORT, 0)


def bind_unix(path: str, listener: Listener) -> socket.socket:
    """Bind a Unix socket. A stale one of a process that is gone is replaced; one in use is an error."""
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        mask = os.umask(0o777 & ~int(listener.mode, 8))
        try:
            sock.bind(path)
        finally:
            os.umask(mask)
        Path(path).chmod(int(listener.mode, 8))
        set_owner(path, listener.owner)
        sock.listen(listener.backlog)
    except KeyError as error:
        sock.close()
        raise OSError(errno.EINVAL, f"unknown user or group {listener.owner!r}") from error
    except OSError:
        sock.close()
        raise
    return sock


def set_owner(path: str, owner: str) -> None:
    """Set the owner of a socket: `user`, `user:group` or `:group`. Raises KeyError for unknown ones."""
    user, _, group = owner.partition(":")
    if owner:
        uid = pwd.getpwnam(user).pw_uid if user else -1
        os.chown(path, uid, grp.getgrnam(group).gr_gid if group else -1)


def apply_socket_options(sockets: list[socket.socket], old: Listener, new: Listener) -> None:
    """Apply changed settings to sockets that stay open: backlog, and a Unix socket's mode and owner."""
    if old.backlog != new.backlog:
        for sock in sockets:
            sock.listen(new.backlog)
    if new.address.startswith("unix:") and (old.mode, old.owner) != (new.mode, new.owner):
        with contextlib.suppress(OSError, KeyError):  # a commit cannot fail: the socket stays as it is
            Path(new.address[5:]).chmod(int(new.mode, 8))
            set_owner(new.address[5:], new.owner)


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise OSError(errno.EEXIST, "a file that is not a socket exists there")
    except FileNotFoundError:
        return
    probe = socket.socket(socket.AF_UNIX)
    probe.setblocking(False)  # a full accept queue too shows that a process listens
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
    except BlockingIOError:
        raise OSError(errno.EADDRINUSE, "another process listens there") from None
    else:
        raise OSError(errno.EADDRINUSE, "another process listens there")
    finally:
        probe.close()
