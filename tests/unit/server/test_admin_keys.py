"""The key store in the admin application."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relayd.access.key_journal import KeyJournal
from relayd.access.key_record import KeyRecord
from relayd.access.key_store import KeyStore
from relayd.protocols.dialect import run_steps
from relayd.server import admin_keys
from tests.unit.proxy.fakes import UPSTREAM, plan_of

DIGEST = "ab" * 32


def gateway(folder: Path, *records: KeyRecord) -> Any:
    journal = KeyJournal(str(folder))
    with journal.locked():
        journal.append(journal.read(), records, 0.0)
    return SimpleNamespace(keys=journal.read(), plan=plan_of(UPSTREAM + "groups: {paying: {}}\nroutes: [{name: all, upstream: web}]\n"))


def test_keys_are_shown_without_digests_and_with_the_reason_why_one_is_not_accepted(tmp_path: Path) -> None:
    page: Any = run_steps(admin_keys.keys(gateway(
        tmp_path, KeyRecord("000000000001", "old", DIGEST, revoked_s=1.0), KeyRecord("000000000002", "a", DIGEST, settings={"group": "paying"}),
        KeyRecord("000000000003", "b", DIGEST, settings={"group": "gone"}), KeyRecord("000000000004", "paying", DIGEST),
        KeyRecord("000000000005", "late", DIGEST, expires_s=1.0),
    )))
    assert DIGEST not in json.dumps(page) and page["issued"] == 4 and page["fault"] == ""
    keys: Any = page["keys"]
    assert {one["name"]: one["state"] for one in keys} == {
        "a": "valid", "b": "there is no group gone", "paying": "its name is that of a consumer or group", "old": "revoked", "late": "expired",
    }


def test_a_page_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_keys, "MAX_KEYS", 2)
    page: Any = run_steps(admin_keys.keys(gateway(tmp_path, *(KeyRecord(f"{number:012x}", f"k{number}", DIGEST) for number in range(5)))))
    assert len(page["keys"]) == 2 and page["omitted"] == 3


def test_without_a_key_store_there_are_no_keys() -> None:
    nothing: Any = SimpleNamespace(keys=None, plan=None)
    assert run_steps(admin_keys.keys(nothing)) == {"issued": 0, "fault": "", "omitted": 0, "keys": []}
    assert admin_keys.summary(SimpleNamespace(keys=KeyStore("/nowhere"), plan=None)) == {"issued": 0, "fault": ""}  # type: ignore[arg-type]
