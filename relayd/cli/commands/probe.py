"""`relayd probe`: how relayd reaches an upstream: addresses, connection, TLS, response, models, timeouts in force.

Each endpoint gets one GET request, with the upstream's own key, TLS settings and HTTP version, from relayd's own client
code: the list of models of an AI API, else the path of `health`, else the path of the URL. It is never a prompt. If
the upstream has several keys, the first endpoint is asked once with each key. The addresses of an upstream with
`discovery` are looked up once, as relayd would do it. The running relayd is not involved:
limits, breakers and health of the daemon play no part, `relayd upstreams` shows them.

Exit codes: 0 every endpoint can be used, 1 one cannot be used, 2 wrong usage, 78 the configuration has faults.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Iterator
from typing import Any

from relayd.cli.admin_client import seconds
from relayd.cli.config_file import add_config_option, config_file, show
from relayd.cli.diagnosis import COLOURS, FAILURE, Finding, chain_of, diagnose, masked
from relayd.cli.output import err, json_text, out, paint, plain
from relayd.cli.service_environment import as_installed
from relayd.cli.upstream_inspection import Inspected, inspect_upstreams, specs_of
from relayd.config.load import load
from relayd.daemon.preflight import day_of, remaining, secrets_of
from relayd.errors import ConfigError
from relayd.schema.units import format_duration
from relayd.server.certificate import CertificateDetails
from relayd.upstream.spec import UpstreamSpec
from relayd.upstream.transport.inspection import Inspection

HELP = "ask the endpoints of an upstream: DNS, connection, TLS, response, models, timeouts in force"
SHOWN_MODELS = 8


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="everything as one JSON object, with all names of models")
    parser.add_argument(
        "--timeout", type=seconds, default="10s", metavar="TIME", help="how long one endpoint may take (default 10s)"
    )
    parser.add_argument("upstreams", nargs="*", metavar="UPSTREAM", help="name of an upstream (default: all upstreams)")


def run(arguments: argparse.Namespace) -> int:
    path = os.path.abspath(config_file(arguments))
    try:
        with as_installed(path):
            config = load(path).config
    except ConfigError as refused:
        show(refused.findings, path, arguments.config)
        return os.EX_CONFIG
    try:
        specs = specs_of(config, arguments.upstreams)
    except KeyError as unknown:
        known = ", ".join(config.upstreams) or "none"
        err(f"relayd probe: there is no upstream {plain(str(unknown.args[0]))}; the upstreams are: {known}")
        return 2
    if not specs:
        err(f"relayd probe: {path} has no upstreams")
    inspected = asyncio.run(inspect_upstreams(specs, arguments.timeout))
    secrets = [secret.reveal() for _, secret in secrets_of(config)]
    reports = [(spec, [one.found for one in inspected if one.spec is spec]) for spec in specs]
    if arguments.json:
        data = {"upstreams": [description(spec, found) for spec, found in reports]}
        out(masked(json_text(data, indent=2), secrets))
    else:
        for number, (spec, found) in enumerate(reports):
            out(masked("\n".join([""] * bool(number) + list(lines(spec, found))), secrets))
    return exit_code(inspected)


def exit_code(inspected: list[Inspected]) -> int:
    """1 if an endpoint cannot be used; warnings do not count."""
    return int(any(finding.level == FAILURE for one in inspected for finding in diagnose(one.spec, one.found)))


def description(spec: UpstreamSpec, inspections: list[Inspection]) -> dict[str, Any]:
    """An upstream as JSON data."""
    return {
        "name": spec.name, "protocol": spec.protocol, "timeouts": {
            "connect_s": spec.timeouts.connect_s, "first_byte_s": spec.timeouts.first_byte_s,
            "idle_s": spec.timeouts.idle_s, "total_s": spec.timeouts.total_s,
        }, "endpoints": [_endpoint(spec, found) for found in inspections],
    }  # fmt: skip


def _endpoint(spec: UpstreamSpec, found: Inspection) -> dict[str, Any]:
    return {
        "url": found.url, "key": found.key or None,
        "dns": {"addresses": list(found.addresses), "ms": _milliseconds(found.lookup_s)},
        "connect": {"address": found.address or None, "ms": _milliseconds(found.connect_s)},
        "tls": {
            "ms": _milliseconds(found.tls_s), "version": found.tls_version or None, "verified": spec.tls.verify,
            "certificates": [_certificate(one) for one in chain_of(found)],
        } if found.url.startswith("https://") else None,
        "request": f"GET {plain(found.target)}" if found.target else None,
        "first_byte_ms": _milliseconds(found.first_byte_s), "status": found.status or None,
        "models": None if found.models is None else list(found.models), "code": found.code or None,
        "findings": [
            {"level": one.level, "cause": one.cause, "cure": one.cure or None} for one in diagnose(spec, found)
        ],
    }


def _certificate(one: CertificateDetails) -> dict[str, Any]:
    return {
        "subject": plain(one.subject), "issuer": plain(one.issuer), "names": [plain(name) for name in one.names],
        "begins": day_of(one.begins_s), "expires": day_of(one.expires_s), "days_left": one.days_left,
    }


def _milliseconds(span_s: float | None) -> float | None:
    return None if span_s is None else round(span_s * 1000, 1)


def lines(spec: UpstreamSpec, inspections: list[Inspection]) -> Iterator[str]:
    """An upstream as text."""
    limits = spec.timeouts
    yield paint(f"upstream {spec.name}", "bold") + f", {spec.protocol}"
    named = (("connect", limits.connect_s), ("first byte", limits.first_byte_s), ("idle", limits.idle_s),
             ("total", limits.total_s))  # fmt: skip
    yield "timeouts      " + ", ".join(f"{name} {format_duration(value) if value else 'off'}" for name, value in named)
    for found in inspections:
        yield ""
        yield f"endpoint      {found.url}" + (f", key of {found.key}" if found.key else "")
        yield from _steps(spec, found)
        for finding in diagnose(spec, found):
            yield from finding_lines(finding)


def _steps(spec: UpstreamSpec, found: Inspection) -> Iterator[str]:
    if found.addresses:
        yield f"  addresses   {', '.join(found.addresses)}{_took(found.lookup_s)}"
    if found.connect_s is not None:
        yield f"  connection  {found.address or 'established'}{_took(found.connect_s)}"
    if found.tls_s is not None:
        yield f"  TLS         {found.tls_version or 'established'}{_took(found.tls_s)}" + (
            "" if spec.tls.verify else paint(", NOT VERIFIED", "yellow"))
    for one in chain_of(found)[:1]:
        yield (f"  certificate {plain(one.subject)}, issued by {plain(one.issuer)}, until {day_of(one.expires_s)} "
               f"({remaining(one.left_s) if one.left_s > 0 else 'expired'})")
    if found.target:
        yield f"  request     GET {plain(found.target)}"
    if found.status:
        yield f"  response    {found.status}{_took(found.first_byte_s)}"
    if found.models is not None:
        more = ", ..." if len(found.models) > SHOWN_MODELS else ""
        named = plain(", ".join(found.models[:SHOWN_MODELS])) + more
        yield f"  models      {len(found.models)}" + (f": {named}" if found.models else "")


def finding_lines(finding: Finding) -> Iterator[str]:
    """A finding below its endpoint."""
    yield "  " + paint(f"{finding.level:<12}", COLOURS[finding.level]) + finding.cause
    if finding.cure:
        yield f"  {'cure':<12}{finding.cure}"


def _took(span_s: float | None) -> str:
    return "" if span_s is None else f" in {span_s * 1000:.1f} ms"
