"""Trusted networks, and addresses in the field Forwarded."""

from __future__ import annotations

import sys

import pytest

from relayd.wire.forwarded import Networks, forwarded_element, network_fault

TRUSTED = Networks(["10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48", "fe80::/10", "unix"])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.255.0.1", True),
        ("11.0.0.1", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8:1::9", True),
        ("fe80::9%eth0", True),
        ("fe80::9%", False),
        ("fe80::9%eth0%eth1", False),
        ("2001:db8:1::9%eth0", False),
        ("10.255.0.1%eth0", False),
        ("::ffff:10.1.2.3%eth0", False),
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
    assert Networks(["::ffff:10.0.0.0/104"]).contains("10.9.9.9")


def test_nobody_is_trusted_by_default() -> None:
    nobody = Networks([])
    assert not nobody
    assert not nobody.contains("127.0.0.1")
    assert not nobody.contains("unix")


@pytest.mark.parametrize("word", ["nonsense", "10.0.0.1/8", "10.0.0.0/33", ""])
def test_a_word_that_is_no_network_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=word or "not permitted|does not appear"):
        Networks([word])


def test_the_fault_of_a_network_names_the_network_that_was_meant() -> None:
    assert not network_fault("10.0.0.0/8") and not network_fault("::1")
    assert "the network is 10.0.0.0/8" in network_fault("10.1.2.3/8")
    assert network_fault("10.0.0.0/33") and network_fault("example.org") and network_fault(" 10.0.0.0/8")


def test_a_look_up_does_not_depend_on_the_number_of_networks() -> None:
    many = Networks([f"10.{high}.{low}.0/24" for high in range(250) for low in range(40)])
    assert many.contains("10.249.39.255") and not many.contains("10.249.40.0") and not many.contains("::1")
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    kept = sys.getprofile()
    sys.setprofile(count)
    try:
        many.contains("10.9.41.1")
    finally:
        sys.setprofile(kept)
    assert calls < 100, "as many steps as networks"


def test_the_memo_does_not_grow_without_end() -> None:
    networks = Networks(["10.0.0.0/8"])
    for number in range(6000):
        networks.contains(f"1.2.{number >> 8}.{number & 255}")
    assert len(networks._cache) <= 4096


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
