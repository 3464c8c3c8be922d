"""Findings of `relayd doctor` and `relayd probe`: severity, cause and cure. Evaluates the inspection of an endpoint.

A cause and a cure are for an operator and contain no secrets. Texts of other programs and of endpoints are shown with
control characters replaced.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from relayd import clock
from relayd.cli.output import plain
from relayd.daemon.preflight import DAY_S, day_of, remaining
from relayd.dataclass import dataclass
from relayd.server.certificate import CertificateDetails, details
from relayd.upstream.spec import UpstreamSpec
from relayd.upstream.transport.inspection import Inspection

FAILURE, WARNING, UNKNOWN, FINE = LEVELS = "failure", "warning", "not checked", "fine"
COLOURS = {FAILURE: "red", WARNING: "yellow", UNKNOWN: "dim", FINE: "green"}
EXPIRES_S = 7 * DAY_S
SHORTEST_SECRET = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. `subject` is the checked object; `cure` is empty if nothing has to be done."""

    level: str
    subject: str
    cause: str
    cure: str = ""


def failure(subject: str, cause: str, cure: str) -> Finding:
    """Something does not work."""
    return Finding(FAILURE, subject, cause, cure)


def warning(subject: str, cause: str, cure: str) -> Finding:
    """Something works, but not well, or not for long."""
    return Finding(WARNING, subject, cause, cure)


def unknown(subject: str, cause: str, cure: str = "") -> Finding:
    """Something could not be checked; `cure` is how it can be."""
    return Finding(UNKNOWN, subject, cause, cure)


def fine(subject: str, cause: str) -> Finding:
    """Something is as it should be."""
    return Finding(FINE, subject, cause)


def worst(findings: Iterable[Finding]) -> str:
    """The most severe level of the findings; FINE without any."""
    return min((one.level for one in findings), key=LEVELS.index, default=FINE)


def masked(text: str, secrets: Iterable[str]) -> str:
    """The text without secrets: a last protection, because an endpoint may send back the key that it got."""
    for secret in sorted(secrets, key=len, reverse=True):  # no part of a longer one stays readable
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text


def chain_of(found: Inspection) -> list[CertificateDetails]:
    """The certificates that the endpoint presented, its own first; damaged ones are left out."""
    chain = []
    for pem in found.certificates:
        try:
            chain.append(details(pem))
        except ValueError:
            continue
    return chain


def covers(names: Iterable[str], host: str) -> bool:
    """True if a certificate for these names is valid for the host (RFC 9525 6: a wildcard covers one label)."""
    host = host.lower().rstrip(".")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host in names or "*." + host.partition(".")[2] in names
    return host in names


def diagnose(spec: UpstreamSpec, found: Inspection) -> Iterator[Finding]:
    """The findings of one endpoint; exactly one of them if everything is fine."""
    subject = f"upstream {spec.name}, {found.url}"
    if found.code == "tls_failed":
        yield _of_tls(subject, spec, found)
        return
    if found.code:
        yield _of_connection(subject, spec, found)
        return
    finding = _of_status(subject, spec, found)
    chain = chain_of(found)
    expiring = None
    if chain and spec.tls.verify and chain[0].left_s < EXPIRES_S:
        cause = f"the endpoint's certificate expires {remaining(chain[0].left_s)}, on {day_of(chain[0].expires_s)}"
        expiring = warning(subject, cause, "the operator of the endpoint has to renew it, else requests fail")
        yield expiring
    if finding.level != FINE or expiring is None:
        yield finding


def _of_connection(subject: str, spec: UpstreamSpec, found: Inspection) -> Finding:
    """The finding of an endpoint that did not answer."""
    fault = plain(found.fault)
    if found.code == "no_endpoint":
        cure = f"relayd upstreams shows what the running relayd knows; relayd.yaml(5), discovery{access_to(spec)}"
        return failure(subject, f"no address is found: {fault}", cure)
    if found.host and not found.addresses and found.code == "connect_failed" and not found.unix:
        cause = f"the name {found.host} cannot be resolved: {fault}"
        return failure(subject, cause, f"correct the URL, or check the resolver: getent hosts {found.host}")
    if found.code == "connect_failed":
        cure = "start the endpoint, or correct its address and port; a firewall may reject the connection too"
        return failure(subject, f"no connection: {fault}", cure)
    if found.code == "connect_timeout":
        cure = "check the address, the route and the firewalls between; timeouts.connect of the upstream is the limit"
        return failure(subject, f"the connection is not established: {fault}", cure)
    if found.code == "first_byte_timeout":
        cure = "the endpoint is connected, but does not respond: check its log and its load"
        return failure(subject, f"no response: {fault}", cure)
    cure = "check that the endpoint speaks HTTP at this port; for a port with TLS the URL begins with https://"
    if found.url.startswith("https://"):
        cure = "check the log of the endpoint"
    return failure(subject, f"{found.code}: {fault}", cure)


