"""A small Docker Engine on a Unix socket: its listing and its events, with faults on request."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


def container(name: str, address: str = "172.17.0.2", **change: Any) -> dict[str, Any]:
    """An entry of a listing, as Docker 20.10 writes it, with much that nobody asked for left out."""
    return {
        "Id": f"id-{name}-{address}", "Names": [f"/{name}"], "Image": "x", "State": "running", "Status": "Up 3 minutes",
        "Labels": {}, "Ports": [{"PrivatePort": 8001, "Type": "tcp"}], "HostConfig": {"NetworkMode": "default"},
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": address, "GlobalIPv6Address": ""}}}, **change,
    }


class Engine:
    """`containers` is the listing; `broken`: every request fails with 500. `listings` counts them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.containers: list[Any] = []
        self.broken = False
        self.answer: bytes | None = None  # instead of the listing
        self.hold: asyncio.Event | None = None  # a listing was taken, and is sent when this is set
        self.holding = asyncio.Event()
        self.listings = 0
        self.targets: list[str] = []
        self._streams: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Engine:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *fault: object) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()

    @property
    def followers(self) -> int:
        return len(self._streams)

    def drop(self) -> None:
        """Close the streams of events."""
        for writer in self._streams:
            writer.close()
        self._streams.clear()

    def say(self, action: str, name: str, identity: str, kind: str = "container", **attributes: str) -> None:
        """Send an event to all who follow."""
        actor = {"ID": identity, "Attributes": {"name": name, **attributes}}
        self.send(json.dumps({"Type": kind, "Action": action, "Actor": actor, "scope": "local", "time": 1}).encode() + b"\n")

    def send(self, data: bytes) -> None:
        for writer in self._streams:
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            target = head.split()[1].decode()
            self.targets.append(target)
            path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
            json.loads(query["filters"][0])
            if self.broken:
                writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 22\r\n\r\n{\"message\":\"is broken\"}")
            elif path == "/events":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                self._streams.add(writer)
                await reader.read()
                self._streams.discard(writer)
            elif path == "/containers/json":
                self.listings += 1
                body = json.dumps(self.containers).encode() if self.answer is None else self.answer
                if self.hold is not None:
                    self.holding.set()
                    await self.hold.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            else:
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()
