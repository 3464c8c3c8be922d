"""Streams that are compared byte for byte: an upstream that dribbles known bytes, a client that holds many of them open.

    streams.py upstream PORT [CERT KEY]           answers /stream/SEED/SECONDS with bytes that follow from SEED; over TLS too
    streams.py hold HOST:PORT COUNT SECONDS       holds COUNT of them open through relayd; prints `open`, at the end JSON
    streams.py ask HOST:PORT SECONDS [PATH]       asks again and again, each on a connection of its own; at the end JSON
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import ssl
import sys
import time

STEP_S = 0.1
PIECE = 512


def body_of(seed: int, seconds: float) -> bytes:
    return random.Random(seed).randbytes(PIECE * int(seconds / STEP_S))


async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            path = head.split(b" ")[1].decode()
            if not path.startswith("/stream/"):
                shown = json.dumps({"path": path, "head": head.decode("latin-1")}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(shown), shown))
                continue
            _, _, seed, seconds = path.split("/")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            body = body_of(int(seed), float(seconds))
            for place in range(0, len(body), PIECE):
                piece = body[place : place + PIECE]
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
                await asyncio.sleep(STEP_S)
            writer.write(b"0\r\n\r\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def upstream(port: int, files: list[str]) -> None:
    context = None
    if files:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
    server = await asyncio.start_server(serve_one, "127.0.0.1", port, ssl=context, backlog=512)
    await server.serve_forever()


async def chunks(reader: asyncio.StreamReader) -> bytes:
    """The body of a chunked answer, to its last chunk."""
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body


async def stream(host: str, port: int, seed: int, seconds: float, begun: asyncio.Event) -> str:
    """One stream, compared: empty when every byte came and the end was clean."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"GET /stream/{seed}/{seconds} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        begun.set()
        if b" 200 " not in head.split(b"\r\n")[0]:
            return head.decode("latin-1")
        body = await chunks(reader)
        writer.close()
    except (OSError, asyncio.IncompleteReadError, ValueError) as fault:
        return repr(fault)
    finally:
        begun.set()
    wanted = body_of(seed, seconds)
    return "" if hashlib.sha256(body).digest() == hashlib.sha256(wanted).digest() else f"{len(body)} of {len(wanted)} bytes"


async def hold(host: str, port: int, count: int, seconds: float) -> None:
    begun = [asyncio.Event() for _ in range(count)]
    tasks = [asyncio.ensure_future(stream(host, port, seed, seconds, begun[seed])) for seed in range(count)]
    for event in begun:
        await event.wait()
    print("open", flush=True)
    faults = [fault for fault in await asyncio.gather(*tasks) if fault]
    print(json.dumps({"streams": count, "faults": faults}), flush=True)


async def ask(host: str, port: int, seconds: float, path: str) -> None:
    """Ask every 20 ms, one after the other; how long the slowest took, and what went wrong."""
    end, slowest, count, faults = time.monotonic() + seconds, 0.0, 0, []
    while time.monotonic() < end:
        began = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            if not answer.startswith(b"HTTP/1.1 200 "):
                faults.append(answer.partition(b"\r\n")[0].decode("latin-1") or "nothing")
        except OSError as fault:
            faults.append(repr(fault))
        slowest, count = max(slowest, time.monotonic() - began), count + 1
        await asyncio.sleep(0.02)
    print(json.dumps({"asked": count, "slowest_s": round(slowest, 3), "faults": faults}), flush=True)


def main(words: list[str]) -> None:
    if words[0] == "upstream":
        asyncio.run(upstream(int(words[1]), words[2:]))
        return
    host, _, port = words[1].rpartition(":")
    if words[0] == "hold":
        asyncio.run(hold(host, int(port), int(words[2]), float(words[3])))
    else:
        asyncio.run(ask(host, int(port), float(words[2]), words[3] if len(words) > 3 else "/ask"))


if __name__ == "__main__":
    main(sys.argv[1:])
