"""A small authoritative name server on loopback, by dnspython: UDP and TCP on one port, with faults on request."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from types import TracebackType

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

UDP_BYTES = 512


class NameServer:
    """Answers `records`, by name and type in lower case: texts of records, or an rcode. Other names are NXDOMAIN.

    `silent`: answers nothing; `cnames`: aliases that are followed within the answer; `asked`: all questions so far.
    """

    def __init__(self, ttl: int = 1) -> None:
        self.ttl = ttl
        self.records: dict[tuple[str, str], list[str] | str] = {}
        self.cnames: dict[str, str] = {}
        self.silent = self.garbage = False
        self.asked: list[str] = []
        handler = self.answer

        class Udp(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, sock = self.request
                if reply := handler(data, UDP_BYTES):
                    sock.sendto(reply, self.client_address)

        class Tcp(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                head = self.rfile.read(2)
                if len(head) == 2 and (reply := handler(self.rfile.read(struct.unpack("!H", head)[0]), 65535)):
                    self.wfile.write(struct.pack("!H", len(reply)) + reply)

        self._tcp = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tcp)
        self._tcp.daemon_threads = True
        self.port = int(self._tcp.server_address[1])
        self._udp = socketserver.ThreadingUDPServer(("127.0.0.1", self.port), Udp)
        self._udp.daemon_threads = True
        self._threads = [threading.Thread(target=one.serve_forever, args=(0.02,)) for one in (self._tcp, self._udp)]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def set(self, name: str, kind: str, *texts: str) -> None:
        self.records[name, kind] = list(texts)

    def answer(self, wire: bytes, most: int) -> bytes:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = question.name.to_text().lower().rstrip("."), dns.rdatatype.to_text(question.rdtype)
        self.asked.append(f"{name} {kind}")
        if self.silent:
            return b""
        if self.garbage:
            return wire[:2] + b"\xff" * 20
        reply = dns.message.make_response(query)
        while name in self.cnames:
            target = self.cnames[name]
            reply.answer.append(dns.rrset.from_text(name + ".", self.ttl, "IN", "CNAME", target + "."))
            name = target
        found = self.records.get((name, kind))
        if isinstance(found, str):
            reply.set_rcode(dns.rcode.from_text(found))
        elif found is None:
            if all(one != name for one, _ in self.records):
                reply.set_rcode(dns.rcode.NXDOMAIN)
        elif found:
            reply.answer.append(dns.rrset.from_text(name + ".", self.ttl, "IN", kind, *found))
        data = bytes(reply.to_wire(max_size=65535))
        if len(data) > most:
            short = dns.message.make_response(query)
            short.flags |= dns.flags.TC
            data = bytes(short.to_wire())
        return data

    def __enter__(self) -> NameServer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        for server in (self._tcp, self._udp):
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()


def unused_udp_port() -> int:
    """A port on which nothing answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
