"""The client behind trusted proxies, and the forwarding fields for the next hop."""

from __future__ import annotations

import pytest

from relayd.wire.forwarded import Networks
from relayd.wire.origin import MAX_ELEMENTS, Origin, origin_of
from tests.aids.growth import TIMES, linear

TRUSTED = Networks(["10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48", "unix"])


def origin(peer: str = "10.0.0.1", **fields: bytes | list[bytes]) -> Origin:
    """`xff`, `proto`, `host` and `forwarded` are the values of the fields."""
    named = {"xff": b"x-forwarded-for", "proto": b"x-forwarded-proto", "host": b"x-forwarded-host", "forwarded": b"forwarded"}
    given = {named[name]: value if isinstance(value, list) else [value] for name, value in fields.items()}
    return origin_of(peer, lambda name: given.get(name, []), TRUSTED)


# ---- X-Forwarded-For


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
        # only a link-local IPv6 address has a zone
        ("10.0.0.1", [b"1.2.3.4%eth0"], "10.0.0.1", b"10.0.0.1"),
        ("10.0.0.1", [b"6.6.6.6, 1.2.3.4%eth0, 10.0.0.2"], "10.0.0.2", b"10.0.0.2, 10.0.0.1"),
        ("10.0.0.1", [b"2001:db8::5%eth0"], "10.0.0.1", b"10.0.0.1"),
        ("10.0.0.1", [b"[fe80::1%eth0]:4711"], "fe80::1", b"[fe80::1%eth0]:4711, 10.0.0.1"),
    ],
)
def test_the_first_untrusted_address_from_the_right_is_the_client(
    peer: str, fields: list[bytes], client: str, sent_on: bytes
) -> None:
    found = origin(peer, xff=fields)
    assert (found.client, found.chain) == (client, sent_on)


def test_a_long_list_is_cut_from_the_left() -> None:
    found = origin(xff=b", ".join([b"10.0.0.2"] * 5000))
    assert found.client == "10.0.0.2"
    assert found.chain.count(b",") == MAX_ELEMENTS


# ---- Forwarded


@pytest.mark.parametrize(
    ("lines", "client", "chain", "proto", "host"),
    [
        ([b"for=203.0.113.5"], "203.0.113.5", b"203.0.113.5, 10.0.0.1", None, None),
        ([b"For=203.0.113.5; Proto=HTTPS ;host=a.example"], "203.0.113.5", b"203.0.113.5, 10.0.0.1", b"https", b"a.example"),
        ([b'for="203.0.113.5:4711";by=10.0.0.1;host="a.example:8443"'], "203.0.113.5", b"203.0.113.5, 10.0.0.1", None, b"a.example:8443"),
        ([b'for="[2001:DB8::5]:4711"'], "2001:db8::5", b"2001:db8::5, 10.0.0.1", None, None),
        ([b'for="[2001:db8::5]"'], "2001:db8::5", b"2001:db8::5, 10.0.0.1", None, None),
        ([b'for="203.0.113.5%eth0"'], "10.0.0.1", b"10.0.0.1", None, None),
        ([b'for="203.0.113.5:_hidden"'], "203.0.113.5", b"203.0.113.5, 10.0.0.1", None, None),
        ([b"for=203.0.113.5:80, for=[2001:db8:1::2]"], "203.0.113.5", b"203.0.113.5, 2001:db8:1::2, 10.0.0.1", None, None),
        ([b"for=6.6.6.6;proto=gopher, for=203.0.113.5;proto=https, for=10.0.0.2;proto=http"], "203.0.113.5",
         b"6.6.6.6, 203.0.113.5, 10.0.0.2, 10.0.0.1", b"https", None),
        ([b"for=6.6.6.6", b"for=203.0.113.5;proto=https", b"for=10.0.0.2"], "203.0.113.5",
         b"6.6.6.6, 203.0.113.5, 10.0.0.2, 10.0.0.1", b"https", None),
        ([b"for=203.0.113.5, , for=10.0.0.2,"], "203.0.113.5", b"203.0.113.5, 10.0.0.2, 10.0.0.1", None, None),
        ([b";for=203.0.113.5;; proto=https ; "], "203.0.113.5", b"203.0.113.5, 10.0.0.1", b"https", None),
        # no address: the search ends at the last known one
        ([b"for=unknown;proto=https"], "10.0.0.1", b"10.0.0.1", b"https", None),
        ([b"for=203.0.113.5, for=_SEVKISEK;proto=https, for=10.0.0.2"], "10.0.0.2", b"10.0.0.2, 10.0.0.1", b"https", None),
        ([b"proto=https"], "10.0.0.1", b"10.0.0.1", b"https", None),
        # what stands to the left cannot change how the peer's own element is read
        ([b'for="6.6.6.6, for=203.0.113.5'], "203.0.113.5", b"203.0.113.5, 10.0.0.1", None, None),
        ([b'x="\\", for=203.0.113.5'], "203.0.113.5", b"203.0.113.5, 10.0.0.1", None, None),
        ([b'for=203.0.113.5;host="a, for=6.6.6.6"'], "203.0.113.5", b"203.0.113.5, 10.0.0.1", None, None),
        ([b'for=203.0.113.5;x="a\\", for=\\"6.6.6.6"'], "203.0.113.5", b"203.0.113.5, 10.0.0.1", None, None),
        # malformed
        ([b"203.0.113.5"], "10.0.0.1", b"10.0.0.1", None, None),
        ([b"for=203.0.113.5;for=6.6.6.6"], "10.0.0.1", b"10.0.0.1", None, None),
        ([b"for=evil"], "10.0.0.1", b"10.0.0.1", None, None),
        ([b"for = 203.0.113.5"], "10.0.0.1", b"10.0.0.1", None, None),
        ([b'for="203.0.113.5'], "10.0.0.1", b"10.0.0.1", None, None),
        ([b"\xff"], "10.0.0.1", b"10.0.0.1", None, None),
        ([b"for=203.0.113.5;proto=\"ht tp\";host=\"a b\""], "203.0.113.5", b"203.0.113.5, 10.0.0.1", None, None),
        ([b""], "10.0.0.1", b"10.0.0.1", None, None),
    ],
)
def test_forwarded_of_a_trusted_proxy_is_believed(
    lines: list[bytes], client: str, chain: bytes, proto: bytes | None, host: bytes | None
) -> None:
    found = origin(forwarded=lines)
    assert (found.client, found.chain, found.proto, found.host) == (client, chain, proto, host)


