"""Places of event streams: bounds of each owner and in total, and places that only the admin socket gets."""

from __future__ import annotations

import pytest

from relayd.proxy.application import LocalRequest
from relayd.server.stream_places import ON_SOCKET, StreamPlaces, TooManyStreams, owner_of


def refused(places: StreamPlaces, owner: str) -> bool:
    """True if the owner has too many, False if all have. Frees nothing."""
    with pytest.raises(TooManyStreams) as fault:
        places.take(owner)
    return fault.value.of_owner


def test_one_owner_leaves_places_for_others_and_the_socket_has_its_own() -> None:
    places = StreamPlaces(7, 4, 2)
    for _ in range(4):
        places.take("greedy")
    assert refused(places, "greedy")
    places.take("other")
    assert not refused(places, "other")
    places.take(ON_SOCKET)
    places.take(ON_SOCKET)
    assert not refused(places, ON_SOCKET)
    for owner in (*["greedy"] * 4, "other", ON_SOCKET, ON_SOCKET):
        places.free(owner)
    for _ in range(4):
        places.take(ON_SOCKET)
    assert refused(places, ON_SOCKET)


def test_the_owner_is_the_consumer_or_the_network_of_the_client() -> None:
    def owner(consumer: str, client: str) -> str:
        return owner_of(LocalRequest("GET", "/events", False, consumer=consumer, client=client))

    assert owner("team", "192.0.2.1") == "team"
    assert owner("", "192.0.2.1") == "@192.0.2.1"
    assert owner("", "2001:db8::1") == owner("", "2001:db8::2") != owner("", "2001:db8:0:1::1")
    assert owner("", "") == ON_SOCKET
