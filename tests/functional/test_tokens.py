"""Tokens of an identity provider, before a real daemon: forged ones, and an issuer that hangs, lies and rotates its keys."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jwt", reason="needs python3-jwt")

from tests.aids.certificates import made
from tests.aids.tokens import Signer, b64, key_set
from tests.functional.harness.faults import get, until
from tests.functional.harness.message import Message, answer
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream, saying

ISSUER = "https://issuer.example"
SIGNER, ELLIPTIC = Signer("RS256"), Signer("ES256", kid="e1")
SECRET = "0123456789-0123456789-0123456789"


def claims(**change: Any) -> dict[str, Any]:
    now = int(time.time())
    found = {"iss": ISSUER, "aud": "relayd", "exp": now + 600, "iat": now, "sub": "ann", **change}
    return {name: value for name, value in found.items() if value is not None}


def bearer(token: str) -> bytes:
    return b"Authorization: Bearer " + token.encode("latin-1")


def issuer(**keys: Any) -> dict[str, Any]:
    return {"jwt": {"issuer": ISSUER, "audience": "relayd", "algorithms": ["RS256", "ES256"], **keys}}


@pytest.fixture(scope="module")
def relay(module_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "jwks.json").write_bytes(key_set(SIGNER, ELLIPTIC))
    for name, text in (("team", "team-key-0123456789"), ("secret", SECRET)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    change = {
        "groups": {"paying": {"models": ["gpt-*"]}},
        "consumers": {
            "team": {"key": {"file": str(folder / "team")}},
            "ci": issuer(jwks={"file": str(folder / "jwks.json")}, consumer_claim="sub"),
            "partner": {"jwt": {"issuer": "partner", "algorithms": ["HS256"], "secret": {"file": str(folder / "secret")}, "group_claim": "team",
                                "header": "X-Assertion"}},
        },
        "routes": [{"name": "all", "upstream": "up", "allow": ["team", "ci", "partner"]}],
        "daemon": {"failed_keys": 0},
    }
    with Relay(folder / "relay", module_upstream.url, change) as running:
        yield running


@pytest.mark.parametrize("signer", [SIGNER, ELLIPTIC], ids=lambda signer: signer.alg)
def test_a_good_token_is_served_and_named_by_its_claim_and_goes_no_further(signer: Signer, relay: Relay, upstream: Upstream) -> None:
    token = signer.token(claims(sub=f"user-{signer.alg}"))
    assert get(relay, b"/good", bearer(token)).status == 200
    assert upstream.heads[-1].get("authorization") is None
    assert relay.record(consumer=f"ci/user-{signer.alg}")["status"] == 200
    assert token.rpartition(".")[2].encode() not in relay.output()


FORGED: dict[str, Callable[[], str]] = {
    "of another key": lambda: Signer("RS256").token(claims()),
    "of another key of the same kid": lambda: Signer("ES256", kid="e1").token(claims()),
    "expired": lambda: SIGNER.token(claims(exp=int(time.time()) - 31)),
    "without exp": lambda: SIGNER.token(claims(exp=None)),
    "not valid yet": lambda: SIGNER.token(claims(nbf=int(time.time()) + 90)),
    "issued in the future": lambda: SIGNER.token(claims(iat=int(time.time()) + 90)),
    "of another issuer": lambda: SIGNER.token(claims(iss="https://issuer.example.evil")),
    "for another audience": lambda: SIGNER.token(claims(aud="billing")),
    "for no audience": lambda: SIGNER.token(claims(aud=None)),
    "without the claim of its name": lambda: SIGNER.token(claims(sub=None)),
    "with a name of control characters": lambda: SIGNER.token(claims(sub="a\r\nX-Evil: 1")),
    "unsigned": lambda: SIGNER.signed({"alg": "none", "kid": "k1"}, claims(), "none"),
    "unsigned in other letters": lambda: SIGNER.signed({"alg": "nOnE"}, claims(), "none"),
    "with the signature removed": lambda: SIGNER.token(claims()).rpartition(".")[0] + ".",
    "with the public key as a secret": lambda: Signer("HS256", secret=key_set(SIGNER, ELLIPTIC)).token(claims()),
    "with the public key's number as a secret": lambda: Signer("HS256", secret=SIGNER.jwk()["n"].encode()).token(claims()),
    "with an algorithm that is not permitted": lambda: SIGNER.signed({"alg": "RS512", "kid": "k1"}, claims(), "RS512"),
    "with the key of another algorithm": lambda: SIGNER.token(claims(), kid="e1"),
    "with its own key": lambda: (eve := Signer("RS256", kid="eve")).token(claims(), jwk=eve.jwk(), jku="http://127.0.0.1:1/"),
    "with crit": lambda: SIGNER.token(claims(), crit=["exp"], exp=1),
    "with an unencoded payload": lambda: SIGNER.token(claims(), b64=False, crit=["b64"]),
    "with changed claims": lambda: ".".join(
        [(parts := SIGNER.token(claims()).split("."))[0], b64(json.dumps(claims(sub="root")).encode()), parts[2]]),
    "with padding": lambda: SIGNER.token(claims()) + "==",
    "larger than 16 KiB": lambda: SIGNER.token(claims(x="x" * 12400)),
    "of odd bytes": lambda: "\xff\xfe.\xc0\x80.\x01",
    "of dots": lambda: "..",
    "of nothing": lambda: "e30.e30.",
    "of depth": lambda: f"{b64(json.dumps({'alg': 'RS256'}).encode())}.{b64(b'[' * 9000)}.AA",
    "of five parts": lambda: SIGNER.token(claims()) + ".a.b",
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_token_that_is_not_right_is_answered_401_and_reaches_no_upstream(kind: str, relay: Relay, upstream: Upstream) -> None:
    refused = get(relay, b"/forged", bearer(FORGED[kind]()))
    assert refused.status in (400, 401), kind  # 400: bytes that no field value can have
    assert not upstream.heads
    if refused.status == 401 and kind not in ("of five parts",):
        assert refused.get_all("www-authenticate") == [b'Bearer error="invalid_token"']


def test_the_log_says_why_a_token_was_refused_and_repeats_none_of_it(relay: Relay, upstream: Upstream) -> None:
    token = SIGNER.token(claims(exp=int(time.time()) - 31))
    get(relay, b"/why-expired", bearer(token))
    record = relay.record(path="/why-expired")
    assert record["detail"] == "the token has expired"
    assert not any(part.encode() in relay.output() for part in token.split("."))


def test_a_key_is_served_beside_a_token_that_is_refused(relay: Relay, upstream: Upstream) -> None:
    lines = bearer(Signer("RS256").token(claims())), b"X-Api-Key: team-key-0123456789"
    assert get(relay, b"/both", *lines).status == 200
    assert relay.record(path="/both")["consumer"] == "team"


def test_a_shared_secret_another_field_and_the_group_of_a_claim(relay: Relay, upstream: Upstream) -> None:
    partner = Signer("HS256", secret=SECRET.encode())

    def asked(**change: Any) -> int:
        return get(relay, b"/partner", b"X-Assertion: " + partner.token(claims(**{"iss": "partner", "aud": None, **change})).encode()).status

    assert asked(team="paying") == 200
    assert upstream.heads[-1].get("x-assertion") is None
    assert asked() == 401 and asked(team="unknown") == 401 and asked(team="paying", aud="x") == 401
    assert relay.record(detail="group unknown is not in the configuration")


def test_a_file_that_changes_is_read_again_without_a_reload(relay: Relay, upstream: Upstream) -> None:
    newer = Signer("RS256", kid="newer")
    file = Path(relay.folder).parent / "jwks.json"

    def put(data: bytes) -> None:
        """At once: a file that is half written would be a fault of its own."""
        beside = file.with_suffix(".new")
        beside.write_bytes(data)
        beside.replace(file)

    assert get(relay, b"/", bearer(newer.token(claims()))).status == 401
    put(key_set(newer))
    until(lambda: get(relay, b"/", bearer(newer.token(claims()))).status == 200)
    assert get(relay, b"/", bearer(SIGNER.token(claims()))).status == 401, "its key is gone"
    assert b"issuer_keys_failed" not in relay.output()
    put(b"half a do")
    until(lambda: b"issuer_keys_failed" in relay.output())
    assert get(relay, b"/", bearer(newer.token(claims()))).status == 200
    put(key_set(SIGNER, ELLIPTIC))
    until(lambda: get(relay, b"/", bearer(SIGNER.token(claims()))).status == 200)


# ---- a server with the keys


def with_issuer(folder: Path, server: Upstream, up: Upstream, state: Path | None = None, **jwks: Any) -> Relay:
    (folder / "team").write_text("team-key-0123456789")
    (folder / "team").chmod(0o600)
    change = {
        "consumers": {
            "team": {"key": {"file": str(folder / "team")}},
            "ci": issuer(jwks={"url": f"{server.url}/keys?tenant=7", "timeout": "60s", **jwks}),
        },
        "routes": [{"name": "all", "upstream": "up", "allow": ["team", "ci"]}],
        "daemon": {"failed_keys": 0},
    }
    return Relay(folder / "relay", up.url, change, environment={"STATE_DIRECTORY": str(state)} if state else None)


def status(relay: Relay, signer: Signer) -> int:
    return get(relay, b"/", bearer(signer.token(claims()))).status


def known(relay: Relay, signer: Signer) -> None:
    """Wait until the key has been read: a start does not wait for it longer than two seconds."""
    until(lambda: status(relay, signer) == 200, what="the first reading")


def test_keys_of_a_url_are_read_at_the_start(tmp_path: Path) -> None:
    with Upstream() as up, Upstream() as server:
        server.script = saying(answer(key_set(SIGNER)))
        with with_issuer(tmp_path, server, up) as relay:
            known(relay, SIGNER)  # tests/unit/daemon/test_key_sources.py has a start without a bound in time
            assert server.heads[0].target == b"/keys?tenant=7"
            assert b'relayd_access_issuer_keys_age_seconds{consumer="ci"}' in relay.admin("/metrics")[1]


def test_a_rotation_is_noticed_by_the_unknown_kid_once_a_minute(tmp_path: Path) -> None:
    newer, newest = Signer("RS256", kid="k2"), Signer("RS256", kid="k3")
    with Upstream() as up, Upstream() as server:
        server.script = saying(answer(key_set(SIGNER)))
        with with_issuer(tmp_path, server, up) as relay:
            known(relay, SIGNER)
            server.script = saying(answer(key_set(SIGNER, newer)))
            assert status(relay, newer) == 200, "the request waits for the reading"
            assert status(relay, SIGNER) == 200
            read = len(server.heads)
            server.script = saying(answer(key_set(newest)))
            assert all(status(relay, Signer("ES256", kid=f"made-up-{number}")) == 401 for number in range(30))
            assert status(relay, newest) == 401 and len(server.heads) == read == 2, "invented kids make no traffic"


def test_requests_with_a_new_kid_wait_for_one_reading_together(tmp_path: Path) -> None:
    newer, release = Signer("RS256", kid="k2"), threading.Event()

    def slow(peer: Peer, message: Message) -> None:
        release.wait(60)
        peer.send(answer(key_set(newer)))

    with Upstream() as up, Upstream() as server, ThreadPoolExecutor(5) as pool:
        server.script = saying(answer(key_set(SIGNER)))
        with with_issuer(tmp_path, server, up) as relay:
            known(relay, SIGNER)
            server.script = slow
            asking = [pool.submit(status, relay, newer) for _ in range(4)]
            until(lambda: len(server.heads) == 2)
            assert status(relay, SIGNER) == 200, "known tokens do not wait"
            until(lambda: [one["room"] for one in json.loads(relay.admin("/streams")[1])["streams"]] == ["authorise"] * 4)
            release.set()
            assert [one.result(30) for one in asking] == [200] * 4
            assert len(server.heads) == 2


def test_after_a_restart_tokens_are_verified_although_the_issuer_is_down(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with Upstream() as up:
        with Upstream() as server:
            server.script = saying(answer(key_set(SIGNER)))
            with with_issuer(tmp_path, server, up, state) as relay:
                known(relay, SIGNER)
                until(lambda: list(state.glob("issuer_keys/*.json")))
        with with_issuer(tmp_path, server, up, state) as relay:
            known(relay, SIGNER)
            assert status(relay, Signer("RS256", kid="k2")) == 401


def test_a_server_that_hangs_holds_nobody_back(tmp_path: Path) -> None:
    release = threading.Event()

    def hang(peer: Peer, message: Message) -> None:
        release.wait(60)
        peer.send(answer(key_set(SIGNER)))

    with Upstream() as up, Upstream() as server:
        server.script = hang
        with with_issuer(tmp_path, server, up) as relay:
            assert get(relay, b"/", b"Authorization: Bearer team-key-0123456789").status == 200
            waiting = get(relay, b"/", bearer(SIGNER.token(claims())))
            assert waiting.status == 503 and waiting.get("retry-after") == b"1"
            assert relay.record(code="keys_unavailable")
            release.set()
            until(lambda: status(relay, SIGNER) == 200)


LIES = {
    "an error": answer(b"no", status=b"500 Internal Server Error"), "a redirect": answer(b"", b"Location: http://127.0.0.1:1/", status=b"302 Found"),
    "a page": answer(b"<html>login</html>", b"Content-Type: text/html"), "no keys": answer(b'{"keys": []}'),
    "keys for other uses": answer(json.dumps({"keys": [SIGNER.jwk(use="enc")]}).encode()), "ten megabytes": answer(b" " * 10_000_000),
    "nothing": b"", "half an answer": answer(key_set(SIGNER))[:-9], "no HTTP": b"\x00\x01\x02\x03\r\n\r\n",
    "a weak key": answer(key_set(Signer("RS256", bits=1024))), "depth": answer(b"[" * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_answers_something_else_changes_nothing(lie: str, tmp_path: Path) -> None:
    """The keys in use stay; the next good answer counts."""
    newer = Signer("RS256", kid="k2")

    def lying(peer: Peer, message: Message) -> None:
        peer.whole(message)
        with contextlib.suppress(OSError):
            peer.send(LIES[lie])
        peer.close()

    with Upstream() as up, Upstream() as server:
        server.script = saying(answer(key_set(SIGNER)))
        with with_issuer(tmp_path, server, up) as relay:
            known(relay, SIGNER)
            server.script = lying
            assert status(relay, newer) == 401
            until(lambda: b"issuer_keys_failed" in relay.output())
            assert status(relay, SIGNER) == 200 and b"tenant=7" not in relay.output()
            server.script = saying(answer(key_set(newer)))
            until(lambda: status(relay, newer) == 200, what="the retry after a fault")
            until(lambda: b"issuer_keys_recovered" in relay.output())
            assert status(relay, SIGNER) == 401


def test_a_reload_keeps_the_keys_of_an_unchanged_url_and_a_server_that_is_gone_locks_nobody_out(tmp_path: Path) -> None:
    with Upstream() as up:
        with Upstream() as server:
            server.script = saying(answer(key_set(SIGNER)))
            relay = with_issuer(tmp_path, server, up)
            relay.start()
        try:
            known(relay, SIGNER)
            relay.write({"consumers": {"more": {"addresses": ["192.0.2.9"]}}})
            code, body = relay.admin("/reload", "POST")
            assert code == 200, body
            assert status(relay, SIGNER) == 200 and len(server.heads) == 1
        finally:
            assert relay.stop() == 0


def test_an_https_server_is_verified(tmp_path: Path) -> None:
    authority = made(tmp_path, "authority", authority=True)
    pair = made(tmp_path, "issuer", "127.0.0.1", issuer=authority)
    with Upstream() as up, Upstream(tls=pair.serving()) as server:
        server.script = saying(answer(key_set(SIGNER)))
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        with with_issuer(tmp_path / "a", server, up, ca=authority.cert) as relay:
            known(relay, SIGNER)
        with with_issuer(tmp_path / "b", server, up) as relay:
            until(lambda: b"tls_failed" in relay.output())
            assert status(relay, SIGNER) == 503


def check(relay: Relay) -> str:
    done = subprocess.run([sys.executable, "-m", "relayd", "check", "-c", str(relay.file)], capture_output=True, text=True, cwd=ROOT, timeout=60)
    return f"{done.returncode} {done.stdout}{done.stderr}"


@pytest.mark.parametrize(("entry", "key", "fault"), [
    ({"jwks": {"file": "/nowhere/jwks.json"}}, "jwt.jwks.file", "cannot be read: No such file or directory"),
    ({"jwks": {"url": "ftp://issuer.example/"}}, "jwt.jwks.url", "must begin with http"),
    ({"jwks": {"url": "https://issuer.example/"}, "algorithms": ["none"]}, "jwt.algorithms[0]", "none"),
    ({"jwks": {"url": "https://issuer.example/"}, "algorithms": ["HS256"]}, "jwt.algorithms[0]", "no URL may publish"),
    ({"jwks": {"url": "https://issuer.example/"}, "leeway": "1h"}, "jwt.leeway", "at most 10m"),
    ({}, "jwt", "needs exactly one of jwks and secret"),
])
def test_bad_configuration_is_a_fault_with_its_place(entry: dict[str, Any], key: str, fault: str, tmp_path: Path) -> None:
    relay = Relay(tmp_path, "http://127.0.0.1:1", {"consumers": {"ci": issuer(**entry)}, "routes": [{"name": "all", "upstream": "up", "allow": ["ci"]}]})
    relay.write()
    said = check(relay)
    (line,) = [line for line in said.splitlines() if f"consumers.ci.{key}:" in line]
    place = line.partition(": ")[0].removeprefix("78 ").rsplit(":", 2)
    assert place[0].endswith("relayd.yaml") and int(place[1]) > 1 and int(place[2]) > 1 and fault in line and said.startswith("78"), said


def test_explain_verifies_a_token_and_shows_none(relay: Relay, upstream: Upstream) -> None:
    token = SIGNER.token(claims())
    done = subprocess.run(
        [sys.executable, "-m", "relayd", "explain", "-c", str(relay.file), "GET", "http://h.test/", "-H", f"Authorization: Bearer {token}"],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
    )
    assert done.returncode == 0 and "ci/ann" in done.stdout, done.stdout + done.stderr
    assert token.rpartition(".")[2] not in done.stdout + done.stderr
