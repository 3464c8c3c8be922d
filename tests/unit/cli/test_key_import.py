"""Tables of keys of other programs."""

from __future__ import annotations

import json

import pytest

from relayd.access.issued_key import digest_of
from relayd.cli.key_import import ImportFault, entries

DIGEST = digest_of(b"sk-1234").hex()
# As `\copy "LiteLLM_VerificationToken" TO keys.csv CSV HEADER` writes it.
LITELLM = f"""token,key_name,key_alias,spend,expires,models,aliases,team_id,metadata,blocked,tpm_limit,rpm_limit,max_budget,budget_duration,max_parallel_requests
{DIGEST},sk-...1234,ci bot,0.25,2030-01-31 10:00:00,"{{gpt-4,""claude 3""}}",{{}},paying,{{}},f,1000,60,12.5,1mo,
"""


def test_litellms_table_is_converted() -> None:
    (entry,) = entries(LITELLM)
    assert (entry.name, entry.digest, entry.expires_s, entry.is_blocked, entry.fault) == ("ci-bot", DIGEST, 1896084000.0, False, "")
    assert entry.settings == {
        "group": "paying", "models": ["gpt-4", "claude 3"], "rates": [{"requests": 60, "per": "1m"}, {"tokens": 1000, "per": "1m"}],
        "budget": [{"amount": "12.5", "per": "month"}],
    }
    assert not entry.remarks


@pytest.mark.parametrize("text", [
    json.dumps([{"hash": DIGEST, "name": "a"}]), json.dumps({"keys": [{"hash": DIGEST.upper(), "name": "a"}]}),
    json.dumps({"token": DIGEST, "key_alias": "a"}), f'{{"token":"{DIGEST}","key_alias":"a"}}\n{{"token":"{DIGEST}","key_alias":"b"}}\n',
    f"\ufeffname,hash\na,{DIGEST}\n",
])
def test_json_lines_and_csv_are_read(text: str) -> None:
    found = list(entries(text))
    assert found[0].name == "a" and {entry.digest for entry in found} == {DIGEST}


@pytest.mark.parametrize("models", [[], ["all-team-models"], None, "{}"])
def test_all_models_are_no_restriction(models: object) -> None:
    (entry,) = entries(json.dumps([{"token": DIGEST, "models": models}]))
    assert entry.settings == {} and entry.name == "imported-1"


@pytest.mark.parametrize("row", [{"token": "abc"}, {"key": "short"}, {"key": "0123456789 abcdef"}, {"token": DIGEST, "expires": "soon"}, {"token": DIGEST, "rpm_limit": "many"}, {"name": "x"}])
def test_a_key_that_cannot_be_used_is_a_fault_of_its_row(row: dict[str, object]) -> None:
    assert [bool(entry.fault) for entry in entries(json.dumps([row, {"token": DIGEST}]))] == [True, False]


def test_what_is_not_converted_is_named() -> None:
    (entry,) = entries(json.dumps([{"token": DIGEST, "allowed_routes": ["/x"], "aliases": {"a": "b"}, "auto_rotate": False}]))
    assert entry.remarks == ["not converted: aliases, allowed_routes"]


@pytest.mark.parametrize("text", ["", "[1]", "{", "a,b\n1,2\n", "[" * 100_000])
def test_another_file_is_refused(text: str) -> None:
    if text:
        with pytest.raises(ImportFault):
            list(entries(text))
    else:
        assert list(entries(text)) == []
