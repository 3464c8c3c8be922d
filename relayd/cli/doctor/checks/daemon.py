"""The running relayd: it responds, serves the newest configuration, and which endpoints and keys it does not use.

Reads pages of the admin socket, and compares the file with the configuration in force as `relayd diff` does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

from relayd import __version__
from relayd.cli.admin_client import Unreachable
from relayd.cli.diagnosis import FAILURE, WARNING, Finding, failure, fine, unknown, warning
from relayd.cli.doctor.examination import Context
from relayd.cli.output import plain, span

LAG_MS, WORST_MS = 50.0, 1000.0
SHOWN = 5


async def run(context: Context) -> AsyncGenerator[Finding, None]:
    try:
        status = await context.page("/status")
    except Unreachable as failed:
        if "no answer within" in str(failed):
            cure = "journalctl -u relayd -p warning; systemctl restart relayd if it stays blocked"
            yield failure("running relayd", f"accepts a connection, but does not respond: {failed}", cure)
        else:
            yield unknown("running relayd", f"does not respond: {failed}", "start it, or name its socket with --socket")
        return
    for finding in of_status(status):
        yield finding
    for page, method, findings in (("/upstreams", "GET", of_upstreams), ("/diff", "POST", of_diff)):
        try:
            data = await context.page(page, method)
        except Unreachable as failed:
            yield unknown("running relayd", f"{failed}")
            continue
        for finding in findings(data):
            yield finding
    yield fine("running relayd", f"{status['version']}, pid {status['pid']}, generation {status['generation']}")


def of_status(status: dict[str, Any]) -> Iterator[Finding]:
    """The findings of /status."""
    subject = "running relayd"
    if status["phase"] != "serving":
        yield warning(subject, f"is {status['phase']}", "wait until it has ended or started: relayd status")
    if status["version"] != __version__:
        cause = f"is version {status['version']}, installed is {__version__}"
        yield warning(subject, cause, "relayd upgrade; or systemctl restart relayd")
    if status["refused"] is not None:
        first = plain("; ".join(status["refused"]["findings"][:2]))
        cause = f"the last reload was refused, generation {status['generation']} stays in force: {first}"
        yield failure(subject, cause, "relayd check, then systemctl reload relayd")
    overload, loop = status["overload"], status["loop"]
    if overload["active"]:
        cause = f"is overloaded ({overload['why']}): {overload['share']:.0%} of the requests are rejected"
        yield failure(subject, cause, "add an instance (handbook: More than one core), or limit the consumers")
    if loop["lag_ms"] > LAG_MS:
        yield warning(subject, f"its event loop is {loop['lag_ms']:g} ms late", "add an instance; relayd streams")
    elif loop["worst_ms"] > WORST_MS:
        cause = f"its event loop was once {loop['worst_ms']:g} ms late since the start"
        yield warning(subject, cause, "relayd-metrics(7), relayd.loop.lag shows when")
    if status["request_buffers"]["waiting"]:
        cause = f"{status['request_buffers']['waiting']} request bodies wait for memory"
        yield warning(subject, cause, "raise daemon.request_buffers if the machine has memory")
    yield from of_state(status)


def of_state(status: dict[str, Any]) -> Iterator[Finding]:
    """The findings of what relayd keeps on disk and in its store; older daemons tell less."""
    subject = "running relayd"
    keys, store, spend = (status.get(name) or {} for name in ("keys", "store", "spend"))
    if keys.get("fault"):
        yield failure(subject, f"the key store cannot be read: {plain(keys['fault'])}", "relayd keys list shows it")
    if store.get("degraded"):
        cure = "relayd doctor redis" if "server" in store else "df -h; journalctl -u relayd -p warning"
        yield failure(subject, f"the store {store['kind']} is degraded: {plain(str(store.get('why', '')))}", cure)
    if spend.get("fault"):
        cause = f"spend cannot be written to {plain(spend['file'])}, and stays in memory: {plain(spend['fault'])}"
        yield failure(subject, cause, plain(spend["cure"]))


def of_upstreams(data: dict[str, Any]) -> Iterator[Finding]:
    """The findings of /upstreams: endpoints that are not used, keys that are set aside."""
    for upstream in data["upstreams"]:
        ends = upstream["endpoints"]
        source = upstream.get("discovery") or {}
        if source.get("fault"):
            cause = f"its discovery fails: {plain(source['source'])}: {plain(source['fault'])}"
            yield warning(f"upstream {upstream['name']}", cause, f"relayd probe {upstream['name']}")
        away = [one for one in ends if not one["available"]]
        for one in away:
            level = FAILURE if len(away) == len(ends) else WARNING
            cause = f"is not used: {plain(reason(one))}"
            cure = f"relayd probe {upstream['name']}; relayd upstreams"
            yield Finding(level, f"upstream {upstream['name']}, {plain(one['address'])}", cause, cure)
        for key in upstream["keys"]:
            if key["state"] != "in_force":
                state = f"{key['state']} for {span(key['for_s'])}: {plain(key['why'])}"
                cause = f"the key of {plain(key['source'])} is {state}"
                yield warning(f"upstream {upstream['name']}", cause, "replace the key, then reload")


def reason(endpoint: dict[str, Any]) -> str:
    """Why an endpoint is not used."""
    reasons = []
    if endpoint["state"] != "enabled":
        reasons.append(f"{endpoint['state']} by an operator")
    if endpoint["health"] == "failing":
        reasons.append(f"the health check fails: {endpoint['health_why'] or 'no reason known'}")
    if endpoint["breaker"] == "open":
        reasons.append("the breaker is open")
    if endpoint["resting_for_s"]:
        reasons.append(f"cooling down for {span(endpoint['resting_for_s'])}")
    if endpoint["last_fault"]:
        reasons.append(f"last fault {endpoint['last_fault']}")
    return ", ".join(reasons) or "no reason known"


def of_diff(data: dict[str, Any]) -> Iterator[Finding]:
    """The findings of the comparison with the file. A faulty file is reported by the check `configuration`."""
    changes = data.get("changes", [])
    if changes:
        shown = "; ".join(plain(str(one)) for one in changes[:SHOWN]) + ("; ..." if len(changes) > SHOWN else "")
        cause = f"the file has {len(changes)} changes that are not in force: {shown}"
        yield warning("running relayd", cause, "systemctl reload relayd; or relayd diff")
