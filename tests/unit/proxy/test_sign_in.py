"""Browsers on a route of an application: who reaches what, sign-in, and the ends of a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.errors import ExchangeError
from relayd.plan.plan import Plan
from relayd.proxy.browser_session import is_over
from relayd.proxy.exchange import Exchange
from relayd.proxy.sign_in import Browser
from tests.unit.proxy.fakes import UPSTREAM, Client, FakeGateway, head_for, plan_of, run_through_phases

ROUTE = "routes: [{name: pages, match: {prefix: /in/}, upstream: admin, admin_prefix: /in, allow: [ops]}]\n"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    for name in ("ops", "other"):
        (tmp_path / name).write_text(f"sk-{name}-key")
    consumers = ", ".join(f"{name}: {{key: {{file: {tmp_path / name}}}}}" for name in ("ops", "other"))
    return plan_of(f"{UPSTREAM}{ROUTE}consumers: {{{consumers}}}\n")


def asked(plan: Plan, owner: FakeGateway, *lines: str, start: str = "GET /in/dashboard/session") -> tuple[Client, Exchange]:
    head = head_for(*lines, start=f"{start} HTTP/1.1")
    client, exchange, _ = run_through_phases(plan, head, Client("203.0.113.9"), owner)
    return client, exchange


def signed_in(plan: Plan, owner: FakeGateway, key: bytes) -> str | ExchangeError:
    """What a sign-in with this key leads to."""
    found: list[str | ExchangeError] = []
    _, exchange = asked(plan, owner, start="GET /in/dashboard/")
    Browser(exchange).sign_in(key, found.append)
    return found[0]


@pytest.mark.parametrize(("start", "status"), [
    ("GET /in/dashboard/", 200), ("HEAD /in/dashboard/", 200), ("GET /in/dashboard/static/main.js", 200),
    ("GET /in/dashboard/session", 401), ("GET /in/dashboard/events", 401), ("GET /in/status", 401), ("POST /in/dashboard/", 401),
    ("POST /in/dashboard/actions/reload", 401), ("GET /in/dashboard/sign-in", 401), ("GET /in/dashboard/staticx", 401),
])
def test_a_browser_without_a_session_reaches_the_sign_in_only(plan: Plan, start: str, status: int) -> None:
    assert asked(plan, FakeGateway(), start=start)[0].status == status


def test_a_wrong_key_in_a_field_is_refused_on_every_path(plan: Plan) -> None:
    owner = FakeGateway()
    assert asked(plan, owner, "Authorization: Bearer wrong", start="GET /in/dashboard/")[0].status == 401
    assert owner.failed_keys.failures == 1


def test_the_token_of_a_sign_in_identifies_later_requests(plan: Plan) -> None:
    owner = FakeGateway()
    token = signed_in(plan, owner, b"sk-ops-key")
    client, exchange = asked(plan, owner, f"Cookie: relayd_sign_in={token}")
    assert client.status == 200 and exchange.consumer == "ops" and exchange.session is not None and not is_over(exchange)
    assert asked(plan, owner, f"Cookie: relayd_sign_in={token}x")[0].status == 401
    Browser(exchange).sign_out()
    assert is_over(exchange) and asked(plan, owner, f"Cookie: relayd_sign_in={token}")[0].status == 401


def test_a_wrong_key_is_counted_and_one_without_access_is_forbidden(plan: Plan) -> None:
    owner = FakeGateway()
    outcomes = [signed_in(plan, owner, key) for key in (b"", b"sk-other-key", b"a", b"b", b"c", b"sk-ops-key")]
    assert all(isinstance(one, ExchangeError) for one in outcomes)
    codes = [one.kind.code for one in outcomes if isinstance(one, ExchangeError)]
    assert codes == ["unauthorized", "forbidden", *["unauthorized"] * 3, "too_many_failed_keys"]
    assert len(owner.sessions) == 0


@pytest.mark.parametrize(("old", "new"), [("allow: [ops]", "allow: [other]"), ("sk-ops-key", "sk-new-key")])
def test_a_session_ends_with_its_key_and_with_the_access_of_its_consumer(
    plan: Plan, tmp_path: Path, old: str, new: str
) -> None:
    owner = FakeGateway()
    token = signed_in(plan, owner, b"sk-ops-key")
    (tmp_path / "ops").write_text("sk-ops-key".replace(old, new))
    consumers = ", ".join(f"{name}: {{key: {{file: {tmp_path / name}}}}}" for name in ("ops", "other"))
    later = plan_of(f"{UPSTREAM}{ROUTE}consumers: {{{consumers}}}\n".replace(old, new))
    assert asked(later, owner, f"Cookie: relayd_sign_in={token}")[0].status == 401
    assert len(owner.sessions) == 0
    assert asked(plan, owner, f"Cookie: relayd_sign_in={token}")[0].status == 401
