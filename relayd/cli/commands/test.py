"""`relayd test`: checks the handling of hypothetical requests against expectations.

The data path itself makes the decisions. Binds nothing, sends nothing. As a line before `relayd reload` in ExecReload=
it makes the expectations a condition of a reload.

Exit codes: 0 all hold, 1 one does not, 2 wrong usage, 78 the configuration or the file of tests has faults.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any

from relayd.cli.config_file import add_config_option, config_file, show
from relayd.cli.explanation import HypotheticalRequest, explanation
from relayd.cli.output import out, paint
from relayd.config.access import authenticators_of
from relayd.config.assertions import REQUEST, Assertion, Assertions
from relayd.config.load import load, load_section
from relayd.config.model import Config
from relayd.errors import ConfigError, ExchangeError
from relayd.plan.compile import compile_plan
from relayd.plan.plan import Plan
from relayd.server.demo_upstream import demo_spec
from relayd.wire.http1 import parse_head

HELP = "check a configuration against a file of requests and expectations"
DEFAULT_TESTS = "/etc/relayd.tests.yaml"
REFUSED = {"route": None, "sent": None}


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="show only what fails")
    parser.add_argument(
        "tests", nargs="?", default=DEFAULT_TESTS, metavar="TESTS", help=f"the expectations (default {DEFAULT_TESTS})"
    )


def run(arguments: argparse.Namespace) -> int:
    path = os.path.abspath(config_file(arguments))
    try:
        config = load(path).config
        plan = compile_plan(config, 1, builtin={"demo": demo_spec("")})
        tests: Assertions = load_section(os.path.abspath(arguments.tests), Assertions)
    except ConfigError as refused:
        show(refused.findings, path, arguments.config)
        return os.EX_CONFIG
    failed = 0
    for number, one in enumerate(tests.tests):
        faults = list(faults_of(one, plan))
        failed += bool(faults)
        if faults:
            out(paint(f"failed  tests[{number}] {one.request}", "red"))
            for fault in faults:
                out(f"          {fault}")
        elif not arguments.quiet:
            out(f"holds   tests[{number}] {one.request}")
    out(f"{len(tests.tests) - failed} of {len(tests.tests)} hold")
    return 1 if failed else os.EX_OK


def faults_of(one: Assertion, plan: Plan) -> Iterator[str]:
    """The deviations from the expectations of one test."""
    try:
        result = explanation(plan, request_of(one, plan.config))
    except ExchangeError as refused:
        answer = {"status": refused.kind.status, "code": refused.kind.code, "why": refused.detail}
        result = {**REFUSED, "answer": answer}
    except ValueError as fault:
        yield str(fault)
        return
    wanted, sent, answer = one.expect, result["sent"], result["answer"]
    found = "none" if result["route"] is None else str(result["route"])
    if wanted.route is not None and wanted.route != found:
        yield f"route: {found}, expected {wanted.route}"
    if wanted.status is not None and (status := 0 if answer is None else answer["status"]) != wanted.status:
        why = "" if answer is None else f" ({answer['why']})"
        yield f"status: {status or 'none, it is sent upstream'}{why}, expected {wanted.status}"
    if wanted.code is not None and (code := "none" if answer is None else answer["code"] or "none") != wanted.code:
        yield f"code: {code}, expected {wanted.code}"
    if wanted.cache is not None:
        cache: dict[str, Any] | None = result.get("cache")
        is_used = "off" if cache is None else "used" if cache["used"] else "bypassed"
        if is_used != wanted.cache:
            why = f" ({cache['reason']})" if cache is not None and not cache["used"] else ""
            yield f"cache: {is_used}{why}, expected {wanted.cache}"
    if any(one is not None for one in (wanted.upstream, wanted.endpoint, wanted.target, wanted.key, wanted.limits)):
        if sent is None:
            yield "it is not sent to any upstream" + ("" if answer is None else f": {answer['status']} {answer['why']}")
        else:
            yield from differences(one, plan, sent)
    if wanted.sends and sent is not None:
        fields = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in sent["fields"]}
        for name, value in wanted.sends.items():
            if fields.get(name.lower()) != value:
                yield f"sends {name}: {fields.get(name.lower(), 'nothing')}, expected {value}"


def differences(one: Assertion, plan: Plan, sent: dict[str, Any]) -> Iterator[str]:
    """The deviations of a request that is sent upstream."""
    wanted = one.expect
    if wanted.upstream is not None and wanted.upstream != sent["upstream"]:
        yield f"upstream: {sent['upstream']}, expected {wanted.upstream}"
    ends = [end.partition(" ")[2] for end in sent["endpoints"]]
    if wanted.endpoint is not None and wanted.endpoint not in (*ends, *(end.rpartition(":")[0] for end in ends)):
        yield f"endpoint: {', '.join(ends) or 'none'}, expected {wanted.endpoint}"
    if wanted.target is not None and wanted.target != sent["target"]:
        yield f"target: {sent['target']}, expected {wanted.target}"
    key = "none" if sent["key"] is None else sent["key"].rpartition(", from ")[2]
    if wanted.key is not None and wanted.key != key:
        yield f"key: {key}, expected {wanted.key}"
    upstream = plan.config.upstreams.get(sent["upstream"])
    if wanted.limits is not None and upstream is not None:
        for name in ("requests", "queue"):
            expected, actual = getattr(wanted.limits, name), getattr(upstream.limits, name)
            if expected is not None and expected != actual:
                yield f"limits.{name}: {actual}, expected {expected}"


def request_of(one: Assertion, config: Config) -> HypotheticalRequest:
    """The hypothetical request, parsed like a real one. Raises ValueError, or ExchangeError from the parser."""
    found = REQUEST.fullmatch(one.request)
    assert found is not None
    scheme, authority, target = "", "localhost", found["url"]
    if "://" in target:
        scheme, _, rest = target.partition("://")
        authority, slash, path = rest.partition("/")
        target = slash + path or "/"
    lines = [f"{name}: {value}" for name, value in one.headers.items()]
    if not any(name.lower() == "host" for name in one.headers):
        lines.insert(0, f"Host: {authority}")
    lines += key_of(one.consumer, config)
    data = None if one.data is None else one.data.encode()
    if one.body or data is not None:
        lines.append(f"Content-Length: {int(one.body) if data is None else len(data)}")
    text = "\r\n".join([f"{found['method']} {target} HTTP/1.1", *lines, "", ""])
    return HypotheticalRequest(parse_head(text.encode("utf-8", "surrogateescape")), scheme.lower(), one.peer, data)


def key_of(name: str | None, config: Config) -> list[str]:
    """The header field with the key of this consumer. Raises ValueError for an unknown consumer."""
    if name is None:
        return []
    consumer = config.consumers.get(name)
    if consumer is None:
        raise ValueError(f"consumer {name} is not in the configuration")
    for authenticator in authenticators_of(consumer).values():
        lines: list[str] = authenticator.lines()
        return lines
    raise ValueError(f"consumer {name} has no key")
