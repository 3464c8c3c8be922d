"""Field lines: names, what Connection may strip, and a route's edits."""

from __future__ import annotations

from relayd.wire.headers import CONFUSABLE, LIMIT, PROTECTED, TOKENS, FieldEdits, Memo, name_of, without


def test_a_name_is_compared_in_lower_case() -> None:
    assert name_of(b"X-Request-ID: a:b") == b"x-request-id"
    assert without([b"Accept: 1", b"HOST: a", b"ACCEPT:2"], {b"accept"}) == [b"HOST: a"]


def test_tokens_are_split_lowered_and_never_empty() -> None:
    assert TOKENS[b"Keep-Alive, X-One ,,\tClose"] == {b"keep-alive", b"x-one", b"close"}
    assert TOKENS[b" , "] == frozenset()


def test_a_memo_remembers_but_does_not_grow_without_end() -> None:
    calls: list[bytes] = []

    def counted(key: bytes) -> int:
        calls.append(key)
        return len(key)

    memo = Memo(counted)
    assert memo[b"ab"] == memo[b"ab"] == 2
    assert calls == [b"ab"]
    for number in range(LIMIT + 100):
        assert memo[b"%d" % number] == len(b"%d" % number)
    assert memo[b"x" * 1000] == 1000
    assert len(memo) <= LIMIT
    assert b"x" * 1000 not in memo


def test_edits_remove_replace_and_append_in_that_order() -> None:
    edits = FieldEdits(remove=frozenset((b"x-gone",)), set=(b"X-Set: new",), add=(b"X-Add: 2",))
    lines = [b"X-Gone: 1", b"x-set: old", b"X-Add: 1", b"X-SET: older", b"Other:  kept "]
    assert edits.apply(lines) == [b"X-Add: 1", b"Other:  kept ", b"X-Set: new", b"X-Add: 2"]
    assert edits.apply([b"A: b\r\n"], b"\r\n") == [b"A: b\r\n", b"X-Set: new\r\n", b"X-Add: 2\r\n"]


def test_no_edits_leave_the_lines_as_they_were() -> None:
    lines = [b"A: 1", b"a: 2"]
    assert FieldEdits(frozenset(), (), ()).apply(lines) == lines


def test_every_name_that_decides_something_is_protected_and_has_its_confusable_spelling() -> None:
    assert {b"host", b"content-length", b"authorization", b"cookie", b"x-forwarded-for", b"via", b"traceparent"} <= PROTECTED
    assert {b"content_length", b"transfer_encoding", b"x_forwarded_for", b"x_api_key"} <= CONFUSABLE
