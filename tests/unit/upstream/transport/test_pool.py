"""The pool of an endpoint: what is sent is exact, what is kept is bounded, what is unsafe is dropped."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pycurl
import pytest

from relayd.upstream.spec import EndpointSpec, TlsSpec, UpstreamSpec
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.faults import REWIND, code_of
from relayd.upstream.transport.pool import EXACT_TARGET, Pool, options_of, system_bundle
from tests.functional.harness.message import Message
from tests.unit.upstream.scripted import (
    Keeper,
    Peer,
    Upstream,
    ask,
    begin,
    driver_of,
    hello,
    pool_of,
    spec_of,
)

TARGETS = [
    b"/", b"/a/../b/./c", b"/%2e%2e/%2F%2f", b"/?", b"/a?b=c&d=%20+&&=", b"//double//slash", b"/%7Etilde/~", b"/a;b=c,d'(*)!",
    b"/?u=http://x/y?z", b"/" + b"long" * 2000, b"/[brackets]{braces}|^`\"<>\\",
]


@pytest.mark.parametrize("target", TARGETS)
async def test_the_target_arrives_as_it_was_given(client: StreamClient, target: bytes) -> None:
    async with Upstream() as upstream:
        assert (await ask(pool_of(client, upstream.endpoint), target=target)).status == 200
        assert upstream.requests[0].target == target


@pytest.mark.skipif(not EXACT_TARGET, reason="pycurl before 7.45.3 has no REQUEST_TARGET")
@pytest.mark.parametrize("target", [b"/caf\xc3\xa9", b"*"])
async def test_targets_that_are_no_part_of_a_url_arrive_too(client: StreamClient, target: bytes) -> None:
    async with Upstream() as upstream:
        assert (await ask(pool_of(client, upstream.endpoint), b"OPTIONS", target)).status == 200
        assert upstream.requests[0].target == target


async def test_a_slot_used_again_sends_the_new_target(client: StreamClient) -> None:
    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        for target in (b"/one", b"/two?x", b"/three"):
            await ask(pool, target=target)
        assert [request.target for request in upstream.requests] == [b"/one", b"/two?x", b"/three"]


@pytest.mark.parametrize(("method", "body"), [(b"GET", None), (b"POST", b"{}"), (b"POST", None), (b"PUT", b"x"), (b"BREW", None)])
async def test_fields_arrive_as_given_and_nothing_is_added(client: StreamClient, method: bytes, body: bytes | None) -> None:
    lines = [b"x-Lower: 1", b"X-Twice: a", b"x-twice:  b ", b"X-Eight: \xe9\xff", b"X-Empty;"]
    async with Upstream() as upstream:
        await ask(pool_of(client, upstream.endpoint), method, b"/", *lines, body=body)
        request = upstream.requests[0]
        own = [field for field in request.fields if field[0] != b"Content-Length"]
        assert own == [
            (b"Host", b"upstream.test"), (b"x-Lower", b"1"), (b"X-Twice", b"a"), (b"x-twice", b"b"), (b"X-Eight", b"\xe9\xff"),
            (b"X-Empty", b""),
        ]
        if body is not None:
            assert request.get("content-length") == b"%d" % len(body)


async def test_a_slot_forgets_the_length_of_its_last_body(client: StreamClient) -> None:
    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        bodies = [b"abc", None, b"", b"abc", b"abcdef", None]
        for body in bodies:
            assert (await ask(pool, b"POST", body=body)).status == 200
        assert [request.body for request in upstream.requests] == [body or b"" for body in bodies]
        for body in (b"one", b"three"):
            assert (await ask(pool, b"PUT", body=body)).status == 200
        assert upstream.requests[-1].body == b"three"


async def test_slots_are_used_again_within_their_kind(client: StreamClient) -> None:
    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        for method, body in ((b"GET", None), (b"POST", b"x"), (b"POST", None), (b"BREW", None), (b"DELETE", b"x")):
            first = pool.acquire(method, body is not None)
            pool.release(first)
            again = pool.acquire(method, body is not None)
            assert again is first
            pool.release(again)
        kinds = {pool.acquire(method, False).kind for method in (b"OPTIONS", b"BREW", b"DELETE", b"X" * 30)}
        assert kinds == {"OTHER"} and pool.in_use == 4


async def test_an_error_65_drops_its_slot(client: StreamClient) -> None:
    async def die(peer: Peer, message: Message) -> None:
        await peer.whole(message)
        peer.close()

    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        await ask(pool, b"POST", body=b"{}")
        upstream.script = die
        keeper = begin(pool, b"POST", body=b"{}")
        slot = keeper.slot
        assert slot is not None
        await keeper.done()
        assert keeper.errno == REWIND and slot.broken and pool.in_use == 0
        upstream.script = hello
        for _ in range(3):
            after = begin(pool, b"POST", body=b"{}")
            assert after.slot is not slot
            assert (await after.done()).status == 200


async def test_a_closed_pool_lets_lent_slots_finish(client: StreamClient) -> None:
    async with Upstream() as upstream:
        pool = pool_of(client, upstream.endpoint)
        await ask(pool)
        keeper = begin(pool)
        slot = keeper.slot
        pool.close()
        assert (await keeper.done()).status == 200 and pool.in_use == 0
        assert slot is not None
        with pytest.raises(pycurl.error):
            slot.curl.getinfo(pycurl.RESPONSE_CODE)


async def test_an_endpoint_may_be_a_unix_socket(client: StreamClient, tmp_path: Path) -> None:
    async with Upstream(unix=str(tmp_path / "up.sock")) as upstream:
        pool = pool_of(client, upstream.endpoint)
        assert (await ask(pool, target=b"/x")).body == b"hello" and (await ask(pool, b"POST", body=b"{}")).status == 200
        assert upstream.requests[0].target == b"/x" and upstream.connections == 1


async def test_what_nobody_answers_is_connect_failed(client: StreamClient, tmp_path: Path) -> None:
    with socket.socket() as bound:  # bound, but nobody listens
        bound.bind(("127.0.0.1", 0))
        for endpoint in (
            EndpointSpec(f"http://127.0.0.1:{bound.getsockname()[1]}", "", "tcp"),
            EndpointSpec("http://localhost", "", "unix", str(tmp_path / "missing")),
        ):
            keeper = await ask(pool_of(client, endpoint), b"POST", body=b"{}")
            assert keeper.errno is not None and code_of(keeper.errno) == "connect_failed"


async def test_an_endpoint_that_does_not_accept_is_connect_timeout(client: StreamClient) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(3)]  # the queue of connections overflows
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        endpoint = EndpointSpec(f"http://127.0.0.1:{full.getsockname()[1]}", "", "full")
        keeper = await ask(pool_of(client, endpoint, spec_of(endpoint, connect_s=0.1)))
        assert keeper.errno is not None and code_of(keeper.errno) == "connect_timeout"
        for filler in fillers:
            filler.close()


def serving(folder: Path, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


async def tls_ask(client: StreamClient, upstream: Upstream, tls: TlsSpec) -> Keeper:
    return await ask(pool_of(client, upstream.endpoint, spec_of(upstream.endpoint, tls=tls)), b"POST", b"/x", body=b"{}")


async def test_a_certificate_of_the_own_authority_is_trusted(client: StreamClient, certificates: Path) -> None:
    async with Upstream(tls=serving(certificates, "address")) as upstream:
        assert (await tls_ask(client, upstream, TlsSpec(ca=str(certificates / "ca.pem")))).status == 200


async def test_a_certificate_of_an_unknown_authority_is_refused_before_anything_is_sent(
    client: StreamClient, certificates: Path
) -> None:
    async with Upstream(tls=serving(certificates, "address")) as upstream:
        for tls in (TlsSpec(), TlsSpec(ca="missing.pem")):
            keeper = await tls_ask(client, upstream, tls)
            assert keeper.errno is not None and code_of(keeper.errno) == "tls_failed"
        assert not upstream.requests
        assert (await tls_ask(client, upstream, TlsSpec(verify=False))).status == 200


async def test_the_name_to_verify_may_differ_from_the_address(client: StreamClient, certificates: Path) -> None:
    names: list[str | None] = []
    context = serving(certificates, "named")
    context.sni_callback = lambda connection, name, _: names.append(name)
    authority = str(certificates / "ca.pem")
    async with Upstream(tls=context) as upstream:
        keeper = await tls_ask(client, upstream, TlsSpec(ca=authority, server_name="relayd.test"))
        assert keeper.status == 200 and names == ["relayd.test"] and upstream.requests[0].get("host") == b"upstream.test"
        for tls in (TlsSpec(ca=authority), TlsSpec(ca=authority, server_name="other.test")):
            keeper = await tls_ask(client, upstream, tls)
            assert keeper.errno is not None and code_of(keeper.errno) == "tls_failed"


async def test_a_client_certificate_is_shown(client: StreamClient, certificates: Path) -> None:
    context = serving(certificates, "address")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificates / "ca.pem")
    authority = str(certificates / "ca.pem")
    async with Upstream(tls=context) as upstream:
        keeper = await tls_ask(client, upstream, TlsSpec(ca=authority))
        assert keeper.errno and not upstream.requests
        mine = TlsSpec(ca=authority, cert=str(certificates / "named.pem"), key=str(certificates / "named.key"))
        assert (await tls_ask(client, upstream, mine)).status == 200


async def test_a_lower_version_than_configured_is_refused(client: StreamClient, certificates: Path) -> None:
    context = serving(certificates, "address")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    authority = str(certificates / "ca.pem")
    async with Upstream(tls=context) as upstream:
        assert (await tls_ask(client, upstream, TlsSpec(ca=authority))).status == 200
        keeper = await tls_ask(client, upstream, TlsSpec(ca=authority, min_version="1.3"))
        assert keeper.errno is not None and code_of(keeper.errno) == "tls_failed"


def test_the_environment_names_no_proxy_and_redirects_are_not_followed() -> None:
    endpoint = EndpointSpec("http://a", "", "a")
    options = dict(options_of(spec_of(endpoint), endpoint))
    assert options[pycurl.PROXY] == "" and options[pycurl.FOLLOWLOCATION] == 0
    assert pycurl.SSL_VERIFYPEER not in options and pycurl.UNIX_SOCKET_PATH not in options


def test_http2_is_only_tried_where_it_was_asked_for_over_tls() -> None:
    plain, secure = EndpointSpec("http://a", "", "a"), EndpointSpec("https://a", "", "a")
    for endpoint, http2, version in (
        (plain, True, pycurl.CURL_HTTP_VERSION_1_1), (secure, False, pycurl.CURL_HTTP_VERSION_1_1),
        (secure, True, pycurl.CURL_HTTP_VERSION_2TLS),
    ):
        assert dict(options_of(UpstreamSpec("up", (endpoint,), http2=http2), endpoint))[pycurl.HTTP_VERSION] == version


def test_the_system_bundle_is_a_file_if_there_is_one() -> None:
    bundle = system_bundle()
    assert bundle is None or Path(bundle).is_file()


async def test_a_proxy_of_the_environment_is_not_asked(client: StreamClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with Upstream() as upstream:
        assert (await ask(Pool(driver_of(client), spec_of(upstream.endpoint), upstream.endpoint))).status == 200
