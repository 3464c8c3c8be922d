"""The catalogue of errors: stable codes, honest statuses, and messages that tell a client nothing it must not know."""

from __future__ import annotations

import re

import pytest

from relayd.errors import KINDS, ConfigError, ExchangeError, Fault, Finding


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.code)
def test_an_entry_is_named_by_its_code_and_has_an_error_status(kind) -> None:  # type: ignore[no-untyped-def]
    assert KINDS[kind.code] is kind
    assert re.fullmatch(r"[a-z0-9_]+", kind.code)
    assert 400 <= kind.status <= 599


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.code)
def test_a_message_is_a_sentence_without_addresses_or_library_words(kind) -> None:  # type: ignore[no-untyped-def]
    assert kind.message.endswith(".") and kind.message[0].isupper()
    assert not re.search(r"://|\d+\.\d+\.\d+|curl|tornado|python", kind.message, re.IGNORECASE)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.code)
def test_the_status_agrees_with_whose_fault_it_is(kind) -> None:  # type: ignore[no-untyped-def]
    """501, 505, 508 and a full house are refusals of what a client asked for, so 5xx may be a client's fault; 4xx never
    is an upstream's or relayd's own."""
    if kind.status < 500:
        assert kind.fault is Fault.CLIENT


def test_what_may_have_reached_an_endpoint_is_not_retryable() -> None:
    reached = {"upstream_closed", "upstream_malformed", "upstream_cut", "first_byte_timeout", "idle_timeout", "total_timeout"}
    assert not any(KINDS[code].retryable for code in reached)
    assert all(KINDS[code].retryable for code in ("connect_failed", "connect_timeout", "tls_failed", "no_endpoint"))


def test_doubtful_framing_ends_the_connection() -> None:
    assert all(KINDS[code].close for code in ("bad_request", "header_too_large", "request_timeout", "body_too_large"))


def test_an_exchange_error_knows_its_kind_and_keeps_the_detail_apart() -> None:
    error = ExchangeError("too_many_requests", "bucket team", [("Retry-After", "3")])
    assert (error.kind.status, error.detail, error.headers) == (429, "bucket team", (("Retry-After", "3"),))
    assert "team" not in error.kind.message


def test_a_code_outside_the_catalogue_cannot_be_raised() -> None:
    with pytest.raises(KeyError):
        ExchangeError("no_such_code")


def test_a_finding_reads_as_file_line_column_level_path_message_and_hint() -> None:
    finding = Finding("relayd.yaml", 3, 5, "routes[0].nam", "unknown key 'nam'", "did you mean name?")
    assert str(finding) == "relayd.yaml:3:5: error: routes[0].nam: unknown key 'nam' (did you mean name?)"
    assert str(Finding("relayd.yaml", 0, 0, "", "empty", level="warning")) == "relayd.yaml: warning: empty"


def test_a_refused_configuration_tells_every_finding_one_per_line() -> None:
    error = ConfigError([Finding("a", 1, 1, "x", "one"), Finding("a", 2, 1, "y", "two")])
    assert len(error.findings) == 2 and str(error).splitlines() == [str(finding) for finding in error.findings]
