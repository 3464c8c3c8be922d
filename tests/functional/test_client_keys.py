"""A client's key stays with relayd: it does not reach an open route's upstream, nor anything that is written down."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.functional.harness.faults import get
from tests.functional.harness.message import request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Upstream

SECRET = "S3cr3tOfAClient"
QUERIES = [
    "x-goog-api-key", "auth", "client_secret", "secret", "token", "sig", "signature", "code", "X-Amz-Signature", "X-Amz-Credential",
    "X-Amz-Security-Token", "id_token", "refresh_token", "password", "passwd", "pwd", "session", "jwt", "assertion", "otp",
    "key", "api_key", "access%54oken", "user%5Bpassword%5D",
]  # fmt: skip


@pytest.fixture(scope="module", params=["json", "text"])
def relay(module_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("clients")
    (folder / "team").write_text("team-key-0123456789")
    (folder / "team").chmod(0o600)
    change = {
        "consumers": {"team": {"header": {"name": "X-Team-Key", "value": {"file": str(folder / "team")}}}},
        "routes": [
            {"name": "moved", "match": {"prefix": "/moved"}, "redirect": {"location": "https://{host}/{query}"}},
            {"name": "shut", "match": {"prefix": "/shut"}, "upstream": "up", "allow": ["team"]},
            {"name": "open", "match": {"prefix": "/"}, "upstream": "up"},
        ],
        "telemetry": {"access_log": {"format": request.param, "query": True}},
    }
    with Relay(folder / "r", module_upstream.url, change) as running:
        yield running


def test_a_key_that_nobody_identified_does_not_reach_the_upstream_of_an_open_route(relay: Relay, upstream: Upstream) -> None:
    lines = [name + b": " + SECRET.encode() for name in (b"x-api-key", b"api-key", b"x-goog-api-key", b"X-Team-Key")]
    target = f"/v1beta/models/m:generateContent?key={SECRET}&alt=sse&api_key={SECRET}".encode()
    assert get(relay, target, b"Authorization: Bearer " + SECRET.encode(), *lines).status == 200
    seen = upstream.heads[-1]
    assert seen.target == b"/v1beta/models/m:generateContent?alt=sse"
    assert SECRET.encode() not in seen.start + b"".join(value for _, value in seen.fields)


@pytest.mark.parametrize("path", ["/open", "/shut", "/moved", "/none;jsessionid=" + SECRET])
def test_what_is_written_down_does_not_hold_it(path: str, relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        for name in QUERIES:
            for query in (f"{name}={SECRET}", f"a=1&{name}={SECRET}&b", f"url=http%3A%2F%2Fx%2F%3F{name}%3D{SECRET}"):
                client.ask(request(f"{path}?{query}".encode(), b"Referer: http://x/?" + query.encode()))
        client.ask(request(b"/last" + path.encode().partition(b";")[0]))
    while b"/last" + path.encode().partition(b";")[0] not in relay.output():  # lines are written in batches
        get(relay, b"/more")
    assert SECRET.encode() not in relay.output()
    assert SECRET.encode() not in relay.admin("/status")[1] + relay.admin("/streams")[1] + relay.admin("/metrics")[1]


def test_what_is_explained_does_not_hold_it(relay: Relay) -> None:
    for path in ("/open", "/moved", "/shut;jsessionid=" + SECRET):
        for name in ("code", "client_secret", "x-goog-api-key"):
            done = subprocess.run(
                [sys.executable, "-m", "relayd", "explain", "-c", str(relay.file), "GET", f"http://h.test{path}?{name}={SECRET}&a=1",
                 "-H", f"Referer: http://x/?{name}={SECRET}", "-H", f"X-Client-Secret: {SECRET}"],
                capture_output=True, text=True, timeout=120, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            )
            assert done.returncode == 0, done.stderr
            assert SECRET not in done.stdout + done.stderr, name
