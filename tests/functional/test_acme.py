"""Certificates by ACME: a real relayd, and a real directory (pebble) that validates it."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.aids.acme_proxy import RENEWAL_INFO, AcmeProxy
from tests.aids.certificates import made
from tests.aids.pebble import Pebble, needs_pebble
from tests.aids.ports import free_port
from tests.functional.harness.client import Client
from tests.functional.harness.message import request
from tests.functional.harness.relay import ROOT, Relay, get
from tests.functional.test_listeners import make_certificate

pytest.importorskip("acme", reason="needs python3-acme")
pytestmark = needs_pebble()
OK = {"routes": [{"name": "all", "match": {"prefix": "/"}, "respond": {"body": "ok"}}], "upstreams": None}
WAIT_S = 90.0


def until(probe: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
    """The first true result of a probe."""
    end = time.monotonic() + timeout_s
    while not (found := probe()):
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.05)
    return found


def relay(folder: Path, pebble: Pebble, acme: dict[str, Any], **change: Any) -> Relay:
    """A relayd that serves `pebble`'s ports with certificates from it."""
    listeners = {
        "public": {"address": f"127.0.0.1:{pebble.http_port}", **change.pop("plain", {})},
        "tls": {"address": f"127.0.0.1:{pebble.tls_port}", "tls": {"acme": acme}},
    }
    state = folder / "state"
    state.mkdir(parents=True, exist_ok=True)
    one = Relay(folder, "http://127.0.0.1:1", {**OK, "listeners": listeners, **change}, environment={"STATE_DIRECTORY": str(state)})
    one.address = ("127.0.0.1", pebble.http_port)
    return one


def presented(pebble: Pebble, name: str) -> dict[str, Any]:
    """The certificate that relayd presents for a name, verified; empty if the handshake fails."""
    context = ssl.create_default_context(cafile=str(pebble.roots()))
    try:
        with Client(("127.0.0.1", pebble.tls_port), tls=context, server_name=name) as client:
            assert isinstance(client.sock, ssl.SSLSocket)
            return dict(client.sock.getpeercert() or {})
    except (ssl.SSLError, ConnectionError):
        return {}


def certificate(one: Relay, domain: str) -> dict[str, Any]:
    """The entry of a domain in /status."""
    return next(dict(entry) for entry in one.status()["certificates"] if entry.get("domain") == domain)


def is_obtained(one: Relay, domain: str) -> bool:
    return bool(certificate(one, domain)["expires_at"])


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    with Pebble(tmp_path_factory.mktemp("pebble")) as running:
        yield running


def test_a_listener_gets_its_certificate_by_http_01(folder: Path, pebble: Pebble) -> None:
    with relay(folder, pebble, pebble.section("ai.example.org", challenges=["http-01"])) as one:
        until(lambda: presented(pebble, "ai.example.org"))
        result = subprocess.run(
            ["curl", "-sS", "--cacert", str(pebble.roots()), "--resolve", f"ai.example.org:{pebble.tls_port}:127.0.0.1",
             f"https://ai.example.org:{pebble.tls_port}/x"], capture_output=True, text=True, timeout=60, check=False,
        )
        assert (result.returncode, result.stdout) == (0, "ok"), result.stderr
        entry = certificate(one, "ai.example.org")
        assert entry["warning"] == "" and entry["expires_at"] > entry["renew_at"] > time.time()
        file = Path(entry["file"])
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert not list((folder / "state/acme/challenges/http-01").iterdir())
        assert get(one.address, b"/.well-known/acme-challenge/foreign") == 200  # the route's answer


def test_tls_alpn_01_needs_no_plain_listener(folder: Path, pebble: Pebble) -> None:
    acme = pebble.section("alpn.example.org", challenges=["tls-alpn-01"], key_type="rsa")
    with relay(folder, pebble, acme) as one:
        assert presented(pebble, "alpn.example.org").get("subjectAltName") or until(lambda: presented(pebble, "alpn.example.org"))
        text = Path(certificate(one, "alpn.example.org")["file"]).read_text()
        shown = subprocess.run(["openssl", "x509", "-noout", "-text"], input=text, capture_output=True, text=True, check=True).stdout
        assert "rsaEncryption" in shown and "2048 bit" in shown


