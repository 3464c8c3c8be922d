"""Who the client is, and what is said of it to the next hop."""

from __future__ import annotations

import pytest

from relayd.wire.forwarded import MAX_ELEMENTS, TrustedNetworks, client_address, forwarded_element

TRUSTED = TrustedNetworks(["10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48", "unix"])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.255.0.1", True),
        ("11.0.0.1", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8:1::9", True),
        ("2001:db8:1::9%eth0", True),
        ("2001:db8:2::9", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
        ("unix", True),
        ("", False),
        ("10.0.0", False),
        ("10.0.0.01", False),
        ("x" * 10_000, False),
    ],
)
def test_membership_is_decided_by_the_address(address: str, expected: bool) -> None:
    assert TRUSTED.contains(address) is expected
    assert TRUSTED.contains(address) is expected  # from the memo


def test_a_mapped_network_is_the_network_it_maps() -> None:
    assert TrustedNetworks(["::ffff:10.0.0.0/104"]).contains("10.9.9.9")


def test_nobody_is_trusted_by_default() -> None:
    nobody = TrustedNetworks([])
    assert not nobody
    assert not nobody.contains("127.0.0.1")
    assert not nobody.contains("unix")


@pytest.mark.parametrize("word", ["nonsense", "10.0.0.1/8", "10.0.0.0/33", ""])
def test_a_word_that_is_no_network_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=word or "not permitted|does not appear"):
        TrustedNetworks([word])


def test_the_memo_does_not_grow_without_end() -> None:
    networks = TrustedNetworks(["10.0.0.0/8"])
    for number in range(6000):
        networks.contains(f"1.2.{number >> 8}.{number & 255}")
    assert len(networks._known) <= 4096


@pytest.mark.parametrize(
    ("peer", "fields", "client", "sent_on"),
    [
        ("203.0.113.5", [b"1.2.3.4"], "203.0.113.5", b"203.0.113.5"),
        ("10.0.0.1", [], "10.0.0.1", b"10.0.0.1"),
        ("10.0.0.1", [b"203.0.113.5"], "203.0.113.5", b"203.0.113.5, 10.0.0.1"),
        ("10.0.0.1", [b"6.6.6.6, 203.0.113.5", b"10.0.0.2"], "203.0.113.5", b"6.6.6.6, 203.0.113.5, 10.0.0.2, 10.0.0.1"),
        ("10.0.0.1", [b"10.0.0.3,10.0.0.2"], "10.0.0.3", b"10.0.0.3, 10.0.0.2, 10.0.0.1"),
        ("10.0.0.1", [b"203.0.113.5, evil, 10.0.0.2"], "10.0.0.2", b"10.0.0.2, 10.0.0.1"),
        ("10.0.0.1", [b"unknown"], "10.0.0.1", b"10.0.0.1"),
        ("10.0.0.1", [b"203.0.113.5:4711"], "203.0.113.5", b"203.0.113.5:4711, 10.0.0.1"),
        ("10.0.0.1", [b"[2001:db8::5]:4711"], "2001:db8::5", b"[2001:db8::5]:4711, 10.0.0.1"),
        ("10.0.0.1", [b"2001:DB8::5"], "2001:db8::5", b"2001:DB8::5, 10.0.0.1"),
        ("10.0.0.1", [b"203.0.113.5:x"], "10.0.0.1", b"10.0.0.1"),
        ("10.0.0.1", [b"203.0.113.5,, ,10.0.0.2"], "203.0.113.5", b"203.0.113.5, 10.0.0.2, 10.0.0.1"),
        ("::ffff:10.0.0.1", [b"203.0.113.5"], "203.0.113.5", b"203.0.113.5, 10.0.0.1"),
        ("::ffff:203.0.113.9", [], "203.0.113.9", b"203.0.113.9"),
        ("unix", [b"203.0.113.5"], "203.0.113.5", b"203.0.113.5"),
        ("unix", [], "unix", b"unknown"),
        ("10.0.0.1", [b"\xff"], "10.0.0.1", b"10.0.0.1"),
        ("10.0.0.1", [b"1.2.3.\xb2"], "10.0.0.1", b"10.0.0.1"),
    ],
)
def test_the_first_untrusted_address_from_the_right_is_the_client(
    peer: str, fields: list[bytes], client: str, sent_on: bytes
) -> None:
    assert client_address(peer, fields, TRUSTED) == (client, sent_on)


def test_a_long_list_is_cut_from_the_left() -> None:
    client, sent_on = client_address("10.0.0.1", [b", ".join([b"10.0.0.2"] * 5000)], TRUSTED)
    assert client == "10.0.0.2"
    assert sent_on.count(b",") == MAX_ELEMENTS


@pytest.mark.parametrize(
    ("client", "host", "element"),
    [
        ("192.0.2.1", b"example.com", b"for=192.0.2.1;host=example.com;proto=https"),
        ("192.0.2.1", b"example.com:8443", b'for=192.0.2.1;host="example.com:8443";proto=https'),
        ("2001:db8::1", b"[::1]:80", b'for="[2001:db8::1]";host="[::1]:80";proto=https'),
        ("fe80::1%eth0", b"a", b'for="[fe80::1]";host=a;proto=https'),
        ("unix", b"", b"for=unknown;proto=https"),
        ("192.0.2.1", b'a"\\', b'for=192.0.2.1;host="a\\"\\\\";proto=https'),
    ],
)
def test_an_element_quotes_what_is_no_token(client: str, host: bytes, element: bytes) -> None:
    assert forwarded_element(client, host, b"https") == element
