"""`tls.acme:` of a listener: certificates that relayd obtains and renews by itself (ACME, RFC 8555)."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from typing import Literal
from urllib.parse import urlsplit

from relayd.config.fields import file_fault
from relayd.lazy_regex import lazy_regex
from relayd.schema import Duration, Secret, section, setting

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
MAX_DOMAINS = 100
LEAST_KEY = 32  # characters of a sharing key
# Names that no public certificate authority certifies: RFC 6761, RFC 6762, RFC 7686, RFC 8375, ICANN's `internal`.
PRIVATE_ENDINGS = ("local", "localdomain", "internal", "home.arpa", "onion", "invalid", "lan", "home", "corp")

_LABEL = lazy_regex(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", re.ASCII)
_EMAIL = lazy_regex(r"[^\s@,?<>\"]{1,64}@[^\s@,?<>\"]{1,253}", re.ASCII)


@section()
class Eab:
    """External account binding (RFC 8555 7.3.4): the account at a certificate authority that requires one."""

    kid: str = setting(doc="The key identifier that the certificate authority has assigned.", example="kid-1")
    hmac: Secret = setting(doc="The HMAC key that the certificate authority has assigned, in base64url.")


@section()
class Acme:
    """Certificates from a certificate authority with ACME (RFC 8555), as Let's Encrypt is. Needs the package `python3-acme`.

    Each name of `domains` gets its own certificate, which the client's server name (SNI) selects. The listener starts
    immediately; while no certificate exists, TLS handshakes are rejected with the alert `internal_error`. A new certificate
    is in use without a restart. It is renewed at the time that the authority recommends (ARI, RFC 9773), otherwise after two
    thirds of its lifetime. An attempt ends after 300 seconds with a directory that is too slow. If this fails, the old certificate stays in use, attempts are repeated with increasing pauses,
    also across restarts, and warnings become more urgent. State (account keys, certificates and their keys, attempts) is in
    the folder `acme` of the state directory, /var/lib/relayd, readable by relayd only.

    Instances of one machine share this folder. Machines share certificates with `store: {kind: redis}` and `sharing_key`: one
    of them orders, all answer the challenges of the authority, and all serve the certificate. relayd-scaling(7) has the details.
    """

    domains: tuple[str, ...] = setting(doc="The DNS names, each of which gets a certificate. A wildcard (`*.example.org`) needs `dns_hook`.", example=["ai.example.org"])
    email: str = setting(default="", doc="The address at which the certificate authority can reach the operator.", example="ops@example.org")
    directory: tuple[str, ...] = setting(default=(LETS_ENCRYPT,), doc="URL of the ACME directory, or a list: if one fails, the next one is tried. The first one is preferred again at the next attempt.", example=["https://acme-staging-v02.api.letsencrypt.org/directory"])
    directory_ca: str | None = setting(default=None, doc="PEM file with the authorities that sign the directory's own certificate, for an authority of your own. Default are those of the system.", example="/etc/relayd/tls/acme-ca.pem")
    challenges: tuple[Literal["http-01", "tls-alpn-01", "dns-01"], ...] = setting(default=("http-01", "tls-alpn-01"), doc="How to prove control of the names, in order of preference; after a failure the next one is tried. `http-01`: the authority sends a request to port 80, which any plain listener answers. `tls-alpn-01`: it connects to port 443, and this listener answers. `dns-01`: `dns_hook` publishes a record; always used for wildcards.", example=["dns-01"])
    dns_hook: tuple[str, ...] = setting(default=(), doc="Program and arguments that publish and delete TXT records for `dns-01`. `set NAME VALUE` or `delete NAME VALUE` is appended. It must return after the record is visible at the name servers of the zone, with exit status 0. It runs as the user of relayd, and gets the environment of relayd, CERTBOT_DOMAIN and CERTBOT_VALIDATION.", example=["/usr/local/sbin/dns-hook"])
    dns_hook_timeout: Duration = setting(default=Duration(180), doc="How long the hook may run, including its wait for name servers; then it is killed.", minimum=1, maximum=3600)
    key_type: Literal["ecdsa", "rsa"] = setting(default="ecdsa", doc="Key of the certificates: ECDSA P-256 or RSA 2048. A change takes effect with the next renewal.")
    eab: Eab | None = setting(default=None, doc="The account at an authority that requires external account binding.")

    sharing_key: Secret | None = setting(default=None, doc="The key with which machines encrypt what they share through the store in Redis: certificates with their private keys, accounts, challenges. Give all machines the same one, of at least 32 random characters: `openssl rand -base64 32`. Without it each machine orders for itself.")

    def check(self) -> Iterable[tuple[str, str]]:
        if self.sharing_key is not None and len(self.sharing_key.reveal()) < LEAST_KEY:
            yield "sharing_key", f"has less than {LEAST_KEY} characters; make one with: openssl rand -base64 32"
        if len(self.domains) > MAX_DOMAINS:
            yield "domains", f"has more than {MAX_DOMAINS} names"
        seen: set[str] = set()
        for index, name in enumerate(self.domains):
            if fault := domain_fault(name, public=self.directory_ca is None):
                yield f"domains[{index}]", fault
            elif name.startswith("*.") and not self.dns_hook:
                yield f"domains[{index}]", "a wildcard can be proven by dns-01 only: set dns_hook"
            if name.lower() in seen:
                yield f"domains[{index}]", "is listed twice"
            seen.add(name.lower())
        if self.email and _EMAIL.fullmatch(self.email) is None:
            yield "email", "is not an e-mail address"
        if not self.directory:
            yield "directory", "needs at least one URL"
        if not self.challenges:
            yield "challenges", "needs at least one of http-01, tls-alpn-01, dns-01"
        for index, url in enumerate(self.directory):
            if wrong := directory_fault(url):
                yield f"directory[{index}]" if len(self.directory) > 1 else "directory", wrong
        if self.directory_ca is not None and (unreadable := file_fault(self.directory_ca)):
            yield "directory_ca", unreadable
        if "dns-01" in self.challenges and not self.dns_hook:
            yield "challenges", "dns-01 needs dns_hook"
        if self.dns_hook and (unusable := program_fault(self.dns_hook[0])):
            yield "dns_hook", unusable

    def caution(self) -> Iterable[tuple[str, str]]:
        if not self.email:
            yield "email", "is not set: the certificate authority cannot warn you"

    def kinds_for(self, name: str) -> tuple[str, ...]:
        """The challenges that can prove a name, in order of preference."""
        return ("dns-01",) if name.startswith("*.") else self.challenges


def domain_fault(name: str, *, public: bool = True) -> str:
    """Why no certificate authority certifies this name; empty if one might. DNS and CAA are not asked.

    `public`: the authority is a public one, which certifies no name of a private network.
    """
    if not name.isascii():
        return "write an internationalised name in its ASCII form (xn--...)"
    plain = name.removeprefix("*.").lower()
    try:
        ipaddress.ip_address(plain.strip("[]"))
        return "is an IP address; a certificate needs a DNS name"
    except ValueError:
        pass
    if plain.endswith("."):
        return "write the name without the dot at its end"
    if "*" in plain:
        return "a wildcard has the form *.example.org"
    if plain == "localhost" or plain.endswith(".localhost"):
        return "localhost is this machine itself, for which no authority issues certificates; use a file certificate or no tls"
    if ":" in plain or "/" in plain:
        return "is not a name; write it without scheme, port and path"
    labels = plain.split(".")
    if len(plain) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return "is not a valid DNS name"
    if len(labels) < 2:
        return "has no dot; a public DNS name is needed, such as ai.example.org"
    if labels[-1].isdigit():
        return "is not a valid DNS name"
    if public and (ending := next((one for one in PRIVATE_ENDINGS if plain.endswith(f".{one}")), "")):
        return f"names below .{ending} are private; no public authority certifies them"
    return ""


def directory_fault(url: str) -> str:
    """Why a text is not the URL of a directory; empty if it is."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme == "https" and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or any(sign.isspace() for sign in url):
        return "needs a URL that begins with https://"
    return "contains user information" if "@" in parts.netloc else ""


def program_fault(path: str) -> str:
    """Why a program cannot be run; empty if it can."""
    if not path.startswith("/"):
        return "needs the absolute path of a program"
    if not os.path.isfile(path):
        return f"{path} cannot be run: " + ("it is not a file" if os.path.exists(path) else "it does not exist")
    return "" if os.access(path, os.X_OK, effective_ids=True) else f"{path} cannot be run by this user"