def test_a_wildcard_is_proven_by_the_dns_hook_and_names_are_chosen_by_sni(folder: Path, pebble: Pebble) -> None:
    acme = pebble.section("dns.example.org", "*.dns.example.org", challenges=["http-01", "dns-01"], dns_hook=pebble.dns_hook())
    with relay(folder, pebble, acme):
        until(lambda: presented(pebble, "a.dns.example.org"))
        until(lambda: presented(pebble, "dns.example.org"))
        assert presented(pebble, "a.dns.example.org")["subjectAltName"] == (("DNS", "*.dns.example.org"),)
        assert presented(pebble, "dns.example.org")["subjectAltName"] == (("DNS", "dns.example.org"),)
    calls = [line.split() for line in (pebble.folder / "hook.log").read_text().splitlines()]
    assert [(call[0], call[1], call[3]) for call in calls] == [
        ("set", "_acme-challenge.dns.example.org", "dns.example.org"), ("delete", "_acme-challenge.dns.example.org", "dns.example.org")]
    assert calls[0][2] == calls[0][4] == calls[1][2]


def test_until_there_is_a_certificate_handshakes_are_refused_and_plain_http_redirects(folder: Path, pebble: Pebble) -> None:
    """The authority cannot be reached: the listeners serve all the same."""
    acme = pebble.section("later.example.org") | {"directory": "https://127.0.0.1:1/dir"}
    with relay(folder, pebble, acme, plain={"https_redirect": True}) as one:
        entry = until(lambda: (found := certificate(one, "later.example.org"))["failures"] and found)
        assert entry["urgency"] == "error" and "127.0.0.1" in entry["warning"]
        context = ssl.create_default_context()
        with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
            Client(("127.0.0.1", pebble.tls_port), tls=context, server_name="later.example.org")
        with one.client() as client:
            answer = client.ask(request(b"/a/b?c=%2F", b"Content-Length: 0", method=b"POST", host=b"later.example.org:80"))
            assert answer.status == 308
            assert answer.get("location") == b"https://later.example.org:%d/a/b?c=%%2F" % pebble.tls_port
            assert client.ask(request(b"/.well-known/acme-challenge/foreign")).status == 308


def test_a_restart_orders_nothing_again(folder: Path, pebble: Pebble) -> None:
    acme = pebble.section("restart.example.org")
    with relay(folder, pebble, acme) as one:
        until(lambda: presented(pebble, "restart.example.org"))
        before = certificate(one, "restart.example.org")
    orders = pebble.orders()
    with relay(folder, pebble, acme) as one:
        assert presented(pebble, "restart.example.org"), "it is there from the first moment"
        after = until(lambda: (found := certificate(one, "restart.example.org"))["expires_at"] and found)
        assert after == before | {"left_s": after["left_s"]}
    assert pebble.orders() == orders


def test_two_instances_order_once(folder: Path, pebble: Pebble) -> None:
    """They share state and ports; the second finds the certificate of the first."""
    acme = pebble.section("shared.example.org", challenges=["http-01"])
    orders, shared = pebble.orders(), {"reuse_port": True}
    first = relay(folder / "a", pebble, acme, plain=shared)
    second = relay(folder / "b", pebble, acme, plain=shared)
    second.environment = first.environment
    for one in (first, second):
        one.config["listeners"]["tls"]["reuse_port"] = True
    with first, second:
        for one in (first, second):
            until(partial(is_obtained, one, "shared.example.org"))
        for _ in range(8):  # the kernel spreads connections over both
            until(lambda: presented(pebble, "shared.example.org"))
    assert pebble.orders() == orders + 1


