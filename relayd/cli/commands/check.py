"""`relayd check`: would this configuration be accepted? Binds nothing, sends nothing, changes nothing.

Root checks /etc/relayd.yaml as the user of relayd.service and within the sandbox of the installed unit, because the
permissions of root are not those of the service. Variables and credentials are those that systemd would pass. Checks
that need a real start are listed as `not asked`. `--unit` selects another unit, or none.

Exit codes: 0 accepted (warnings do not count), 78 refused, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable

from relayd.cli.config_file import add_config_option, completed, config_file
from relayd.cli.output import err, out, paint
from relayd.config.load import Loaded
from relayd.config.model import Config
from relayd.config.route import Match, Route
from relayd.config.upstream import Upstream
from relayd.daemon.admin_socket_path import DEFAULT_FILE
from relayd.daemon.preflight import Expiry, day_of, load_checked, remaining
from relayd.daemon.unit import Unit, load_unit
from relayd.daemon.unit_environment import ServiceEnvironment, service_environment
from relayd.errors import ConfigError, Finding
from relayd.plan.specs import discovery_spec
from relayd.schema.units import format_size

HELP = "check a configuration and the files it includes"
SERVICE = "relayd.service"
# The most bytes queued for the slower side: HIGH of proxy/request_body.py towards the upstream (a gathered body has the
# same limit besides the request buffers: FREE_BYTES of limits/request_buffers.py and one read of a connection), TURN of
# upstream/transport/slot.py and HIGH of server/connection.py towards the client. They change together.
BUILT_IN_HEADER_BYTES = 256 * 1024
WAITING_BYTES = (128 + 128 + 64) * 1024


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser)
    parser.add_argument(
        "--unit", metavar="UNIT", help="check as the user of this unit or unit file, within its sandbox; none checks "
        f"as the caller (default {SERVICE} if root checks {DEFAULT_FILE})",
    )
    parser.add_argument("--json", action="store_true", help="findings and summary as one JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="faults only")


def run(arguments: argparse.Namespace) -> int:
    path = os.path.abspath(config_file(arguments))
    named = arguments.unit or (SERVICE if path == DEFAULT_FILE and os.geteuid() == 0 else "none")
    unit = None if named == "none" else load_unit(named)
    if unit is None:
        if arguments.unit not in (None, "none"):
            err(f"relayd check: no such unit: {arguments.unit}")
            return 2
        return run_checks(path, arguments, None)
    if os.geteuid() != 0:
        err(f"relayd check: only root can check as the user of {unit.name}; checked as this user, within its sandbox")
        return run_checks(path, arguments, unit)
    with contextlib.suppress(ConfigError):
        load_checked(path, unit)  # imports every module first: the user of the service may not be able to read them
    service = service_environment(unit)
    try:
        owner = unit.identity()[:2]
    except LookupError as error:
        service.faults.append(str(error))
    if service.faults:
        return _no_start(path, arguments, unit, service)
    with service.folder(owner):
        return as_service(unit, service, lambda: run_checks(path, arguments, unit, service.unchecked))


def _no_start(path: str, arguments: argparse.Namespace, unit: Unit, service: ServiceEnvironment) -> int:
    """Report that systemd would not start the service."""
    findings = [Finding(unit.name, 0, 0, "", fault, "systemd does not start the service") for fault in service.faults]
    _refused(path, findings, arguments)
    return os.EX_CONFIG


def as_service(unit: Unit, service: ServiceEnvironment, check: Callable[[], int]) -> int:
    """Run `check` in a child process as the user of the service. Returns its exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = os.EX_SOFTWARE
    try:
        if fault := unit.switch_user():
            err(f"relayd check: {fault}")
            code = os.EX_CONFIG
        else:
            os.environ.update(unit.environment() | service.variables)
            code = check()
    except BaseException:  # rescue door: a failed child must not run on as a second command
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_checks(path: str, arguments: argparse.Namespace, unit: Unit | None, unchecked: Iterable[str] = ()) -> int:
    """Run all checks of a start and print the result. Returns the exit code. `unchecked`: checks not possible here."""
    unchecked = ["whether the addresses can be bound", *unchecked, *(unit.not_modelled() if unit is not None else ())]
    try:
        loaded, result = load_checked(path, unit)
    except ConfigError as refused:
        _refused(path, refused.findings, arguments)
        return os.EX_CONFIG
    if arguments.json:
        out(json.dumps({"accepted": True, "findings": list(map(dataclasses.asdict, loaded.warnings)),
                        "summary": _summary(loaded, result.expiries), "not_asked": unchecked}, indent=2))
    elif not arguments.quiet:
        for finding in loaded.warnings:
            err(_painted(finding))
        lines = (*_summary_lines(loaded), *_environment_lines(result.expiries, unit))
        for line in (*lines, f"not asked {'; '.join(unchecked)}", _result_line(path, loaded)):
            out(line)
    return os.EX_OK


