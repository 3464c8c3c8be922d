"""`relayd keys`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from relayd import clock
from relayd.access.issued_key import digest_of
from relayd.access.key_journal import KeyJournal
from relayd.access.key_store import FILE, KeyStore
from relayd.cli.main import main

CONFIG = """
listeners: {public: {address: "127.0.0.1:1"}}
groups: {paying: {}}
routes:
  - {name: llm, match: {prefix: /v1/}, respond: 200, allow: [paying]}
  - {name: open, respond: 200}
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    (tmp_path / "c.yaml").write_text(CONFIG)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["keys", *words, "--state", str(tmp_path), "-c", str(tmp_path / "c.yaml")])
        return code, *capsys.readouterr()

    return run


def store(tmp_path: Path) -> KeyStore:
    return KeyJournal(str(tmp_path / "keys")).read()


def test_a_key_is_printed_once_and_only_its_digest_is_stored(keys: Run, tmp_path: Path) -> None:
    code, out, err = keys("create", "bob", "--group", "paying", "--models", "gpt-*, fast", "--expires", "30d")
    key = out.strip()
    assert code == 0 and re.fullmatch(r"rl_[0-9A-Za-z]{49}", key) and "shown only now" in err
    text = (tmp_path / "keys" / FILE).read_text()
    assert key not in text and key[7:] not in text and digest_of(key.encode()).hex() in text
    (record,) = store(tmp_path).records()
    assert record.settings == {"group": "paying", "models": ["gpt-*", "fast"]}
    assert 29 * 86400 < record.expires_s - clock.wall() <= 30 * 86400
    for shown in (keys("list"), keys("list", "--json"), keys("show", "bob"), keys("show", "bob", "--json")):
        assert shown[0] == 0 and "bob" in shown[1] and key not in shown[1] and record.digest not in shown[1]


@pytest.mark.parametrize(("words", "message"), [
    (["bob", "--group", "nobody"], "no group nobody"), (["bob", "--routes", "llm,nowhere"], "no route nowhere"),
    (["paying"], "name of a consumer or group"), (["a b"], "letters"), (["bob", "--expires", "yesterday"], "--expires"),
    (["bob", "--expires", "2020-01-01"], "in the past"), (["bob", "--models", ","], "empty"), (["bob", "--rates", "{requests: }"], "rates"),
    (["bob", "--rates", "{requests: [}"], "--rates"),
])
def test_a_key_that_makes_no_sense_is_not_issued(keys: Run, tmp_path: Path, words: list[str], message: str) -> None:
    code, out, err = keys("create", *words)
    assert code == 1 and not out and message in err
    assert store(tmp_path).is_empty


def test_a_key_that_no_route_accepts_is_issued_with_a_remark(keys: Run) -> None:
    assert "no route accepts this key" in keys("create", "a")[2]
    assert "no route accepts" not in keys("create", "b", "--group", "paying")[2] + keys("create", "c", "--routes", "open")[2]


def test_a_name_has_one_key(keys: Run) -> None:
    assert keys("create", "bob")[0] == 0
    code, _, err = keys("create", "bob")
    assert code == 1 and "rotate" in err
    assert keys("revoke", "bob")[0] == 0 and keys("create", "bob")[0] == 0


def test_a_revoked_key_is_listed_and_no_longer_found(keys: Run, tmp_path: Path) -> None:
    digest = digest_of(keys("create", "bob")[1].strip().encode())
    assert store(tmp_path).find(digest) is not None
    assert keys("revoke", "bob")[1].endswith("revoked\n")
    assert store(tmp_path).find(digest) is None and "revoked" in keys("list")[1] and "revoked" in keys("show", "bob")[1]
    assert "there is no key bob" in keys("revoke", "bob")[2]


def test_a_rotated_key_has_an_overlap(keys: Run, tmp_path: Path) -> None:
    old = digest_of(keys("create", "bob", "--group", "paying")[1].strip().encode())
    code, out, err = keys("rotate", "bob", "--overlap", "1h")
    new = digest_of(out.strip().encode())
    assert code == 0 and "1h00m" in err and store(tmp_path).find(old) is not None is not store(tmp_path).find(new)
    newest = digest_of(keys("rotate", "bob", "--overlap", "0")[1].strip().encode())
    found = store(tmp_path)
    assert (found.find(old), found.find(new)) == (None, None) and found.find(newest) is not None
    assert "group" in keys("show", "bob")[1]


def test_a_key_is_named_by_its_id_too(keys: Run, tmp_path: Path) -> None:
    keys("create", "bob")
    (record,) = store(tmp_path).records()
    assert keys("revoke", record.id)[0] == 0


def test_the_result_is_json_for_scripts(keys: Run) -> None:
    made = json.loads(keys("create", "bob", "--json")[1])
    assert made["key"].startswith(made["start"]) and made["name"] == "bob" and "digest" not in made
    (listed,) = json.loads(keys("list", "--json")[1])["keys"]
    assert listed["id"] == made["id"] and "key" not in listed


@pytest.mark.parametrize("words", [["create"], ["show"], ["import"], ["list", "bob"]])
def test_a_missing_or_superfluous_name_is_wrong_usage(keys: Run, words: list[str]) -> None:
    assert keys(*words)[0] == 2


def test_keys_of_another_program_are_taken_over(keys: Run, tmp_path: Path) -> None:
    key = "sk-legacy-0123456789"
    rows = [
        {"token": digest_of(key.encode()).hex(), "key_alias": "Bob's key", "team_id": "paying", "models": ["gpt-4"], "max_parallel_requests": 3},
        {"token": digest_of(b"sk-blocked").hex(), "key_alias": "gone", "blocked": True}, {"token": "x", "key_alias": "broken"},
    ]
    (tmp_path / "keys.json").write_text(json.dumps({"keys": rows}))
    code, out, err = keys("import", str(tmp_path / "keys.json"))
    assert code == 0 and out == "1 keys imported, 2 not\n"
    assert "max_parallel_requests" in err and "gone: not imported: it is blocked" in err and "broken: not imported" in err
    found = store(tmp_path).find(digest_of(key.encode()))
    assert found is not None and found[1].name == "Bob-s-key" and found[1].settings == {"group": "paying", "models": ["gpt-4"]}
    assert "known already" in keys("import", str(tmp_path / "keys.json"))[2]


def test_plain_keys_of_a_table_are_digested(keys: Run, tmp_path: Path) -> None:
    (tmp_path / "keys.csv").write_text("name,key,routes\nbob,sk-0123456789abcdef,llm\neve,short,llm\n")
    code, out, _ = keys("import", str(tmp_path / "keys.csv"), "--group", "paying")
    assert code == 0 and out == "1 keys imported, 1 not\n" and "sk-0123456789abcdef" not in (tmp_path / "keys" / FILE).read_text()
    found = store(tmp_path).find(digest_of(b"sk-0123456789abcdef"))
    assert found is not None and found[1].settings == {"group": "paying", "routes": ["llm"]}


def test_imported_keys_that_no_route_accepts_are_counted(keys: Run, tmp_path: Path) -> None:
    rows = "".join(f"bob{number},sk-0123456789abcdef{number},{group}\n" for number, group in enumerate(("", "", "paying")))
    (tmp_path / "keys.csv").write_text("name,key,group\n" + rows)
    code, out, err = keys("import", str(tmp_path / "keys.csv"))
    assert code == 0 and out == "3 keys imported, 0 not\n" and "2 of these keys: no route accepts this key" in err