def test_forwarded_of_a_stranger_is_not_believed() -> None:
    assert origin("203.0.113.9", forwarded=b"for=6.6.6.6;proto=https") == Origin("203.0.113.9", b"203.0.113.9", [], None, None)


def test_elements_that_are_believed_go_on_as_they_came() -> None:
    assert origin(forwarded=b'for="203.0.113.5:1";by=_gw;proto=https, for=10.0.0.2').elements == [
        b'for="203.0.113.5:1";by=_gw;proto=https', b"for=10.0.0.2",
    ]
    assert origin(forwarded=b"for=unknown;proto=https").elements == [b"for=unknown;proto=https"]
    assert origin(forwarded=b"for=_a;proto=https, evil, for=10.0.0.2").elements == [b"for=10.0.0.2"]


# ---- both


def test_x_forwarded_for_decides_where_both_are_there() -> None:
    found = origin(xff=b"203.0.113.5, 10.0.0.2", proto=b"https", host=b"a.example:8443", forwarded=b"for=6.6.6.6;proto=http")
    assert found.client == "203.0.113.5" and found.proto == b"https" and found.host == b"a.example:8443"
    assert found.chain == b"203.0.113.5, 10.0.0.2, 10.0.0.1"
    assert found.elements == [b'for=203.0.113.5;host="a.example:8443";proto=https', b"for=10.0.0.2"]


def test_a_forwarded_that_says_the_same_goes_on_as_it_came() -> None:
    found = origin(xff=b"203.0.113.5", proto=b"https", forwarded=b"for=203.0.113.5;proto=https;by=_gw")
    assert found.elements == [b"for=203.0.113.5;proto=https;by=_gw"]


def test_without_x_forwarded_for_forwarded_says_what_the_other_fields_do_not() -> None:
    found = origin(proto=b"https", forwarded=b"for=203.0.113.5;host=a.example")
    assert (found.client, found.proto, found.host) == ("203.0.113.5", b"https", b"a.example")
    found = origin(proto=b"https", forwarded=b"for=203.0.113.5;host=a.example;proto=http")
    assert found.proto == b"https" and found.elements == [b"for=203.0.113.5;host=a.example;proto=https"]


def test_fields_without_an_address_belong_to_an_unknown_client() -> None:
    found = origin(proto=b"https")
    assert (found.client, found.chain, found.elements) == ("10.0.0.1", b"10.0.0.1", [b"for=unknown;proto=https"])
    assert origin().elements == []


@pytest.mark.parametrize(
    ("proto", "chosen"),
    [
        (b"https", b"https"), (b"HTTPS", b"https"), ([b"https, http"], b"https"), ([b"https", b"http"], b"https"),
        (b"a, b, http", b"http"), (b"ht tp", None), (b"", None), (b",https, ,", b"https"), (b"wss", b"wss"),
    ],
)
def test_of_several_schemes_the_clients_is_taken(proto: bytes | list[bytes], chosen: bytes | None) -> None:
    assert origin(xff=b"203.0.113.5, 10.0.0.2", proto=proto).proto == chosen


@pytest.mark.parametrize("host", [b"a b", b"a/b", b"a\"b", b"[::1", b"a:123456", b""])
def test_a_host_that_is_none_is_not_believed(host: bytes) -> None:
    assert origin(xff=b"203.0.113.5", host=host).host is None


@pytest.mark.parametrize(("begin", "piece", "end"), [
    (b"", b'"', b""), (b"", b'x="', b""), (b"", b'\\"', b""), (b"", b',x="', b""), (b"", b"for=1.2.3.4;", b""), (b"", b"a=b,", b""),
    (b"", b";", b""), (b"", b"; ", b""), (b"", b"a=b; ;", b""), (b"a=b", b";", b"x"), (b"for=", b"1", b""), (b"", b"= ", b""),
    (b"", b'"\\', b""),
])
def test_a_hostile_field_costs_linear_time(begin: bytes, piece: bytes, end: bytes) -> None:
    def read(count: int) -> None:  # whole pieces: a cut one might be refused at once
        for _ in range(5):
            origin(forwarded=begin + piece * count + end)

    assert linear(read, 60_000 // len(piece) // TIMES)
