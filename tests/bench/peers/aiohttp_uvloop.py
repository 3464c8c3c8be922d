"""A plain proxy on aiohttp and uvloop: the bar that Python sets."""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web

SKIPPED = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


async def main(port: int, upstream: str) -> None:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
    )

    async def relay(request: web.BaseRequest) -> web.StreamResponse:
        fields = [(name, value) for name, value in request.headers.items() if name.lower() not in SKIPPED]
        body = request.content if request.can_read_body else None
        if body is not None and request.content_length is not None:
            fields.append(("Content-Length", str(request.content_length)))
        async with session.request(
            request.method, upstream + request.raw_path, headers=fields, data=body, allow_redirects=False
        ) as answer:
            response = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in SKIPPED or name.lower() == "content-length":
                    response.headers.add(name, value)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
        return response

    server = web.Server(relay, access_log=None, handler_cancellation=True)
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
