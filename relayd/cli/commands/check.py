"""`relayd check`: would this configuration be accepted? Binds nothing, sends nothing, changes nothing.

Exit codes: 0 accepted (warnings do not count), 78 refused, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterable

from relayd.cli.output import err, out, paint
from relayd.config.load import Loaded, load
from relayd.config.model import Config
from relayd.config.route import Match, Route
from relayd.errors import ConfigError, Finding
from relayd.plan.compile import compile_plan
from relayd.schema.units import format_size
from relayd.upstream.spec import EndpointSpec, UpstreamSpec

HELP = "check a configuration and the files it includes"
DEFAULT_FILE = "/etc/relayd.yaml"
DEMO = UpstreamSpec("demo", (EndpointSpec("http://localhost", "", "demo"),), protocol="openai_chat")
# What waits for the slower side at most: UPLOAD_HIGH of proxy/exchange.py towards the upstream, TURN of
# upstream/transport/slot.py and HIGH of server/connection.py towards the client. They change together.
BUILT_IN_HEADER_BYTES = 256 * 1024
WAITING_BYTES = (128 + 128 + 64) * 1024


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", default=DEFAULT_FILE, metavar="FILE", help=f"default {DEFAULT_FILE}")
    parser.add_argument("--json", action="store_true", help="findings and summary as one JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="faults only")


def run(arguments: argparse.Namespace) -> int:
    path = os.path.abspath(arguments.config)
    loaded: Loaded | None = None
    try:
        loaded = load(path)
        compile_plan(loaded.config, 1, builtin={"demo": DEMO})
    except ConfigError as refused:
        _refused(path, refused.findings if loaded is None else loaded.placed(refused.findings), arguments)
        return os.EX_CONFIG
    if arguments.json:
        out(json.dumps({"accepted": True, "findings": list(map(dataclasses.asdict, loaded.warnings)),
                        "summary": _summary(loaded)}, indent=2))
    elif not arguments.quiet:
        for finding in loaded.warnings:
            err(_painted(finding))
        for line in _told(path, loaded):
            out(line)
    return os.EX_OK


def _refused(path: str, findings: Iterable[Finding], arguments: argparse.Namespace) -> None:
    listed = [one for one in findings if not arguments.quiet or one.level == "error"]
    if arguments.json:
        out(json.dumps({"accepted": False, "findings": list(map(dataclasses.asdict, listed))}, indent=2))
        return
    for finding in listed:
        err(_painted(finding))
    faults = sum(one.level == "error" for one in listed)
    err(f"{path}: refused, {faults} fault{'s' if faults != 1 else ''}")


def _painted(finding: Finding) -> str:
    return paint(str(finding), "red" if finding.level == "error" else "yellow", sys.stderr)


def memory_bound(config: Config) -> int:
    """The most bytes that one exchange keeps of its client and its upstream, heads and waiting bodies together."""
    request = max((one.limits.header + one.limits.trailer for one in config.listeners.values()), default=0)
    # The built-in upstreams have the default.
    response = max(BUILT_IN_HEADER_BYTES, *(one.response_header for one in config.upstreams.values()), 0)
    return request + response + WAITING_BYTES


def _summary(loaded: Loaded) -> dict[str, object]:
    config = loaded.config
    return {
        "files": list(loaded.files),
        "listeners": {name: one.address for name, one in config.listeners.items()},
        "admin": config.admin.address,
        "routes": [{"name": one.name, "match": _match(one.match), "goes": _goes(one)} for one in config.routes],
        "upstreams": {name: [end.url for end in one.endpoints] for name, one in config.upstreams.items()},
        "consumers": list(config.consumers),
        "memory_bound_per_exchange": memory_bound(config),
    }


def _told(path: str, loaded: Loaded) -> Iterable[str]:
    config = loaded.config
    for file in loaded.files[1:]:
        yield f"file      {file}"
    for name, listener in config.listeners.items():
        yield f"listener  {name}: {listener.address}{' TLS' if listener.tls else ''}"
    yield f"admin     {config.admin.address}"
    for name, upstream in config.upstreams.items():
        yield f"upstream  {name}: {upstream.protocol}, {', '.join(one.url for one in upstream.endpoints)}"
    for number, route in enumerate(config.routes, start=1):
        allowed = f", for {', '.join(route.allow)}" if route.allow else ""
        yield f"route {number:<3} {route.name}: {_match(route.match)} -> {_goes(route)}{allowed}"
    yield f"memory    at most {format_size(memory_bound(config))} per exchange"
    count = len(loaded.warnings)
    yield f"{path}: accepted" + (f", {count} warning{'s' if count != 1 else ''}" if count else "")


def _match(match: Match) -> str:
    single = {"path": match.path, "prefix": match.prefix, "regex": match.regex}
    several = {"host": match.host, "method": match.method, "model": match.model}
    words = [f"{word} {value}" for word, value in single.items() if value is not None]
    words += [f"{word} {' or '.join(values)}" for word, values in several.items() if values]
    # Values are left out: a field that is matched may be a key.
    words += [f"header {name}" for name in match.header]
    return ", ".join(words) or "every request"


def _goes(route: Route) -> str:
    if route.redirect is not None:
        return f"redirect {route.redirect.status}"
    if route.respond is not None:
        return f"respond {route.respond.status}"
    return f"upstream {route.upstream}"
