"""`relayd explain`: which route a request would take, why, and what would be sent. Binds nothing, sends nothing.

The data path itself makes the decisions, in a dry run with a hypothetical request and client.

Exit codes: 0 a route matches the request (even if it would be refused there), 1 none does, 2 wrong usage, 78 the
configuration is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from typing import Any

from relayd.access.key_store import KeyStore
from relayd.cli.config_file import add_config_option, config_file, show
from relayd.cli.explanation import HypotheticalRequest, explanation
from relayd.cli.output import err, out
from relayd.config.load import load
from relayd.daemon.generations import SYSTEM_STATE
from relayd.daemon.state_dir import KEYS, keys_folder
from relayd.errors import ConfigError, ExchangeError
from relayd.lazy_regex import lazy_regex
from relayd.plan.compile import compile_plan
from relayd.server.demo_upstream import demo_spec
from relayd.wire.headers import name_of
from relayd.wire.http1 import parse_head
from relayd.wire.redact import escape

HELP = "show which route a request takes, why, and what would be sent upstream"
_URL = lazy_regex(r"(?:(?P<scheme>https?)://(?P<authority>[^/?#]*))?(?P<target>[^#]*)", re.IGNORECASE)


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--peer", default="127.0.0.1", metavar="ADDRESS", help="the client (default 127.0.0.1)")
    parser.add_argument("-H", "--header", action="append", default=[], metavar="'NAME: VALUE'", help="a header field")
    parser.add_argument("-d", "--data", metavar="BODY", help="a request body, for routing by model and for translation")
    parser.add_argument("--state", metavar="DIR", help=f"state directory with the key store (default {SYSTEM_STATE})")
    parser.add_argument("method", metavar="METHOD", help="the method, for example GET")
    parser.add_argument("url", metavar="URL", help="https://host:port/path?query, or only the path")


def run(arguments: argparse.Namespace) -> int:
    path = os.path.abspath(config_file(arguments))
    try:
        config = load(path).config
        keys = KeyStore(os.path.join(arguments.state, KEYS) if arguments.state else keys_folder())
        keys.load()
        plan = compile_plan(config, 1, builtin={"demo": demo_spec("")}, keys=keys)
    except ConfigError as refused:
        show(refused.findings, path, arguments.config)
        return os.EX_CONFIG
    try:
        request = _parse_request(arguments)
    except ExchangeError as refused:
        return _refused_at_once(refused, arguments)
    except ValueError as fault:
        err(f"relayd explain: {fault}")
        return 2
    result = explanation(plan, request)
    if arguments.json:
        out(json.dumps(result, indent=2))
    else:
        out("\n".join(_lines(result)))
    return 0 if result["route"] is not None else 1


def _parse_request(arguments: argparse.Namespace) -> HypotheticalRequest:
    """The hypothetical request, parsed like a real one. Raises ValueError, or ExchangeError from the parser."""
    url = _URL.fullmatch(arguments.url)
    if url is None or (url["authority"] is None and not url["target"].startswith("/") and url["target"] != "*"):
        raise ValueError("URL is http://host/path, https://host/path or /path, without a fragment")
    target = url["target"] if url["target"].startswith(("/", "*")) else "/" + url["target"]
    lines = [_bytes(field) for field in arguments.header]
    for line in lines:
        if b":" not in line or b"\n" in line or b"\r" in line:
            raise ValueError("a header field is written -H 'Name: value'")
    names = {name_of(line) for line in lines}
    if b"host" not in names:
        lines.insert(0, b"Host: " + _bytes(url["authority"] or "localhost"))
    if arguments.data is not None and not names & {b"content-length", b"transfer-encoding"}:
        lines.append(b"Content-Length: %d" % len(_bytes(arguments.data)))
    start = _bytes(f"{arguments.method} {target} HTTP/1.1")
    head = parse_head(b"\r\n".join([start, *lines, b"", b""]))
    body = None if arguments.data is None else _bytes(arguments.data)
    return HypotheticalRequest(head, (url["scheme"] or "").lower(), arguments.peer, body)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _refused_at_once(refused: ExchangeError, arguments: argparse.Namespace) -> int:
    answer = {"status": refused.kind.status, "code": refused.kind.code, "why": refused.detail}
    if arguments.json:
        out(json.dumps({"route": None, "answer": answer}, indent=2))
    else:
        out(f"refused before any route is matched: {answer['status']} {answer['code']} ({answer['why']})")
    return 1


def _lines(result: dict[str, Any]) -> list[str]:
    """The explanation as text. Values from the request are escaped."""
    request = result["request"]
    url = f"{request['scheme'] or 'http'}://{request['host']}{request['target']}"
    lines = [f"{request['method']} {url}", "", "listeners"]
    width = max((len(one["name"]) for one in result["listeners"]), default=0)
    lines += [f"  {one['name']:{width}}  {one['address']}: {one['why']}" for one in result["listeners"]]
    lines += ["", "routes"]
    width = max((len(one["name"]) for one in result["routes"]), default=0)
    signs = {"taken": ">", "shadowed": "(", "passed": "-"}
    for one in result["routes"]:
        reason = f"{one['condition']}: {one['reason']}" if one["condition"] else _OUTCOMES[one["outcome"]]
        lines.append(f"  {signs[one['outcome']]} {one['name']:{width}}  {reason}")
    if result["consumer"] is not None:
        known = result["consumer"]["known"]
        needed = ", ".join(result["consumer"]["allowed"]) or "everybody"
        carried = f"the key of {known}" if known else "no known key"
        if known and result["consumer"]["group"]:
            carried += f" of the group {result['consumer']['group']}"
        lines += ["", f"allowed   {needed}; the request carries {carried}"]
        for what in ("routes", "models"):
            if known and result["consumer"][what] is not None:
                lines.append(f"{what:9} {known} may use {', '.join(result['consumer'][what])} only")
    if result["cache"] is not None:
        cache = result["cache"]
        is_used = f"is looked up: key {cache['key']}" if cache["used"] else f"is not looked up: {cache['reason']}"
        lines += ["", f"cache     the request {is_used}"]
    if result["answer"] is not None:
        answer = result["answer"]
        code = f" {answer['code']}" if answer["code"] else ""
        lines += ["", f"relayd answers itself: {answer['status']}{code}, {answer['why']}"]
    if result["sent"] is not None:
        lines += ["", *_sent(result["sent"], result["answer"] is not None)]
    return [escape_line(line) for line in lines]


_OUTCOMES = {"taken": "takes the request", "shadowed": "would match too, but comes later"}


def escape_line(line: str) -> str:
    """Escape control characters, but keep quotes readable."""
    return "".join(sign if sign in "\"'\\" else escape(sign) for sign in line)


def _sent(sent: dict[str, Any], refused: bool) -> list[str]:
    lines = [
        "would be sent if it were not refused" if refused else "is sent",
        f"  upstream  {sent['upstream']} ({sent['protocol']}, HTTP/{sent['http']})",
        f"  endpoint  {', '.join(sent['endpoints'])}" + (" in turn" if len(sent["endpoints"]) > 1 else ""),
        f"  target    {sent['target']}",
        "  fields",
    ]
    added = set(sent["added"])
    lines += [f"    {'+' if line in added else ' '} {line}" for line in sent["fields"]]
    lines += [f"    - {line}" for line in sent["removed"]]
    lines.append(f"  body      {sent['body']}")
    if sent["translated"]:
        lines.append(f"  dialect   {sent['translated']}")
    if sent["model"] is not None:
        lines.append(f"  model     {sent['model']['asked']}" + (
            f", there {sent['model']['there']}" if sent["model"]["there"] != sent["model"]["asked"] else ""))
    lines += [f"  then      {one}" for one in sent["then"]]
    lines.append(f"  key       {sent['key'] or 'none is added'}")
    if sent["warning"]:
        lines.append(f"  warning   {sent['warning']}")
    lines.append("  timeouts  " + ", ".join(f"{name} {value}" for name, value in sent["timeouts"].items()))
    return lines
