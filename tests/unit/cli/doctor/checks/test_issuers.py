"""Keys of issuers: what relayd would read now."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jwt", reason="needs python3-jwt")

from relayd.cli.diagnosis import FAILURE, FINE
from relayd.cli.doctor.checks import issuers
from tests.aids.tokens import Signer, key_set
from tests.unit.cli.doctor.cases import context_of, findings, written


class Handler(BaseHTTPRequestHandler):
    body = b""

    def do_GET(self) -> None:
        self.send_response(200 if self.body else 404)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/keys"
        server.shutdown()
        thread.join()


def found(tmp_path: Path, **jwks: str) -> Any:
    jwt = {"issuer": "i", "audience": "a", "jwks": jwks, "algorithms": ["ES256"]}
    (one,) = findings(issuers, context_of(written(tmp_path, consumers={"ci": {"jwt": jwt}, "qa": {"jwt": jwt}})))
    return one


def test_a_url_is_read_once_for_all_its_consumers(url: str, tmp_path: Path) -> None:
    Handler.body = key_set(Signer("ES256"))
    one = found(tmp_path, url=url)
    assert (one.level, one.subject) == (FINE, "keys of ci, qa") and one.cause.endswith("/keys has 1 usable keys")


@pytest.mark.parametrize(("body", "cause"), [(b"", "answered status 404"), (b"<html>", "is not JSON"), (b'{"keys": []}', "no usable key")])
def test_what_is_no_set_of_keys_is_a_failure(body: bytes, cause: str, url: str, tmp_path: Path) -> None:
    Handler.body = body
    one = found(tmp_path, url=url)
    assert one.level == FAILURE and cause in one.cause and one.cure


def test_a_file_and_no_issuer(tmp_path: Path) -> None:
    (tmp_path / "jwks").write_bytes(key_set(Signer("ES256")))
    assert found(tmp_path, file=str(tmp_path / "jwks")).level == FINE
    (one,) = findings(issuers, context_of(written(tmp_path)))
    assert one.level == FINE
