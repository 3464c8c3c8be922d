"""What outcomes mean."""

from __future__ import annotations

from typing import TypedDict

import pytest

from relayd.errors import KINDS, Fault
from relayd.upstream.classify import ENDPOINT_CODES, GOOD, NOTHING, Blame, classify
from relayd.upstream.retry import FAULT_NAMES


class Told(TypedDict, total=False):
    """What the body of an answer says."""

    error_code: str
    error_type: str
    error_message: str


@pytest.mark.parametrize("status", [200, 201, 204, 206, 301, 304, 399])
def test_an_answer_is_good(status: int) -> None:
    assert classify("", status) is GOOD


@pytest.mark.parametrize("status", [400, 404, 405, 408, 409, 410, 413, 415, 418, 422, 431, 451, 499, 501, 505])
def test_a_consumers_mistake_never_counts_against_an_endpoint(status: int) -> None:
    assert classify("", status, own_key=True).blame is Blame.CLIENT
    assert classify("", status).fallback == ""


@pytest.mark.parametrize("status", [401, 402])
def test_a_refused_key_is_the_keys_fault_only_when_it_is_relayds(status: int) -> None:
    found = classify("", status, own_key=True)
    assert (found.blame, found.fault, found.fallback, found.refused) == (Blame.KEY, "key", "unavailable", True)
    assert classify("", status).blame is Blame.CLIENT


@pytest.mark.parametrize("words", [
    {"error_code": "invalid_api_key"}, {"error_code": "API_KEY_INVALID"}, {"error_type": "authentication_error"},
    {"error_code": "403", "error_type": "authentication_error"},
    {"error_type": "permission_error", "error_message": "Your API key does not have permission to use this resource."},
    {"error_message": "API key not valid. Please pass a valid API key."},
    {"error_message": "Your API key was reported as leaked. Please use another API key."},
    {"error_message": "Key limit exceeded (total limit)."}, {"error_message": "invalid x-api-key"},
])
def test_a_403_that_names_the_key_is_about_the_key(words: Told) -> None:
    assert classify("", 403, own_key=True, **words).blame is Blame.KEY
    assert classify("", 403, **words).blame is Blame.CLIENT


@pytest.mark.parametrize("words", [
    {},
    {"error_code": "unsupported_country_region_territory",
     "error_message": "Country, region, or territory not supported", "error_type": "request_forbidden"},
    {"error_code": "403", "error_message": "meta/llama requires moderation on OpenInference. Your input was flagged."},
    {"error_type": "permission_error", "error_message": "This organization is not allowed to do that."},
    {"error_code": "model_not_found", "error_message": "Project `p` does not have access to model `m`"},
    {"error_message": "Your API key is not allowed to use the model gpt-vip."},
    {"error_message": "The key to the story was flagged."},
    {"error_message": "x" * 5000 + " your api key"},
])
def test_a_403_about_the_request_is_the_clients(words: Told) -> None:
    found = classify("", 403, own_key=True, **words)
    assert (found.blame, found.fault, found.fallback, found.status) == (Blame.CLIENT, "", "", 403)


def test_long_messages_of_a_403_cost_no_more_than_short_ones() -> None:
    for message in ("a" * 10_000_000, "api " * 2_000_000, "your-_" * 1_000_000):
        assert classify("", 403, own_key=True, error_message=message).blame is Blame.CLIENT


@pytest.mark.parametrize("status", [401, 402, 403, 429])
def test_what_becomes_of_the_clients_own_key_is_the_clients(status: int) -> None:
    found = classify("", status, client_key=True, retry_after_s=9.0, error_code="invalid_api_key")
    assert found.blame is Blame.CLIENT and found.status == status
    assert classify("", status, client_key=True, own_key=True, error_code="invalid_api_key").blame is not Blame.CLIENT


@pytest.mark.parametrize(("status", "word"), [(429, "429"), (529, "5xx")])
def test_a_call_for_rest_is_no_failure(status: int, word: str) -> None:
    found = classify("", status, retry_after_s=7.0)
    assert (found.blame, found.fault, found.retry_after_s, found.fallback) == (Blame.COOLDOWN, word, 7.0, "overloaded")
    assert found.refused, "it was refused before any work"
    assert classify("", status).retry_after_s is None


def test_429_to_the_clients_own_key_is_the_clients_business() -> None:
    assert classify("", 429, retry_after_s=7.0, client_key=True).blame is Blame.CLIENT
    assert classify("", 503, retry_after_s=7.0, client_key=True).blame is Blame.COOLDOWN


def test_503_with_a_time_is_a_call_for_rest_and_without_one_a_fault() -> None:
    assert classify("", 503, retry_after_s=3.0).blame is Blame.COOLDOWN and classify("", 503, retry_after_s=3.0).refused
    assert classify("", 503).blame is Blame.ENDPOINT and not classify("", 503).refused


def test_a_key_without_money_is_the_keys_fault_though_it_says_429() -> None:
    assert classify("", 429, own_key=True, error_code="insufficient_quota").blame is Blame.KEY
    assert classify("", 429, error_code="insufficient_quota").blame is Blame.COOLDOWN
    assert classify("", 429, own_key=True, error_code="rate_limit_exceeded").blame is Blame.COOLDOWN


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 599])
def test_a_server_error_is_the_endpoints_fault(status: int) -> None:
    found = classify("", status)
    assert (found.blame, found.fault, found.status) == (Blame.ENDPOINT, "5xx", status)


def test_every_code_of_the_catalogue_is_classified() -> None:
    for code, kind in KINDS.items():
        found = classify(code, 0)
        if code in ENDPOINT_CODES:
            assert found.blame is Blame.ENDPOINT and kind.fault is Fault.UPSTREAM
        elif code == "total_timeout":
            assert found.blame is Blame.ENDPOINT
        else:
            assert found is NOTHING


def test_every_fault_of_an_endpoint_is_known_or_no_fault_of_one() -> None:
    upstreams = {code for code, kind in KINDS.items() if kind.fault is Fault.UPSTREAM and kind.status in (502, 504)}
    # The two are what relayd answers where a status was judged already.
    assert upstreams - set(ENDPOINT_CODES) == {"total_timeout", "upstream_refused", "upstream_key_refused"}


def test_a_cut_stream_counts_though_its_status_was_good() -> None:
    assert classify("upstream_cut", 200, in_stream=True).blame is Blame.ENDPOINT
    assert classify("idle_timeout", 200, in_stream=True).blame is Blame.ENDPOINT


def test_the_client_leaving_a_stream_says_nothing() -> None:
    assert classify("client_gone", 200, in_stream=True) is NOTHING
    assert classify("stopped", 200, in_stream=True) is NOTHING


def test_the_bound_on_the_whole_blames_only_who_has_said_nothing() -> None:
    assert classify("total_timeout", 0).blame is Blame.ENDPOINT
    assert classify("total_timeout", 200, in_stream=True) is NOTHING


def test_an_error_event_in_a_stream_is_judged_by_the_status_it_stands_for() -> None:
    assert classify("", 529, in_stream=True).blame is Blame.COOLDOWN
    assert classify("", 500, in_stream=True).blame is Blame.ENDPOINT


def test_every_fault_is_a_word_that_retries_know() -> None:
    cases = [classify(code, 0) for code in KINDS] + [classify("", status, own_key=True) for status in range(200, 600)]
    assert {one.fault for one in cases} - {""} <= set(FAULT_NAMES)
