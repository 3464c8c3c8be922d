"""Certificates from a real ACME directory in a booted system: ports 80 and 443, the sandbox of the unit, Debian's python3-acme."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.aids.pebble import Pebble, needs_pebble
from tests.packaging.conftest import Testbed, until

pytestmark = [pytest.mark.packaging, needs_pebble()]
NAME = "ai.example.org"
SITE = f"https://{NAME}/x"


@pytest.fixture(scope="module")
def pebble(system: Testbed) -> Iterator[Pebble]:
    """A directory on the system's network; Debian's own dig and curl are not needed there."""
    with tempfile.TemporaryDirectory() as folder, Pebble(Path(folder), prefix=(*system.words, "netexec")) as running:
        until(lambda: system.call("netexec", "curl", "-sS", "--cacert", str(running.ca), running.directory).returncode == 0)
        system.run("push", str(running.ca), "/etc/relayd/acme-ca.pem")
        system.sh("chgrp relayd /etc/relayd/acme-ca.pem; chmod 0640 /etc/relayd/acme-ca.pem")
        hook = "#!/bin/sh\\necho \"$1 $2\" >>/var/lib/relayd/hook.log\\nexit 1\\n"
        system.sh(f"printf '{hook}' >/usr/local/sbin/dns-hook; chmod 0755 /usr/local/sbin/dns-hook")
        yield running


def configuration(pebble: Pebble, *challenges: str) -> str:
    acme = f"domains: [{NAME}, '*.{NAME}'], email: ops@example.org, directory: '{pebble.directory}', directory_ca: /etc/relayd/acme-ca.pem"
    return f"""listeners:
  web: {{address: "0.0.0.0:443", tls: {{acme: {{{acme}, challenges: [{', '.join(challenges)}], dns_hook: [/usr/local/sbin/dns-hook]}}}}}}
  plain: {{address: "0.0.0.0:80", https_redirect: true}}
routes: [{{name: all, respond: {{body: served}}}}]
"""


def fetched(system: Testbed, pebble: Pebble, *words: str) -> str:
    """The body that a client gets which trusts only the directory's root; empty if it does not trust the certificate."""
    roots = pebble.folder / "roots.pem"
    roots.write_text(system.curl("--cacert", str(pebble.ca), pebble.roots_url))
    done = system.call("netexec", "curl", "-sS", "--cacert", str(roots), "--resolve", f"{NAME}:443:127.0.0.1", *words, SITE)
    return done.stdout if done.returncode == 0 else ""


def test_a_certificate_is_obtained_within_the_sandbox(system: Testbed, pebble: Pebble) -> None:
    system.configure(configuration(pebble, "http-01", "tls-alpn-01"))
    until(lambda: fetched(system, pebble) == "served", 60)
    assert "308" in system.curl("-o", os.devnull, "-w", "%{http_code} %{redirect_url}", "-H", f"Host: {NAME}", "http://127.0.0.1/y")
    shown = system.sh("stat -c '%U %a' /var/lib/relayd/acme /var/lib/relayd/acme/certificates/*.pem")
    assert shown == "relayd 700\nrelayd 600\n"
    until(lambda: "set _acme-challenge." + NAME in system.sh("cat /var/lib/relayd/hook.log 2>/dev/null || true"), 60)
    assert "ended with status 1" in system.sh("relayd certs list"), "the wildcard's hook fails"


def test_a_restart_and_a_renewal_by_tls_alpn(system: Testbed, pebble: Pebble) -> None:
    orders = pebble.orders()
    system.run("exec", "systemctl", "restart", "relayd")
    assert fetched(system, pebble) == "served" and pebble.orders() == orders
    system.configure(configuration(pebble, "tls-alpn-01"))
    assert "renewed, valid for" in system.run("exec", "relayd", "certs", "renew", NAME)
    assert fetched(system, pebble) == "served" and pebble.orders() == orders + 1


def test_a_lost_state_comes_back_from_a_backup(system: Testbed, pebble: Pebble) -> None:
    system.sh("relayd certs export /var/backups/certs.tar.gz; systemctl stop relayd; rm -r /var/lib/relayd/acme")
    assert system.sh("stat -c %a /var/backups/certs.tar.gz") == "600\n"
    orders = pebble.orders()
    assert f"{NAME}: restored" in system.sh("relayd certs import /var/backups/certs.tar.gz")
    system.run("exec", "systemctl", "start", "relayd")
    assert fetched(system, pebble) == "served" and pebble.orders() == orders
    assert system.sh("stat -c '%U %a' /var/lib/relayd/acme") == "relayd 700\n"


def is_obtained(system: Testbed, instance: str) -> bool:
    """Whether an instance has the certificate."""
    told = json.loads(system.run("exec", "relayd", "certs", "list", "--json", "--instance", instance))
    return any(one["domain"] == NAME and one["expires_at"] for one in told)


def test_instances_share_the_certificate(system: Testbed, pebble: Pebble) -> None:
    shared = configuration(pebble, "http-01").replace('"0.0.0.0:443",', '"0.0.0.0:443", reuse_port: true,').replace('"0.0.0.0:80",', '"0.0.0.0:80", reuse_port: true,')
    system.write("/etc/relayd.yaml", shared)
    orders = pebble.orders()
    system.sh("systemctl disable -q --now relayd; systemctl enable -q --now relayd@1 relayd@2")
    for number in ("1", "2"):
        until(partial(is_obtained, system, number), 60)
    assert all(fetched(system, pebble) == "served" for _ in range(6))
    assert pebble.orders() == orders
    assert "renewed, valid for" in system.run("exec", "relayd", "certs", "renew", NAME, "--instance", "2")
    assert pebble.orders() == orders + 1
