"""The client of a directory: accounts, orders, errors and pauses."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("acme", reason="needs python3-acme")

from relayd import clock
from relayd.acme.client import AcmeClient, AcmeFault, Challenge, Stopped, identities, make_challenge, retry_after
from relayd.acme.keys import new_key, request_pem
from relayd.acme.state import State
from relayd.config.acme import Acme
from tests.aids.acme_proxy import AcmeProxy
from tests.aids.pebble import Pebble, needs_pebble
from tests.aids.ports import free_port
from tests.unit.acme.case import answering, section

pytestmark = needs_pebble()
GO = threading.Event()


def client(pebble: Pebble, state: State, url: str = "", stop: threading.Event = GO, email: str = "ops@example.org", **further: Any) -> AcmeClient:
    return AcmeClient(url or pebble.directory, section(pebble, "a.example.org", email=email), state, stop, **further)


def order(one: AcmeClient, state: State, kind: str = "http-01", replaces: str = "") -> str:
    @contextlib.contextmanager
    def answer(challenge: Challenge) -> Iterator[None]:
        state.add_challenge("http-01", challenge.token, challenge.authorization.encode())
        yield

    try:
        return one.obtain(request_pem(new_key("ecdsa"), "a.example.org"), kind, answer, replaces)
    finally:
        one.close()


def test_an_account_is_registered_once_and_its_contact_follows(pebble: Pebble, state: State) -> None:
    with AcmeProxy(pebble) as proxy, answering(pebble, state):
        for email in ("ops@example.org", "ops@example.org", "new@example.org", ""):
            assert order(client(pebble, state, proxy.directory, email=email), state).count("BEGIN CERTIFICATE") == 2
        assert proxy.count("/sign-me-up") == 2, "registered once; updating the contact looks the account up"
        assert state.read_account(proxy.directory)["contact"] == ["mailto:new@example.org"]


def test_an_account_whose_answer_was_lost_is_found_by_its_key(pebble: Pebble, state: State) -> None:
    with answering(pebble, state):
        order(client(pebble, state), state)
        account = state.read_account(pebble.directory)
        state.write_account(pebble.directory, account | {"uri": ""})
        order(client(pebble, state), state)
        assert state.read_account(pebble.directory)["uri"] == account["uri"]


@pytest.mark.parametrize("contact", ["ops@example.org", "former@example.org"])
def test_an_account_that_the_directory_has_lost_is_registered_again(
    contact: str, pebble: Pebble, state: State, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Pebble(tmp_path_factory.mktemp("other")) as other, answering(other, state):
        one = client(pebble, state)
        one.close()
        state.write_account(other.directory, {"uri": other.directory.replace("dir", "my-account/9"), "contact": [f"mailto:{contact}"], "key": one._key.to_json()})
        assert order(client(other, state), state)


def test_an_account_that_was_deactivated_is_replaced_by_one_with_another_key(pebble: Pebble, state: State) -> None:
    with answering(pebble, state):
        one = client(pebble, state)
        order(one, state)
        before = state.read_account(pebble.directory)
        one._client.deactivate_registration(one._network.account)
        assert order(client(pebble, state), state)
    after = state.read_account(pebble.directory)
    assert after["uri"] != before["uri"] and after["key"] != before["key"]
    with answering(pebble, state):
        assert order(client(pebble, state), state)
    assert state.read_account(pebble.directory) == after


def test_a_challenge_that_is_not_offered_is_a_fault(pebble: Pebble, state: State) -> None:
    with pytest.raises(AcmeFault, match=r"offers no other-01 for a.example.org, but dns-01, http-01, tls-alpn-01"):
        order(client(pebble, state), state, "other-01")


def test_a_pause_that_the_directory_asks_for_is_reported(pebble: Pebble, state: State) -> None:
    with AcmeProxy(pebble) as proxy:
        proxy.limited = {"/sign-me-up": "77"}
        with pytest.raises(AcmeFault, match="rateLimited: too many") as caught:
            order(client(pebble, state, proxy.directory), state)
        assert caught.value.retry_after_s == 77


def test_what_is_no_directory_is_a_fault(pebble: Pebble, state: State) -> None:
    for url in ("https://127.0.0.1:1/dir", pebble.directory.replace("/dir", "/nothing"), "https://localhost.invalid/dir"):
        with pytest.raises(AcmeFault):
            order(client(pebble, state, url), state)


def test_a_response_without_measure_is_a_fault(pebble: Pebble, state: State) -> None:
    with AcmeProxy(pebble) as proxy:
        proxy.huge = ("/dir",)
        with pytest.raises(AcmeFault, match="more than 1 MiB"):
            order(client(pebble, state, proxy.directory), state)


@pytest.mark.parametrize("path", ["/dir", "/sign-me-up", "/order-plz"])
def test_a_directory_that_sends_a_byte_now_and_then_is_left_after_the_time_of_a_session(pebble: Pebble, state: State, path: str) -> None:
    with AcmeProxy(pebble) as proxy:
        proxy.dripping = (path,)
        begun = time.monotonic()
        with pytest.raises(AcmeFault, match="the directory took longer than 2 s in all"):
            order(client(pebble, state, proxy.directory, timeout_s=2.0), state)
        assert 1.9 < time.monotonic() - begun < 15
        if path == "/order-plz":
            assert state.read_account(proxy.directory)["uri"], "what came before is kept"


def test_a_response_that_breaks_off_is_a_fault(pebble: Pebble, state: State) -> None:
    with AcmeProxy(pebble) as proxy:
        proxy.broken = ("/dir",)
        with pytest.raises(AcmeFault):
            order(client(pebble, state, proxy.directory), state)


def test_a_renewal_names_the_certificate_that_it_replaces_where_the_directory_knows_renewal_information(pebble: Pebble, state: State) -> None:
    with AcmeProxy(pebble) as proxy, answering(pebble, state):
        assert order(client(pebble, state, proxy.directory), state, replaces="a.b")
        proxy.windows = [("2030-01-01T00:00:00Z", "2030-01-02T00:00:00Z")]
        assert order(client(pebble, state, proxy.directory), state, replaces="a.b")
        assert order(client(pebble, state, proxy.directory), state)
        assert [one.get("replaces") for one in proxy.orders] == [None, "a.b", None]
        proxy.refuses_replacement = True
        assert order(client(pebble, state, proxy.directory), state, replaces="a.b"), "ordered anew without it"
        assert [one.get("replaces") for one in proxy.orders[3:]] == ["a.b", None]
        proxy.refuses_replacement, proxy.limited = False, {"/order-plz": "60"}
        with pytest.raises(AcmeFault, match="rateLimited"):
            order(client(pebble, state, proxy.directory), state, replaces="a.b")
        assert len(proxy.orders) == 6, "an order that the directory limits is not repeated"


def test_a_stop_ends_before_the_next_request(pebble: Pebble, state: State) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        order(client(pebble, state, stop=stop), state)


def test_the_window_of_a_renewal_is_read(pebble: Pebble, state: State) -> None:
    with AcmeProxy(pebble) as proxy:
        one = client(pebble, state, proxy.directory)
        assert one.renewal_window("a.b") is None
        one.close()
        proxy.windows = [("2030-01-01T00:00:00Z", "2030-01-02T00:00:00Z")]
        one = client(pebble, state, proxy.directory)
        window = one.renewal_window("a.b")
        assert window is not None and (window.end_s - window.start_s, window.retry_after_s) == (86400.0, 21600.0)
        proxy.windows = [("soon", "later")]
        with pytest.raises(AcmeFault):
            one.renewal_window("a.b")
        one.close()


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after("120") == 120.0
    assert retry_after(None) is retry_after("soon") is None
    later = retry_after("Fri, 01 Jan 2100 00:00:00 GMT")
    assert later is not None and later == pytest.approx(4102444800 - clock.wall(), abs=60)
    assert retry_after("Thu, 01 Jan 1970 00:00:00 GMT") == 0.0


def test_a_token_with_other_characters_is_refused() -> None:
    assert make_challenge("dns-01", "a", "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA", "x").authorization.endswith("-oA.x")
    for token in ("../../etc", "", "a/b", "a" * 300, "a\n"):
        with pytest.raises(AcmeFault, match="invalid token"):
            make_challenge("http-01", "a", token, "x")


def test_a_directory_that_refuses_connections_is_named_without_names_of_classes() -> None:
    url = f"https://127.0.0.1:{free_port()}/dir"
    with pytest.raises(AcmeFault, match=r"^the directory cannot be reached: .*refused"):
        identities(url, Acme(domains=("a.example",), directory=(url,)))
