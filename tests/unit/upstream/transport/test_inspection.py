"""Inspections of endpoints over real sockets: every step, every way to fail, and no key where nobody verified."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from relayd.proxy.api_path import translated_path
from relayd.schema import Secret
from relayd.upstream.spec import AuthSpec, EndpointSpec, HealthSpec, TlsSpec, UpstreamSpec
from relayd.upstream.transport import inspection
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.inspection import Inspection, inspect
from tests.aids.certificates import made
from tests.aids.turns import turned
from tests.functional.harness.message import Message, answer
from tests.unit.upstream.scripted import Peer, Upstream, saying

KEY = AuthSpec("bearer", "Authorization", Secret("sk-inspected", "file /keys/one"))


async def inspected(
    client: StreamClient, endpoint: EndpointSpec, auth: AuthSpec | None = None, *, timeout_s: float = 60.0, **more: Any
) -> Inspection:
    keys: dict[str, Any] = {"auth": auth} if auth else {}
    return await inspect(client, UpstreamSpec("up", (endpoint,), **keys, **more), endpoint, auth, translated_path, timeout_s)


def listing(*names: str) -> bytes:
    return answer(json.dumps({"data": [{"id": name} for name in names]}).encode())


async def test_every_step_of_a_plain_endpoint_is_measured(client: StreamClient) -> None:
    async with Upstream() as upstream:
        found = await inspected(client, upstream.endpoint)
        assert (found.code, found.status, found.target, found.models) == ("", 200, "/", None)
        assert found.addresses == ("127.0.0.1",) and found.address == "127.0.0.1" and not found.certificates
        assert found.lookup_s is not None and found.connect_s is not None and found.first_byte_s is not None
        assert found.tls_s is None
        assert upstream.requests[0].start == b"GET / HTTP/1.1"


async def test_the_models_of_a_dialect_are_listed_with_the_key(client: StreamClient) -> None:
    async with Upstream(saying(listing("one", "two"))) as upstream:
        found = await inspected(client, upstream.endpoint, KEY, protocol="openai_chat")
        assert found.models == ("one", "two") and found.key == "file /keys/one" and found.target == "/v1/models"
        assert upstream.requests[0].get("authorization") == b"Bearer sk-inspected"


async def test_the_pages_of_a_list_are_read(client: StreamClient) -> None:
    async def pages(peer: Peer, message: Message) -> None:
        last = b"after_id" in message.start
        page = {"data": [{"id": "b" if last else "a"}], "has_more": not last, "last_id": "a"}
        await peer.send(answer(json.dumps(page).encode()))

    async with Upstream(pages) as upstream:
        found = await inspected(client, upstream.endpoint, KEY, protocol="anthropic_messages")
        assert found.models == ("a", "b") and found.target == "/v1/models"


@pytest.mark.parametrize(("reply", "status", "fault"), [
    (answer(b"<html>"), 200, "not a list of models"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", 200, "not complete: upstream_cut"),
    (answer(b"no", status=b"404 Not Found"), 404, ""),
    (answer(b"no", status=b"401 Unauthorized"), 401, ""),
])
async def test_a_response_without_models(client: StreamClient, reply: bytes, status: int, fault: str) -> None:
    async with Upstream(saying(reply, close=True)) as upstream:
        found = await inspected(client, upstream.endpoint, KEY, protocol="openai_chat")
        assert found.status == status and found.models is None and fault in found.models_fault and not found.code


async def test_the_path_of_the_health_check_is_asked_and_gets_no_key_unless_it_does(client: StreamClient) -> None:
    async with Upstream() as upstream:
        found = await inspected(client, upstream.endpoint, KEY, health=HealthSpec(target="/healthz?deep=1"))
        assert found.target == "/healthz" and found.key == ""
        assert upstream.requests[0].get("authorization") is None
        assert (await inspected(client, upstream.endpoint, KEY, health=HealthSpec(auth=True))).key == "file /keys/one"


async def test_a_redirect_and_a_date_are_read_and_an_endless_response_is_left(client: StreamClient) -> None:
    endless = b"HTTP/1.1 302 Found\r\nLocation: https://x.test/?token=1\r\nDate: Sun, 29 Nov 2026 14:00:00 GMT\r\n\r\n..."

    async def script(peer: Peer, message: Message) -> None:
        await peer.send(endless)
        await peer.gone()

    async with Upstream(script) as upstream:
        found = await inspected(client, upstream.endpoint)
        assert (found.status, found.location, found.date) == (302, "https://x.test/", "Sun, 29 Nov 2026 14:00:00 GMT")


async def test_a_closed_port_an_unknown_name_and_an_unusable_response(client: StreamClient) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        found = await inspected(client, EndpointSpec(f"http://127.0.0.1:{bound.getsockname()[1]}", "", "closed"))
    assert found.code == "connect_failed" and found.connect_s is None and found.status == 0 and found.fault
    found = await inspected(client, EndpointSpec("http://nowhere.invalid", "", "name"))
    assert found.code == "connect_failed" and not found.addresses and found.fault
    async with Upstream(saying(b"SSH-2.0-x\r\n\r\n", close=True)) as upstream:
        found = await inspected(client, upstream.endpoint)
        assert found.code == "upstream_malformed"
    async with Upstream(saying(b"", close=True)) as upstream:
        found = await inspected(client, upstream.endpoint)
        assert found.code == "upstream_closed" and found.connect_s is not None


async def test_a_silent_endpoint_and_a_half_list_end_at_the_time_limit(client: StreamClient) -> None:
    async def silent(peer: Peer, message: Message) -> None:
        await peer.gone()

    async def half(peer: Peer, message: Message) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await peer.gone()

    async with Upstream(silent) as upstream:
        found = await inspected(client, upstream.endpoint, timeout_s=0.3)
        assert found.code == "first_byte_timeout" and "0.3 s" in found.fault and found.connect_s is not None
        upstream.script = half
        found = await inspected(client, upstream.endpoint, timeout_s=0.5, protocol="openai_chat")
        assert not found.code and found.status == 200 and "not complete after" in found.models_fault


async def test_a_resolver_that_does_not_respond(client: StreamClient, monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: end.wait() and [])
    found = await inspected(client, EndpointSpec("http://slow.test", "", "name"), timeout_s=0.05)
    end.set()
    assert found.code == "connect_failed" and found.fault == "the resolver does not respond"


async def test_a_unix_socket_has_no_address(client: StreamClient, tmp_path: Path) -> None:
    async with Upstream(unix=str(tmp_path / "u.sock")) as upstream:
        found = await inspected(client, upstream.endpoint)
        assert found.status == 200 and found.unix and not found.addresses and found.url == f"unix:{tmp_path}/u.sock"


async def test_a_trusted_certificate_is_shown_with_the_tls_version(client: StreamClient, tmp_path: Path) -> None:
    pair = made(tmp_path, "good", "127.0.0.1")
    async with Upstream(tls=pair.serving()) as upstream:
        found = await inspected(client, upstream.endpoint, tls=TlsSpec(ca=pair.cert))
        assert found.status == 200 and found.tls_version == "TLS 1.3" and found.tls_s is not None
        assert [one.strip() for one in found.certificates] == [Path(pair.cert).read_bytes().strip()]


async def test_the_certificate_of_a_refused_connection_is_read_and_nothing_is_sent_on_it(
    client: StreamClient, tmp_path: Path
) -> None:
    pair = made(tmp_path, "unknown", "127.0.0.1")
    async with Upstream(tls=pair.serving()) as upstream:
        found = await inspected(client, upstream.endpoint, KEY)
        assert found.code == "tls_failed" and found.status == 0 and found.fault
        assert [one.strip() for one in found.certificates] == [Path(pair.cert).read_bytes().strip()]
        assert upstream.requests == []


async def test_the_second_connection_reads_the_certificate_and_sends_nothing(client: StreamClient, tmp_path: Path) -> None:
    """Some versions of libcurl show the certificate of a refused connection by themselves, and need no second one."""
    pair = made(tmp_path, "unknown", "127.0.0.1")
    async with Upstream(tls=pair.serving()) as upstream:
        found, spec = Inspection("up", "", "127.0.0.1"), UpstreamSpec("up", (upstream.endpoint,), auth=KEY)
        await inspection._read_certificates(client, spec, upstream.endpoint, found)
        assert [one.strip() for one in found.certificates] == [Path(pair.cert).read_bytes().strip()]
        await turned()
        assert upstream.requests == []
