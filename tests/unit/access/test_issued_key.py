"""Keys that relayd issues."""

from __future__ import annotations

import pytest

from relayd.access.issued_key import PREFIX, digest_of, is_mistyped, new_key


def test_a_key_has_its_prefix_and_no_two_are_alike() -> None:
    keys = {new_key() for _ in range(200)}
    assert len(keys) == 200
    assert {len(key) for key in keys} == {52} and all(key.startswith(PREFIX) for key in keys)
    assert not any(is_mistyped(key.encode()) for key in keys)


def test_any_one_wrong_character_is_recognised_without_a_look_up() -> None:
    key = new_key()
    for place in range(len(PREFIX), len(key)):
        wrong = "a" if key[place] != "a" else "b"
        assert is_mistyped((key[:place] + wrong + key[place + 1 :]).encode())
    swapped = key[:10] + key[11] + key[10] + key[12:]
    assert swapped == key or is_mistyped(swapped.encode())


@pytest.mark.parametrize("change", [lambda key: key[:-1], lambda key: key + "a", lambda key: key[:20] + "-" + key[21:], lambda key: key[:20] + "\xe4" + key[21:]])
def test_a_key_that_was_cut_or_has_odd_bytes_is_recognised(change: object) -> None:
    assert callable(change)
    assert is_mistyped(change(new_key()).encode("latin-1"))


def test_keys_of_others_are_not_mistyped_keys() -> None:
    assert not is_mistyped(b"sk-1234") and not is_mistyped(b"") and not is_mistyped(b"\xff\x00")


def test_the_digest_is_that_of_every_other_program() -> None:
    assert digest_of(b"sk-1234").hex() == "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b"