def test_a_name_that_the_authority_refuses_is_reported_and_the_pause_outlives_a_restart(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with Pebble(tmp_path_factory.mktemp("blocking"), blocked=("blocked.example.org",)) as blocking:
        acme = blocking.section("blocked.example.org", challenges=["http-01"])
        with relay(folder, blocking, acme) as one:
            first = until(lambda: (found := certificate(one, "blocked.example.org"))["failures"] == 1 and found)
            assert "rejectedIdentifier" in first["warning"] and first["next_try"] > time.time() + 50
            assert b"certificate_failed" in one.output()
        orders = blocking.orders()
        with relay(folder, blocking, acme) as one:
            again = until(lambda: (found := certificate(one, "blocked.example.org"))["failures"] and found)
            assert again["next_try"] == first["next_try"] and again["failures"] == 1
        assert blocking.orders() == orders


def test_a_failed_validation_is_reported_with_its_reason(folder: Path, pebble: Pebble) -> None:
    pebble.tell_dns("set-servfail", host="lost.example.org")
    with relay(folder, pebble, pebble.section("lost.example.org", challenges=["http-01"])) as one:
        entry = until(lambda: (found := certificate(one, "lost.example.org"))["failures"] == 1 and found)
        assert "could not verify lost.example.org" in entry["warning"]
        assert not list((folder / "state/acme/challenges/http-01").iterdir())


def test_the_next_directory_is_tried_and_rejected_nonces_are_repeated(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with Pebble(tmp_path_factory.mktemp("nonces"), nonce_reject=40) as rejecting:
        acme = rejecting.section("next.example.org", challenges=["http-01"])
        acme["directory"] = ["https://127.0.0.1:1/dir", rejecting.directory]
        with relay(folder, rejecting, acme) as one:
            until(lambda: presented(rejecting, "next.example.org"))
            assert certificate(one, "next.example.org")["directory"] == rejecting.directory


def test_an_external_account_is_bound(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
    (secret := folder / "hmac").write_text(key)
    secret.chmod(0o600)
    with Pebble(tmp_path_factory.mktemp("eab"), eab={"kid-1": key}) as bound:
        acme = bound.section("eab.example.org", challenges=["http-01"], eab={"kid": "kid-1", "hmac": {"file": str(secret)}})
        with relay(folder, bound, acme) as one:
            until(lambda: presented(bound, "eab.example.org"))
            assert key.encode() not in one.output()


def test_a_short_certificate_is_renewed_without_a_failed_handshake(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with Pebble(tmp_path_factory.mktemp("short"), validity_s=30) as short:
        with relay(folder, short, short.section("short.example.org")) as one:
            serials = [until(lambda: presented(short, "short.example.org"))["serialNumber"]]

            def is_renewed() -> bool:
                serials.append(presented(short, "short.example.org").get("serialNumber"))
                return bool(serials[-1] != serials[0])

            until(is_renewed)
            assert serials[-1], "a handshake failed"
            assert certificate(one, "short.example.org")["warning"] == ""


def test_damaged_state_is_set_aside_and_the_certificate_issued_again(folder: Path, pebble: Pebble) -> None:
    acme = pebble.section("damaged.example.org")
    with relay(folder, pebble, acme):
        until(lambda: presented(pebble, "damaged.example.org"))
    files = folder / "state/acme/certificates"
    for name in ("damaged.example.org.pem", "damaged.example.org.json"):
        (files / name).write_bytes(b"\x00 damaged")
    for account in (folder / "state/acme/accounts").iterdir():
        account.write_text("{")
    with relay(folder, pebble, acme):
        until(lambda: presented(pebble, "damaged.example.org"))
    assert (files / "damaged.example.org.pem.corrupt").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount a file system")
def test_a_full_disk_orders_nothing_and_the_certificate_in_use_stays(folder: Path, pebble: Pebble) -> None:
    state = folder / "state"
    state.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(state)], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    try:
        with relay(folder, pebble, pebble.section("full.example.org")) as one:
            until(lambda: presented(pebble, "full.example.org"))
            with open(state / "filler", "wb", buffering=0) as filler, pytest.raises(OSError):
                while True:
                    filler.write(bytes(4096))
            orders = pebble.orders()
            status, _ = one.admin("/certs/full.example.org/renew", "POST")
            assert status == 200
            entry = until(lambda: (found := certificate(one, "full.example.org"))["urgency"] and found)
            assert "No space left" in entry["warning"]
            assert entry["expires_at"] > time.time()
            assert presented(pebble, "full.example.org") and pebble.orders() == orders
            (state / "filler").unlink()
            until(lambda: one.admin("/certs/full.example.org/renew", "POST")[0] == 200 and pebble.orders() > orders)
            until(lambda: not certificate(one, "full.example.org")["warning"])
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def test_certs_lists_renews_exports_and_imports(folder: Path, pebble: Pebble) -> None:
    def certs(one: Relay, *words: str) -> subprocess.CompletedProcess[str]:
        options = ["--state", str(one.folder / "state")] if words[0] in ("export", "import") else ["--socket", one.admin_path]
        return subprocess.run([sys.executable, "-m", "relayd", "certs", *words, *options], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)

    acme, archive = pebble.section("kept.example.org"), folder / "backup.tar.gz"
    with relay(folder / "a", pebble, acme) as one:
        first = until(lambda: presented(pebble, "kept.example.org"))
        until(lambda: "kept.example.org  tls" in certs(one, "list").stdout)
        done = certs(one, "renew", "kept.example.org")
        assert (done.returncode, done.stderr) == (0, "") and "kept.example.org: renewed" in done.stdout
        second = until(lambda: (found := presented(pebble, "kept.example.org"))["serialNumber"] != first["serialNumber"] and found)
        assert certs(one, "renew", "other.example.org").returncode == 1
        done = certs(one, "export", str(archive))
        assert done.returncode == 0 and "private keys" in done.stderr and archive.stat().st_mode & 0o777 == 0o600
        assert certs(one, "export", str(archive)).returncode == 1, "an existing file is not replaced"
    orders = pebble.orders()
    other = relay(folder / "b", pebble, acme)
    done = certs(other, "import", str(archive))
    assert (done.returncode, done.stdout) == (0, "kept.example.org: restored\n"), done.stderr
    with other:
        assert presented(pebble, "kept.example.org")["serialNumber"] == second["serialNumber"]
    assert pebble.orders() == orders
    assert certs(other, "import", str(other.file)).returncode == 1


def test_changed_certificate_files_come_into_use_and_broken_ones_do_not(folder: Path) -> None:
    """certbot's layout: live/NAME holds links, which a renewal replaces."""
    port, live = free_port(), folder / "live/files.example.org"
    live.mkdir(parents=True)

    def renewed(number: int) -> ssl.SSLContext:
        for name in ("fullchain", "privkey"):
            (folder / f"{name}.link").symlink_to(folder / f"archive/{name}{number}.pem")
            (folder / f"{name}.link").replace(live / f"{name}.pem")
        return ssl.create_default_context(cafile=str(live / "fullchain.pem"))

    (folder / "archive").mkdir()
    for number in (1, 2):
        cert, key = make_certificate(folder, "files.example.org")
        Path(cert).replace(folder / f"archive/fullchain{number}.pem")
        Path(key).replace(folder / f"archive/privkey{number}.pem")
    trusted = renewed(1)
    certificates = [{"cert": str(live / "fullchain.pem"), "key": str(live / "privkey.pem")}]
    listeners = {"tls": {"address": f"127.0.0.1:{port}", "tls": {"certificates": certificates}}}

    def is_served(context: ssl.SSLContext) -> bool:
        try:
            Client(("127.0.0.1", port), tls=context, server_name="files.example.org").close()
            return True
        except ssl.SSLError:
            return False

    with Relay(folder, "http://127.0.0.1:1", {**OK, "listeners": listeners}) as one:
        assert is_served(trusted)
        again = renewed(2)
        until(lambda: is_served(again))
        assert not is_served(trusted)
        (live / "privkey.pem").unlink()
        (live / "privkey.pem").write_text("-----BEGIN PRIVATE KEY-----\nbroken")
        until(lambda: b"certificate_refused" in one.output())
        assert is_served(again)


def test_a_rate_limit_is_obeyed_over_restarts_and_by_the_command(folder: Path, pebble: Pebble) -> None:
    with AcmeProxy(pebble) as proxy:
        acme = pebble.section("limited.example.org") | {"directory": proxy.directory}
        proxy.limited = {"/order-plz": "7200"}
        with relay(folder, pebble, acme) as one:
            entry = until(lambda: (found := certificate(one, "limited.example.org"))["failures"] == 1 and found)
            assert "rateLimited" in entry["warning"] and entry["next_try"] > time.time() + 7000
            asked = len(proxy.asked)
            assert one.admin("/certs/limited.example.org/renew", "POST")[0] == 200
            entry = until(lambda: (found := certificate(one, "limited.example.org"))["failures"] == 2 and found)
            assert "asked for a pause" in entry["warning"] and entry["next_try"] > time.time() + 7000
        with relay(folder, pebble, acme) as one:
            assert until(lambda: (found := certificate(one, "limited.example.org"))["failures"] and found)["failures"] == 2
        assert len(proxy.asked) == asked
        assert proxy.count("/sign-me-up") == 1, "one account"


def test_a_directory_that_hangs_delays_neither_requests_nor_the_stop(folder: Path, pebble: Pebble) -> None:
    with AcmeProxy(pebble) as proxy:
        proxy.silent = ("/dir",)
        acme = pebble.section("hanging.example.org", challenges=["http-01"]) | {"directory": proxy.directory}
        with relay(folder, pebble, acme) as one:
            until(lambda: proxy.asked)
            assert get(one.address) == 200
            entry = until(lambda: (found := certificate(one, "hanging.example.org"))["failures"] == 1 and not found["trying"] and found)
            assert "did not respond within 20 s" in entry["warning"]
            asked = len(proxy.asked)
            assert one.admin("/certs/renew", "POST")[0] == 200
            until(lambda: len(proxy.asked) > asked)
            begun = time.monotonic()
            one.stop()
            assert time.monotonic() - begun < 10


def test_on_the_day_before_the_expiry_the_warnings_are_loud_and_the_old_certificate_is_served(folder: Path, pebble: Pebble) -> None:
    """The certificate of an earlier day, whose renewals have failed since; then the directory answers again."""
    old = made(folder, "old", "lastday.example.org", begins_d=-89, ends_d=1)
    trusted = ssl.create_default_context(cafile=old.cert)

    def old_is_served() -> bool:
        try:
            Client(("127.0.0.1", pebble.tls_port), tls=trusted, server_name="lastday.example.org").close()
            return True
        except ssl.SSLError:
            return False

    with AcmeProxy(pebble) as proxy:
        proxy.limited = {"/dir": "0"}
        acme = pebble.section("lastday.example.org", challenges=["http-01"]) | {"directory": proxy.directory}
        one = relay(folder, pebble, acme)
        stored = folder / "state/acme/certificates/lastday.example.org.pem"
        stored.parent.mkdir(parents=True)
        stored.write_text(Path(old.key).read_text() + Path(old.cert).read_text())
        with one:
            entry = until(lambda: (found := certificate(one, "lastday.example.org"))["failures"] and found)
            assert entry["urgency"] == "error" and 0 < entry["left_s"] < 86400 and old_is_served()
            assert b"certificate_failed" in one.output() and b"the certificate in use ends in 23 hours" in one.output()
            words = (sys.executable, "-m", "relayd", "doctor", "-c", str(one.file), "--json")
            done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
            found = [finding for check in json.loads(done.stdout)["checks"] for finding in check["findings"]]
            assert any(
                (finding["level"], finding["subject"]) == ("failure", "certificate of lastday.example.org")
                and "the certificate in use ends in 23 hours" in finding["cause"] and "relayd certs renew" in finding["cure"]
                for finding in found
            ), done.stdout
            proxy.limited = {}
            assert one.admin("/certs/lastday.example.org/renew", "POST")[0] == 200
            until(lambda: presented(pebble, "lastday.example.org"))
            until(lambda: not certificate(one, "lastday.example.org")["warning"])
            assert not old_is_served()


def test_a_certificate_is_renewed_when_the_authority_suggests_it(folder: Path, pebble: Pebble) -> None:
    past, future = ("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z"), ("2027-06-01T00:00:00Z", "2027-06-02T00:00:00.5+00:00")
    with AcmeProxy(pebble) as proxy:
        proxy.windows = [past, future]
        acme = pebble.section("suggested.example.org", challenges=["http-01"]) | {"directory": proxy.directory}
        with relay(folder, pebble, acme) as one:
            entry = until(lambda: (found := certificate(one, "suggested.example.org"))["suggested"] and found["renew_at"] > time.time() and found)
            assert time.strftime("%Y-%m-%d", time.gmtime(entry["renew_at"])) == "2027-06-01"
            assert proxy.count("/order-plz") == 2
            first, second = proxy.orders
            assert "replaces" not in first and f"{RENEWAL_INFO}/{second['replaces']}" in proxy.asked, "the certificate in use (RFC 9773 5)"
            shown = subprocess.run(["openssl", "x509", "-in", entry["file"], "-noout", "-serial", "-ext", "authorityKeyIdentifier"],
                                   capture_output=True, text=True, check=True).stdout
        serial = bytes.fromhex(shown.partition("serial=")[2].split()[0])
        authority, _, number = proxy.asked[-1].rpartition("/")[2].partition(".")
        assert base64.urlsafe_b64decode(number + "==").lstrip(b"\0") == serial.lstrip(b"\0")
        key = base64.urlsafe_b64decode(authority + "==").hex(":").upper()
        assert key in shown
