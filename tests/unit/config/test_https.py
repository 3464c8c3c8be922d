"""Rules that concern several listeners: challenges that reach relayd, and redirects to HTTPS."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.config.acme import Acme
from relayd.config.https import challenge_kinds, faults, redirect_port
from relayd.config.listener import Listener, Tls
from relayd.config.load import load_text
from relayd.errors import ConfigError

ACME = "tls: {acme: {domains: [a.example], email: a@b.example}}"


def warned(listeners: str) -> list[str]:
    loaded = load_text(f"listeners: {listeners}\nroutes: [{{name: all, respond: {{body: x}}}}]", "c")
    return [f"{one.path}: {one.message}" for one in loaded.warnings]


@pytest.mark.parametrize(("listeners", "words"), [
    (f"{{a: {{address: '[::]:443', {ACME}}}, b: {{address: '[::]:80'}}}}", []),
    (f"{{a: {{address: '[::]:443', {ACME}}}}}", []),  # tls-alpn-01 is enough
    (f"{{a: {{address: '[::]:8443', {ACME}}}, b: {{address: '[::]:80'}}}}", []),
    (f"{{a: {{address: 'systemd:web', {ACME}}}}}", []),
    (f"{{a: {{address: '[::]:8443', {ACME}}}}}", ["port 80", "port 443"]),
    ("{a: {address: '[::]:443', tls: {acme: {domains: [a.example], email: a@b.example, challenges: [http-01]}}}}", ["port 80"]),
    ("{a: {address: '[::]:8443', tls: {acme: {domains: [a.example], challenges: [tls-alpn-01]}}}}", ["email", "port 443"]),
    ("{b: {address: '[::]:80', https_redirect: true}}", ["no listener has tls"]),
])
def test_challenges_that_may_not_arrive_are_warned_of(listeners: str, words: list[str]) -> None:
    found = sorted(warned(listeners))
    assert len(found) == len(words) and all(any(word in one for one in found) for word in words), found


def listening(address: str, *domains: str, **section: object) -> Listener:
    acme = Acme(domains=domains, **section) if domains else None  # type: ignore[arg-type]
    return Listener(address=address, tls=None if acme is None else Tls(acme=acme))


def test_challenges_that_reach_relayd_are_tried_first() -> None:
    one = listening("[::]:443", "a.example", "*.b.example")
    assert challenge_kinds("a", "a.example", {"a": one, "b": listening("[::]:80")}) == ("http-01", "tls-alpn-01")
    assert challenge_kinds("a", "a.example", {"a": one, "b": listening("[::]:8080")}) == ("tls-alpn-01", "http-01")
    assert challenge_kinds("a", "a.example", {"a": one}) == ("tls-alpn-01",)
    assert challenge_kinds("a", "*.b.example", {"a": one}) == ("dns-01",)
    only = listening("[::]:443", "a.example", challenges=("http-01",))
    assert challenge_kinds("a", "a.example", {"a": only}) == ("http-01",)


def test_two_listeners_share_a_name_only_with_the_same_settings() -> None:
    one, two = listening("[::]:443", "a.example"), listening("[::]:444", "A.example", key_type="rsa")
    assert [path for path, _ in faults({"a": one, "b": two})] == ["listeners.b.tls.acme.domains[0]"]
    assert not list(faults({"a": one, "b": listening("[::]:444", "a.example")}))


@pytest.mark.parametrize(("addresses", "port"), [
    (["[::]:8443", "[::]:443"], 443), (["[::]:8443"], 8443), (["unix:/run/x"], 443), (["systemd:web"], 443), ([], 443), (["[::]:0"], 443),
])
def test_a_redirect_leads_to_the_port_of_tls(addresses: list[str], port: int) -> None:
    assert redirect_port({str(number): listening(address, "a.example") for number, address in enumerate(addresses)}) == port


def test_machines_that_share_a_store_need_a_key_to_share_certificates(tmp_path: Path) -> None:
    (file := tmp_path / "key").write_text("k" * 40)
    file.chmod(0o600)

    def text(kind: str, *keys: str) -> str:
        found = [f"l{number}: {{address: '[::]:{number + 1}', tls: {{acme: {{domains: [{number}.example.org], email: a@b.example, dns_hook: [/bin/true], challenges: [dns-01]{key}}}}}}}"
                 for number, key in enumerate(keys)]
        return f"listeners: {{{', '.join(found)}}}\nstore: {kind}\nroutes: [{{name: all, respond: {{body: x}}}}]"

    def warnings(text: str) -> list[str]:
        return [one.message for one in load_text(text, "c").warnings]

    key = f", sharing_key: {{file: {file}}}"
    assert not warnings(text("redis", key, key)) and not warnings(text("memory", ""))
    assert "each orders for itself" in warnings(text("redis", ""))[0]
    assert "needs store: {kind: redis}" in warnings(text("sqlite", key))[0]
    with pytest.raises(ConfigError, match=r"must be the same in listeners\.l0"):
        load_text(text("redis", key, ""), "c")
    file.write_text("k" * 31)
    with pytest.raises(ConfigError, match=r"less than 32 characters.*openssl rand") as refused:
        load_text(text("redis", key), "c")
    assert "kkk" not in str(refused.value)


def test_a_redirect_is_for_listeners_without_tls() -> None:
    with pytest.raises(Exception, match="without tls"):
        warned(f"{{a: {{address: '[::]:443', https_redirect: true, {ACME}}}}}")