def _refused(path: str, findings: Iterable[Finding], arguments: argparse.Namespace) -> None:
    listed = [completed(one, path, arguments.config) for one in findings if not arguments.quiet or one.level == "error"]
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
    """The most bytes that one exchange holds of its client and upstream: heads and queued pieces of bodies."""
    request = max((one.limits.header + one.limits.trailer for one in config.listeners.values()), default=0)
    # Built-in upstreams have the default limit.
    response = max(BUILT_IN_HEADER_BYTES, *(one.response_header for one in config.upstreams.values()), 0)
    return request + response + WAITING_BYTES


def _summary(loaded: Loaded, expiries: Iterable[Expiry]) -> dict[str, object]:
    config = loaded.config
    return {
        "files": list(loaded.files),
        "listeners": {name: one.address for name, one in config.listeners.items()},
        "admin": config.admin.address,
        "routes": [{"name": one.name, "match": _match(one.match), "goes": _destination(one)} for one in config.routes],
        "upstreams": {name: _addresses(one) for name, one in config.upstreams.items()},
        "consumers": list(config.consumers),
        "groups": {
            group: [name for name, one in config.consumers.items() if one.group == group] for group in config.groups
        },
        "memory_bound_per_exchange": memory_bound(config),
        "memory_bound_request_buffers": int(config.daemon.request_buffers.size),
        "certificates": [dict(dataclasses.asdict(one), left_s=int(one.left_s)) for one in expiries],
    }


def _summary_lines(loaded: Loaded) -> Iterable[str]:
    config = loaded.config
    for file in loaded.files[1:]:
        yield f"file      {file}"
    for name, listener in config.listeners.items():
        yield f"listener  {name}: {listener.address}{' TLS' if listener.tls else ''}"
    yield f"admin     {config.admin.address}"
    for name, upstream in config.upstreams.items():
        yield f"upstream  {name}: {upstream.protocol}, {', '.join(_addresses(upstream))}"
    for group in config.groups:
        members = [name for name, one in config.consumers.items() if one.group == group]
        yield f"group     {group}: {', '.join(members) or 'no consumers in the configuration'}"
    for number, route in enumerate(config.routes, start=1):
        allowed = f", for {', '.join(route.allow)}" if route.allow else ""
        yield f"route {number:<3} {route.name}: {_match(route.match)} -> {_destination(route)}{allowed}"
    yield f"memory    at most {format_size(memory_bound(config))} per exchange, {_buffers(config)}"


def _addresses(upstream: Upstream) -> list[str]:
    """The URLs of the endpoints, or the source that discovers them."""
    spec = discovery_spec(upstream.discovery)
    return [one.url for one in upstream.endpoints] if spec is None else [f"discovered by {spec.kind}"]


def _environment_lines(expiries: Iterable[Expiry], unit: Unit | None) -> Iterable[str]:
    for one in expiries:
        left = remaining(one.left_s) if one.left_s > 0 else "expired"
        yield f"expires   {one.kind} {one.name}: {day_of(one.ends_s)} ({left}), {one.file}"
    if unit is not None:
        yield f"asked as  user {unit.user}, within {unit.name}"


def _result_line(path: str, loaded: Loaded) -> str:
    count = len(loaded.warnings)
    return f"{path}: accepted" + (f", {count} warning{'s' if count != 1 else ''}" if count else "")


def _buffers(config: Config) -> str:
    """The limit on the request bodies that all exchanges together hold whole."""
    size = int(config.daemon.request_buffers.size)
    what = "for request bodies that are held whole"
    return f"and {format_size(size)} in all {what}" if size else f"and without a bound {what}"


def _match(match: Match) -> str:
    single = {"path": match.path, "prefix": match.prefix, "regex": match.regex}
    several = {"host": match.host, "method": match.method, "model": match.model}
    conditions = [f"{key} {value}" for key, value in single.items() if value is not None]
    conditions += [f"{key} {' or '.join(values)}" for key, values in several.items() if values]
    # Values are omitted, because a matched field may contain a key.
    conditions += [f"header {name}" for name in match.header]
    return ", ".join(conditions) or "every request"


def _destination(route: Route) -> str:
    if route.redirect is not None:
        return f"redirect {route.redirect.status}"
    if route.respond is not None:
        return f"respond {route.respond.status}"
    return f"upstream {route.upstream}"
