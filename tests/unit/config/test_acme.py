"""`tls.acme:` names that cannot work are refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.config.acme import directory_fault, domain_fault, program_fault
from relayd.config.load import load_text
from relayd.errors import ConfigError
from tests.unit.config.section_case import faults

LISTENERS = "{{web: {{address: '0.0.0.0:443', tls: {{acme: {{{0}}}}}}}, plain: {{address: '0.0.0.0:80'}}}}"


def found(text: str) -> dict[str, str]:
    return {path.removeprefix("listeners.web.tls.acme."): fault for path, fault in faults(listeners=LISTENERS.format(text)).items()}


@pytest.mark.parametrize(("name", "reason"), [
    ("localhost", "localhost"), ("a.localhost", "localhost"), ("127.0.0.1", "IP address"), ("::1", "IP address"), ("[::1]", "IP address"),
    ("intranet", "no dot"), ("a.local", "private"), ("x.internal", "private"), ("ai.example.org.", "dot at its end"),
    ("a.*.example.org", "wildcard"), ("**.example.org", "wildcard"), ("-a.example.org", "valid"), ("a_b.example.org", "valid"),
    ("a..org", "valid"), ("https://ai.example.org", "scheme"), ("ai.example.org:443", "port"), ("münchen.example", "xn--"), ("a" * 64 + ".org", "valid"),
    ("1.2.3.4.5", "valid"), ("", "valid"),
])
def test_a_name_that_no_authority_certifies_is_refused(name: str, reason: str) -> None:
    assert reason in domain_fault(name)


@pytest.mark.parametrize("name", ["ai.example.org", "*.ai.example.org", "AI.Example.ORG", "xn--mnchen-3ya.example", "a-b.example"])
def test_other_names_are_accepted(name: str) -> None:
    assert domain_fault(name) == ""


def test_a_private_name_is_accepted_with_an_authority_of_ones_own() -> None:
    assert domain_fault("ai.internal", public=False) == ""
    assert domain_fault("localhost", public=False)


@pytest.mark.parametrize("url", ["http://a/dir", "a/dir", "https://", "https://a b/", "https://[::1/", "https://u:p@a/dir", "https://a:99999/"])
def test_a_directory_needs_https(url: str) -> None:
    assert directory_fault(url)


def test_faults_name_their_key(tmp_path: Path) -> None:
    assert "domains" in found("domains: []") and "domains" in found("email: a@b.example")
    assert "dns_hook" in found("domains: ['*.example.org']")["domains[0]"]
    assert "twice" in found("domains: [a.example, A.example]")["domains[1]"]
    assert "dns_hook" in found("domains: [a.example], challenges: [dns-01]")["challenges"]
    assert "challenges" in found("domains: [a.example], challenges: []")
    assert "email" in found("domains: [a.example], email: 'a b@c'")
    assert "directory" in found("domains: [a.example], directory: 'http://a/'")
    assert "directory[1]" in found("domains: [a.example], directory: ['https://a/', 'ftp://b/']")
    assert "directory" in found("domains: [a.example], directory: []")
    assert "directory_ca" in found("domains: [a.example], directory_ca: /nonexistent")
    assert "cannot be run" in found(f"domains: ['*.a.example'], dns_hook: [{tmp_path}]")["dns_hook"]


def test_a_hook_is_a_program(tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text("#!/bin/sh\n")
    assert "absolute" in program_fault("hook") and "not exist" in program_fault(str(tmp_path / "other"))
    assert "by this user" in program_fault(str(hook))
    hook.chmod(0o755)
    assert program_fault(str(hook)) == ""


def test_the_words_of_the_issue_are_accepted(tmp_path: Path) -> None:
    hook, ca = tmp_path / "hook", tmp_path / "ca.pem"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    ca.write_text("x")
    config = load_text(f"""
listeners:
  web:
    address: "0.0.0.0:443"
    tls: {{acme: {{domains: [ai.example.org, "*.ai.example.org"], email: ops@example.org, directory: "https://127.0.0.1:14000/dir", directory_ca: {ca},
                 challenges: [http-01, tls-alpn-01, dns-01], dns_hook: [{hook}]}}}}
  plain: {{address: "0.0.0.0:80", https_redirect: true}}
routes: [{{name: all, respond: {{body: x}}}}]
""", "c").config
    tls = config.listeners["web"].tls
    assert tls is not None and tls.acme is not None and tls.acme.directory == ("https://127.0.0.1:14000/dir",)
    assert tls.acme.kinds_for("*.ai.example.org") == ("dns-01",)


def test_the_hmac_of_a_binding_is_a_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"write \{file"):
        load_text(f"listeners: {LISTENERS.format('domains: [a.example], eab: {kid: k, hmac: abc}')}\nroutes: []", "c")
