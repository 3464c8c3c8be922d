"""Certificates from ACME: the last faults, whether directories answer, and whether CAA records permit the authorities.

Reads each directory, and asks the name servers of the system. Registers and orders nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from relayd import registry
from relayd.acme.caa import names_to_ask, refusal
from relayd.cli.admin_client import Unreachable
from relayd.cli.diagnosis import Finding, failure, fine, unknown, warning
from relayd.cli.doctor.examination import Context
from relayd.config.acme import Acme
from relayd.config.https import acme_sections
from relayd.daemon.preflight import remaining
from relayd.upstream.discovered import LookupFault, NoSuchName
from relayd.upstream.discovery import _dns_query as dns_query

NEEDS_CONFIGURATION = True
MOST = 20
DNS_S = 3.0


async def run(context: Context) -> AsyncGenerator[Finding, None]:
    sections = list(acme_sections(context.config.listeners))
    if not sections:
        yield fine("certificates", "no listener has tls.acme")
        return
    try:
        for entry in (await context.page("/status")).get("certificates", ()):
            if "domain" in entry:
                yield of_entry(entry)
    except Unreachable:
        yield unknown("certificates", "relayd does not run: its last attempts are not known", "start it, then repeat")
    for listener, section in sections:
        for url in section.directory:
            subject = f"directory {url}"
            try:
                client = registry.load("relayd.acme", "client")
                identities: tuple[str, ...] = await context.in_thread(client.identities, url, section)
            except ImportError:
                yield failure(f"listener {listener}", "tls.acme needs python3-acme", "apt install python3-acme")
                return
            except Exception as error:  # rescue door: the errors of a library; each is a finding
                cure = "check directory, directory_ca, DNS and the firewall"
                yield failure(subject, f"cannot be read: {error}", cure)
                continue
            yield fine(subject, "answers")
            for found in await context.in_thread(authority_findings, section, identities):
                yield found


def of_entry(entry: dict[str, Any]) -> Finding:
    """What the running relayd reports of one certificate."""
    subject = f"certificate of {entry['domain']}"
    cure = f"correct the cause, then: relayd certs renew {entry['domain']}"
    if entry["fault"] and not entry["trying"]:
        in_use = entry["expires_at"] and entry["left_s"] > 0
        left = f"; the certificate in use ends {remaining(entry['left_s'])}" if in_use else ""
        make = failure if entry["urgency"] == "error" or not in_use else warning
        return make(subject, f"attempt {entry['failures']} has failed: {entry['fault']}{left}", cure)
    if not entry["expires_at"]:
        return unknown(subject, "was not obtained yet", "repeat this in a minute")
    return fine(subject, f"valid for {entry['left_s'] // 86400} days")


def authority_findings(section: Acme, identities: Sequence[str]) -> list[Finding]:
    """Whether an authority may certify the names. Blocks."""
    if not identities:
        return []  # the authority does not say under which names CAA records permit it
    if dns_query.missing():
        return [unknown("CAA records", "were not read without python3-dnspython", "apt install python3-dnspython")]
    try:
        servers = dns_query.system_servers()
    except LookupFault as error:
        return [unknown("CAA records", str(error), "check /etc/resolv.conf")]
    return [found for name in section.domains[:MOST] if (found := caa_finding(name, identities, servers)) is not None]


def caa_finding(name: str, identities: Sequence[str], servers: list[tuple[str, int]]) -> Finding | None:
    """What CAA records say about a name; None if they permit the authority, or if there are none. Blocks."""
    for asked in names_to_ask(name):
        try:
            records = dns_query.ask(asked, "CAA", servers, DNS_S).texts
        except NoSuchName:
            continue
        except LookupFault as error:
            return unknown(f"CAA records of {name}", str(error), "authorities refuse a name whose CAA lookup fails")
        if fault := refusal(name, records, identities):
            cure = f"add to {asked}: CAA 0 issue \"{identities[0]}\""
            return failure(f"CAA records of {name}", f"forbid this authority: {fault}", cure)
        return None
    return None
