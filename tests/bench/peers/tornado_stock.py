"""The stock way to write a proxy with Tornado: RequestHandler in front, CurlAsyncHTTPClient behind."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from tornado import httpclient, httputil, web

SKIPPED = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


class Relay(web.RequestHandler):
    """Asks the upstream the same and hands on what comes."""

    async def relay(self) -> None:
        upstream: str = self.application.settings["upstream"]
        fields = httputil.HTTPHeaders()
        for name, value in self.request.headers.get_all():
            if name.lower() not in SKIPPED:
                fields.add(name, value)
        head_seen = False

        def on_head(line: str) -> None:
            nonlocal head_seen
            line = line.strip()
            if line.startswith("HTTP/"):
                self.set_status(int(line.split()[1]))
            elif line:
                name, _, value = line.partition(":")
                if name.lower() not in SKIPPED:
                    self.set_header(name, value.strip())
            else:
                head_seen = True

        def on_body(chunk: bytes) -> None:
            self.write(chunk)
            self.flush()

        body: bytes | None = self.request.body
        request = httpclient.HTTPRequest(
            upstream + self.request.uri, method=self.request.method, headers=fields, body=body or None,
            allow_nonstandard_methods=True, follow_redirects=False, decompress_response=False,
            header_callback=on_head, streaming_callback=on_body, request_timeout=3600, connect_timeout=5,
        )
        await httpclient.AsyncHTTPClient().fetch(request, raise_error=False)

    get = post = put = relay


async def main(port: int, upstream: str, max_clients: int) -> None:
    kind = "tornado.curl_httpclient.CurlAsyncHTTPClient"
    options: dict[str, Any] = {"max_clients": max_clients}
    httpclient.AsyncHTTPClient.configure(kind, **options)
    application = web.Application([(r"/.*", Relay)], upstream=upstream, log_function=lambda handler: None)
    application.listen(port, "127.0.0.1", max_buffer_size=1 << 30, backlog=4096)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
