"""An endpoint that answers with the nasty answer that the requested model names: `python tests/bench/answerer.py PORT BYTES`.

The model `answer-N` is the N-th of tests/aids/nasty_answers.py, of about BYTES bytes.
"""

from __future__ import annotations

import functools
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.aids.nasty_answers import ANSWERS

KINDS = {"json": "application/json", "sse": "text/event-stream", "ndjson": "application/x-ndjson"}


@functools.cache
def written(number: int, size: int) -> tuple[str, bytes]:
    """The kind and the bytes of an answer."""
    answer = list(ANSWERS.values())[number]
    return KINDS[answer.kind], answer.make(size)


class Answering(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    size = 0

    def do_GET(self) -> None:
        self._answer(b"ready", "text/plain")

    def do_POST(self) -> None:
        asked = self.path.encode() + self.rfile.read(int(self.headers["Content-Length"]))
        named = re.search(rb"answer-(\d+)", asked)
        kind, body = written(int(named[1]) if named else 0, self.size)
        self._answer(body, kind)

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


if __name__ == "__main__":
    Answering.size = int(sys.argv[2])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answering).serve_forever()