def access_to(spec: UpstreamSpec) -> str:
    """Where the access to the source of a discovery is described."""
    return "; access to the engine: relayd-security(7)" if spec.discovery and spec.discovery.kind == "docker" else ""


def _of_tls(subject: str, spec: UpstreamSpec, found: Inspection) -> Finding:
    """The finding of a connection without TLS, from the certificate: the texts of TLS libraries differ."""
    chain, host, now_s = chain_of(found), spec.tls.server_name or found.host, clock.wall()
    fault = plain(found.fault)
    if not chain or not spec.tls.verify:
        cure = "check that the port speaks TLS (else write http://), tls.min_version, and whether it requires tls.cert"
        return failure(subject, f"TLS fails: {fault}", cure)
    own = chain[0]
    if own.expires_s <= now_s:
        cause = f"the certificate expired on {day_of(own.expires_s)}"
        return failure(subject, cause, "the operator of the endpoint has to renew it")
    if own.begins_s > now_s:
        cause = f"the certificate is not valid before {day_of(own.begins_s)}"
        return failure(subject, cause, "check the clock of this machine: date --utc")
    if not covers(own.names, host):
        names = plain(", ".join(own.names) or own.subject)
        cure = "correct the host of the URL, or set tls.server_name to a name of the certificate"
        return failure(subject, f"the certificate is for {names}, not for {host}", cure)
    issuer = plain(own.issuer)
    if own.self_signed:
        cure = "save the certificate in a file and set tls.ca of the upstream to it"
        return failure(subject, f"the certificate is self-signed by {issuer} and not trusted", cure)
    cure = "set tls.ca to the authority's certificate, or install ca-certificates"
    if len(chain) == 1:
        cure += "; if the authority is a public one, the endpoint has to send its intermediate certificates"
    return failure(subject, f"the authority {issuer} is not trusted ({fault})", cure)


def _of_status(subject: str, spec: UpstreamSpec, found: Inspection) -> Finding:
    """The finding of an endpoint that sent a response."""
    status, asked = found.status, f"GET {plain(found.target)}"
    if status in (401, 403):
        if found.key:
            cure = "replace the key, then reload; a key from a file is read again by a reload"
            return failure(subject, f"the endpoint refuses the key of {found.key}: status {status}", cure)
        if found.lists_models or spec.auth is not None:
            level = FAILURE if found.lists_models else WARNING
            cause = f"the endpoint requires a key: status {status}"
            return Finding(level, subject, cause, "add `auth:` to the upstream")
    if status >= 500:
        return failure(subject, f"{asked} is answered {status}", "check the log of the endpoint")
    if status in (402, 429):
        cure = "wait, or check the limits and the credit of this key at the provider"
        return warning(subject, f"the endpoint refuses more requests for now: status {status}", cure)
    if 300 <= status < 400:
        to = plain(found.location) or "an unknown address"
        cause = f"{asked} is redirected to {to}; relayd does not follow redirects"
        return warning(subject, cause, "write the final address into the URL of the endpoint")
    if found.lists_models and status != 200:
        cure = "if the endpoint has a list of models, correct the path of its URL: it is the base URL of an SDK"
        return warning(subject, f"there is no list of models: {asked} is answered {status}", cure)
    if found.lists_models and found.models is None:
        cure = "check the path of the URL and `protocol:`"
        return warning(subject, f"{asked} is answered {status}, but {plain(found.models_fault)}", cure)
    if found.models is not None:
        return fine(subject, f"status {status}, {len(found.models)} models")
    return fine(subject, f"status {status}")
