"""The stack of a transparent FastAPI and HTTPX proxy: its promises over conf/examples/transparent-proxy.yaml."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.aids.seeds import Account, Outside, elsewhere, faults_of
from tests.functional.harness.examples import example
from tests.functional.harness.faults import get, post, refused_url
from tests.functional.harness.message import answer, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Upstream, saying

ACCOUNTS: dict[int, Account] = {
    5: elsewhere("tests/functional/test_resilience_seeds.py::test_a_failed_connection_is_tried_three_times_more_and_ends_in_502_or_504"),
    6: elsewhere("tests/packaging/test_sockets.py::test_instances_share_a_port_each_with_its_own_admin_socket"),
    8: elsewhere("tests/functional/test_streaming.py::test_every_event_reaches_the_client_before_the_next_one_is_made"),
    9: elsewhere("tests/functional/test_resilience_seeds.py::test_a_failed_connection_is_tried_three_times_more_and_ends_in_502_or_504"),
    10: elsewhere("tests/unit/importers/test_compose.py::test_the_variables_of_the_transparent_proxy"),
    14: elsewhere("tests/functional/test_behind_proxies.py::test_all_forwarding_fields_say_the_same", "tests/functional/test_listeners.py::test_a_trusted_proxy_is_believed_up_to_the_first_stranger"),
    15: elsewhere("tests/functional/test_http2.py::test_requests_of_many_clients_share_one_connection", "tests/functional/test_delivery.py::test_hundred_clients_at_once_share_a_pool"),
    16: elsewhere("tests/functional/test_streaming.py::test_large_bodies_pass_byte_for_byte", "tests/functional/test_streaming.py::test_a_slow_client_holds_back_the_upstream_and_costs_no_memory"),
    19: elsewhere("tests/packaging/test_install.py::test_everything_the_unit_names_is_there", "tests/packaging/test_restart.py::test_a_loop_that_hangs_is_found_by_the_watchdog"),
    20: elsewhere("tests/functional/test_development.py::test_run_watch_reloads_what_is_edited_and_serves_on_what_is_broken"),
    21: elsewhere("tests/functional/test_doctor.py::test_a_machine_with_many_faults_gets_a_cause_and_a_cure_for_each",
                  "tests/functional/test_reload_and_stop.py::test_a_port_in_use_is_named_with_who_holds_it"),
    22: Outside("a server with apt is supported; hosted platforms are not, which relayd-migration(7) says"),
    23: Outside("the tests of this project"),
    25: elsewhere("tests/functional/test_slow_readers.py::test_the_kernel_holds_little_for_a_client_that_has_stopped_reading"),
}
METHODS = (b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"HEAD")


def CONFIG(folder: Path, url: str) -> dict[str, Any]:
    return example("transparent-proxy", folder, url)


def test_every_row_has_one_account() -> None:
    assert not list(faults_of(__file__, 2, 25, ACCOUNTS))


@pytest.mark.parametrize("method", METHODS)
def test_2_1_every_method_passes_with_fields_query_and_body(method: bytes, relay: Relay, upstream: Upstream) -> None:
    body = None if method in (b"GET", b"HEAD", b"OPTIONS", b"DELETE") else b'{"a": "\xc3\xa9"}'
    upstream.script = saying(answer(b"" if method == b"HEAD" else b"back", b"X-Twice: 1", b"x-TWICE: 2", status=b"207 Multi"))
    with relay.client() as client:
        reply = client.ask(request(b"/api/a%2Fb;c?q=%20&&r", b"X-Odd:  two  spaces", b"x-odd: again", b"Authorization: Bearer mine", method=method, body=body))
    seen = upstream.heads[0]
    assert (seen.method, seen.target, seen.body) == (method, b"/api/a%2Fb;c?q=%20&&r", body or b"")
    assert seen.get_all("x-odd") == [b"two  spaces", b"again"] and seen.get("authorization") == b"Bearer mine"
    assert reply.status == 207 and reply.get_all("x-twice") == [b"1", b"2"]


def test_2_2_health_names_target_timeout_and_verification(relay: Relay, upstream: Upstream) -> None:
    told = json.loads(get(relay, b"/api/health").body)
    assert told == {"status": "healthy", "target_url": upstream.url, "timeout": 300, "ssl_verify": True} and upstream.nothing_came()


def test_2_3_ping_is_answered_here(relay: Relay, upstream: Upstream) -> None:
    assert get(relay, b"/api/ping").status == 200 and upstream.nothing_came()


def test_2_4_target_and_port_are_those_of_the_stack() -> None:
    text = (ROOT / "conf/examples/transparent-proxy.yaml").read_text(encoding="utf-8")
    assert 'address: "0.0.0.0:8080"' in text and "https://ai.megallm.io" in text


def test_2_7_browsers_of_every_origin_may_ask(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        reply = client.ask(request(b"/api/chat", b"Origin: https://app.example.org", b"Access-Control-Request-Method: POST", b"Access-Control-Request-Headers: x-team", method=b"OPTIONS"))
    assert reply.status in (200, 204) and reply.get("access-control-allow-origin") in (b"*", b"https://app.example.org") and upstream.nothing_came()


def test_2_11_the_old_env_becomes_a_configuration(tmp_path: Path) -> None:
    env = tmp_path / "proxy.env"
    env.write_text("TARGET_URL=https://ai.megallm.io\nPORT=8080\nHOST=0.0.0.0\nREQUEST_TIMEOUT=300\nLOG_LEVEL=INFO\nENABLE_CORS=true\nSSL_VERIFY=true\n")
    done = subprocess.run([sys.executable, "-m", "relayd", "import", "compose", str(env), "-o", str(tmp_path / "r.yaml"), "--strict"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    checked = subprocess.run([sys.executable, "-m", "relayd", "check", "-c", str(tmp_path / "r.yaml")], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_2_12_a_record_has_method_path_client_id_time_and_status(relay: Relay) -> None:
    reply = get(relay, b"/recorded/here?x=1")
    record = relay.record(path="/recorded/here")
    assert record["method"] == "GET" and record["status"] == 200 and record["client"].startswith("127.0.0.1")
    assert (reply.get("x-request-id") or b"").decode() in record.values()


def test_2_13_the_response_names_proxy_request_and_time(relay: Relay, upstream: Upstream) -> None:
    reply = get(relay, b"/x")
    assert float(reply.get("x-process-time") or b"nan") >= 0 and reply.get("x-request-id") and reply.get("x-proxy-by")
    assert upstream.heads[0].get("x-request-id") == reply.get("x-request-id")


def test_2_17_an_unreachable_target_is_502_with_a_stable_code(folder: Path) -> None:
    change = example("transparent-proxy", folder, refused_url())
    change["upstreams"]["target"]["retries"]["backoff"] = "1ms"
    with Relay(folder, refused_url(), change) as relay:
        reply = post(relay, b"/api/chat", b"{}")
        assert (reply.status == 502 and b"upstream_unreachable" in reply.body) or b"connect" in reply.body


def test_2_18_fields_of_the_connection_are_not_passed_on(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.ask(request(b"/x", b"Connection: close, X-Secret", b"X-Secret: 1", b"Proxy-Authorization: Basic eDp5", b"TE: trailers", b"Keep-Alive: 1"))
    assert not {b"x-secret", b"proxy-authorization", b"keep-alive"} & set(upstream.heads[0].names)


def test_2_24_only_the_host_of_the_url_changes(relay: Relay, upstream: Upstream) -> None:
    get(relay, b"/api/chat?model=a/b")
    assert upstream.heads[0].target == b"/api/chat?model=a/b" and upstream.heads[0].get("host") == upstream.url.partition("://")[2].encode()
