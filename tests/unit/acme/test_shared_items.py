"""What machines share about certificates: two states, and texts that go from one to the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("acme", reason="needs python3-acme")

from relayd import clock
from relayd.acme.shared_items import CHALLENGE, SealError, SharedItems, group_of
from relayd.acme.spec import CertificateSpec
from relayd.acme.state import Record, State
from relayd.config.acme import Acme
from tests.aids.certificates import made

NAME, URL = "a.example.org", "https://directory.example/dir"
KEY, OTHER = "k" * 32, "o" * 32
SPEC = CertificateSpec(NAME, Acme(domains=(NAME,), directory=(URL,)), ("http-01",))


class Machine:
    def __init__(self, folder: Path, host: str, key: str = KEY, spec: CertificateSpec = SPEC) -> None:
        self.folder, self.state = folder, State(str(folder / host))
        self.state.prepare()
        self.items = SharedItems(self.state, key, host, [spec])
        self.spec = spec

    def obtain(self, begins_d: float, record: Record | None = None, ends_d: float = 30.0) -> None:
        pair = made(self.folder, f"at{begins_d}", NAME, begins_d=begins_d, ends_d=ends_d)
        self.state.write_certificate(NAME, Path(pair.key).read_bytes() + Path(pair.cert).read_bytes())
        self.state.write_record(NAME, record or Record(directory=URL, renew_at=9e9))

    @property
    def pem(self) -> bytes:
        file = Path(self.state.certificate_file(NAME))
        return file.read_bytes() if file.exists() else b""

    def give(self, other: Machine, age_s: float = 0.0) -> tuple[str, str]:
        text = self.items.certificate(self.spec)
        return other.items.install(text.id, text.sealed, age_s)


@pytest.fixture
def one(tmp_path: Path) -> Machine:
    return Machine(tmp_path, "one")


@pytest.fixture
def two(tmp_path: Path) -> Machine:
    return Machine(tmp_path, "two")


def test_a_certificate_arrives_with_its_key_its_record_and_its_origin(one: Machine, two: Machine) -> None:
    one.obtain(-1)
    assert one.give(two) == (NAME, "one")
    assert two.pem == one.pem and two.state.read_record(NAME) == Record(directory=URL, renew_at=9e9, origin="one")
    assert Path(two.state.certificate_file(NAME)).stat().st_mode & 0o777 == 0o600
    assert one.give(two) == two.give(one) == ("", ""), "nothing is new"
    assert one.state.read_record(NAME).origin == ""


def test_the_certificate_that_was_issued_last_is_used_whatever_comes_last(one: Machine, two: Machine) -> None:
    one.obtain(-20)
    two.obtain(-2, ends_d=5)
    late = two.pem
    assert one.give(two) == ("", "") and two.pem == late, "an old text that is brought back changes nothing"
    assert two.give(one) == (NAME, "two") and one.pem == late
    assert two.items.certificate(SPEC).rank == one.items.certificate(SPEC).rank > "0"


def test_a_text_of_another_key_or_id_is_refused(tmp_path: Path, one: Machine) -> None:
    one.obtain(-1)
    foreign = Machine(tmp_path, "foreign", OTHER)
    with pytest.raises(SealError, match="another key"):
        one.give(foreign)
    text = one.items.certificate(SPEC)
    with pytest.raises(SealError):
        one.items.install(CHALLENGE, text.sealed, 0.0)
    assert foreign.pem == b"" and group_of(KEY) != group_of(OTHER) and KEY not in group_of(KEY)
    assert "PRIVATE" not in text.sealed and NAME not in text.sealed


def test_machines_with_other_directories_do_not_exchange_certificates(tmp_path: Path, one: Machine) -> None:
    one.obtain(-1)
    staging = Machine(tmp_path, "staging", spec=CertificateSpec(NAME, Acme(domains=(NAME,), directory=("https://s.example/",)), ()))
    assert one.give(staging) == ("", "") and staging.pem == b""


def test_a_certificate_of_a_directory_that_is_not_used_any_more_is_not_shared(one: Machine) -> None:
    one.obtain(-1, Record(directory="https://old.example/"))
    assert one.items.certificates() == []


def test_a_failed_attempt_holds_back_the_others_whatever_the_clocks_say(one: Machine, two: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    now, ahead_s = clock.wall(), 400 * 86400.0
    monkeypatch.setattr(clock, "wall", lambda: now + ahead_s)
    failed = Record(failures=2, tried_at=now + ahead_s, next_try=now + ahead_s + 300, error="x", held={URL: now + ahead_s + 60})
    one.state.write_record(NAME, failed)
    text = one.items.certificate(SPEC)
    monkeypatch.setattr(clock, "wall", lambda: now + 40)
    assert two.items.install(text.id, text.sealed, 40.0) == ("", "")
    known = two.state.read_record(NAME)
    assert (known.failures, known.error) == (2, "x")
    assert known.next_try == pytest.approx(now + 300) and known.held[URL] == pytest.approx(now + 60)


def test_the_account_of_the_machine_that_was_first_is_that_of_all(one: Machine, two: Machine) -> None:
    assert one.items.account(URL) is None
    one.state.write_account(URL, {"uri": "https://d/1", "key": {"n": "1"}})
    two.state.write_account(URL, {"uri": "https://d/2", "key": {"n": "2"}})
    text = one.items.account(URL)
    assert text is not None
    two.items.install(text.id, text.sealed, 0.0)
    assert two.state.read_account(URL) == one.state.read_account(URL)


@pytest.mark.parametrize("kind", ["http-01", "tls-alpn-01"])
def test_a_challenge_is_answered_until_another_one_is_pending(one: Machine, two: Machine, kind: str) -> None:
    first, second = (one.items.challenge(kind, domain, token, f"{token}.thumb") for domain, token in (("a.example", "t1"), ("b.example", "t2")))
    assert "PRIVATE" not in json.dumps(first.sealed)
    two.items.install(CHALLENGE, first.sealed, 0.0)
    folder = Path(two.state.folder, "challenges", kind)
    assert [file.name for file in folder.iterdir()] == ["t1" if kind == "http-01" else "a.example.pem"]
    two.items.install(CHALLENGE, second.sealed, 0.0)
    assert [file.name for file in folder.iterdir()] == ["t2" if kind == "http-01" else "b.example.pem"]
    if kind == "http-01":
        assert two.state.http_response(b"/.well-known/acme-challenge/t2") == b"t2.thumb"
    two.items.install(CHALLENGE, "", 0.0)
    assert not list(folder.iterdir())


def test_texts_of_names_that_this_machine_does_not_serve_are_skipped(one: Machine, two: Machine) -> None:
    one.obtain(-1)
    text = one.items.certificate(SPEC)
    assert two.items.install(text.id.replace(NAME, "b.example.org"), text.sealed, 0.0) == ("", "")
    assert two.items.of_name("b.example.org") is None
