"""The stack of a Responses proxy behind Caddy: its promises over conf/examples/responses-proxy.yaml."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.aids.seeds import Account, elsewhere, faults_of
from tests.functional.harness.examples import example
from tests.functional.harness.faults import get, post, says, until
from tests.functional.harness.message import Message, answer
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream

JSON = b"Content-Type: application/json"
KEY = b"Authorization: Bearer cpk-clients-own-key"
MIGRATION = "tests/packaging/test_migration.py"
ACCOUNTS: dict[int, Account] = {
    1: elsewhere("tests/functional/test_listeners.py::test_a_large_answer_passes_over_tls"),
    6: elsewhere(*(f"tests/functional/test_time.py::{name}" for name in (
        "test_an_address_that_does_not_accept_is_504_connect_timeout", "test_a_silent_upstream_ends_in_504_first_byte_timeout",
        "test_a_stalled_stream_is_broken_off_and_says_so_in_the_log", "test_total_ends_an_exchange_that_is_neither_silent_nor_idle"))),
    7: elsewhere("tests/functional/test_listeners.py::test_the_name_chooses_the_certificate"),
    8: elsewhere("tests/functional/test_acme.py::test_a_listener_gets_its_certificate_by_http_01", "tests/functional/test_acme.py::test_tls_alpn_01_needs_no_plain_listener"),
    9: elsewhere("tests/functional/test_acme.py::test_a_restart_orders_nothing_again"),
    10: elsewhere("tests/functional/test_acme.py::test_changed_certificate_files_come_into_use_and_broken_ones_do_not"),
    12: elsewhere("tests/functional/test_resilience_seeds.py::test_the_breaker_opens_after_five_failures_and_health_says_so_in_the_seeds_words"),
    13: elsewhere("tests/functional/test_resilience_faults.py::test_a_burst_of_503_opens_the_breaker_and_a_probe_closes_it_again",
                  "tests/functional/test_resilience_faults.py::test_a_consumers_mistakes_open_no_breaker"),
    16: elsewhere("tests/packaging/test_install.py::test_after_installation_the_service_is_active_and_enabled_and_streams_tokens"),
    17: elsewhere("tests/functional/test_doctor.py::test_a_machine_with_many_faults_gets_a_cause_and_a_cure_for_each"),
    18: elsewhere("tests/functional/test_doctor.py::test_no_prompt_is_sent_and_a_sound_machine_has_no_failure"),
    19: elsewhere(f"{MIGRATION}::test_resource_limits_firewall_profile_and_networks_of_the_package"),
    20: elsewhere(f"{MIGRATION}::test_caddys_limits_of_connections_have_their_effect_on_the_installed_package"),
    21: elsewhere(f"{MIGRATION}::test_resource_limits_firewall_profile_and_networks_of_the_package"),
    23: elsewhere(f"{MIGRATION}::test_resource_limits_firewall_profile_and_networks_of_the_package"),
    24: elsewhere("tests/functional/test_acme.py::test_certs_lists_renews_exports_and_imports", "tests/functional/test_acme.py::test_damaged_state_is_set_aside_and_the_certificate_issued_again"),
    25: elsewhere("tests/packaging/test_restart.py::test_fifty_streams_live_through_reload_restart_upgrade_and_restart"),
    26: elsewhere("tests/functional/test_acme.py::test_until_there_is_a_certificate_handshakes_are_refused_and_plain_http_redirects"),
    28: elsewhere("tests/functional/test_development.py::test_the_first_request_of_the_readme_says_what_its_body_is"),
}


def CONFIG(folder: Path, url: str) -> dict[str, Any]:
    return example("responses-proxy", folder, url)


def completion(peer: Peer, message: Message) -> None:
    """Chat Completions, plain or streamed."""
    asked = json.loads(peer.whole(message).body)
    shape = {"id": "c", "object": "chat.completion", "created": 1, "model": asked["model"]}
    if not asked.get("stream"):
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
        peer.send(answer(json.dumps({**shape, "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}).encode(), JSON))
        return
    pieces = [{**shape, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in ("h", "i")]
    last = {**shape, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    body = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in (*pieces, last)) + b"data: [DONE]\n\n"
    peer.send(answer(body, b"Content-Type: text/event-stream"))


def test_every_row_has_one_account() -> None:
    assert not list(faults_of(__file__, 1, 28, ACCOUNTS))


def test_1_2_the_responses_api_is_answered_by_a_chat_completions_endpoint_plain_and_streamed(relay: Relay, upstream: Upstream) -> None:
    upstream.script = completion
    reply = post(relay, b"/v1/responses", json.dumps({"model": "m", "input": "hello"}).encode(), JSON, KEY)
    assert reply.status == 200 and json.loads(reply.body)["output"][0]["content"][0]["text"] == "hi"
    reply = post(relay, b"/v1/responses", json.dumps({"model": "m", "input": "hello", "stream": True}).encode(), JSON, KEY)
    kinds = re.findall(rb"^event: (\S+)", reply.body, re.MULTILINE)
    assert kinds[0] == b"response.created" and kinds.count(b"response.output_text.delta") == 2 and kinds[-1] == b"response.completed"


def test_1_3_the_full_path_of_the_backend_is_asked(relay: Relay, upstream: Upstream) -> None:
    upstream.script = completion
    post(relay, b"/v1/responses", json.dumps({"model": "m", "input": "hello"}).encode(), JSON, KEY)
    assert upstream.heads[0].target == b"/v1/chat/completions"


def test_1_4_the_inner_port_is_the_one_of_the_stack() -> None:
    text = (ROOT / "conf/examples/responses-proxy.yaml").read_text(encoding="utf-8")
    assert 'inner: {address: "127.0.0.1:8282"}' in text


def test_1_5_the_level_of_the_log_is_in_the_file_and_changes_by_a_reload(upstream: Upstream, folder: Path) -> None:
    with Relay(folder, upstream.url, example("responses-proxy", folder, upstream.url)) as relay:

        def reloaded(level: str) -> int:
            """The number of bytes that a reload under this level writes to the log."""
            relay.write({"telemetry": {"log": {"level": level}}})
            assert relay.admin("/reload", "POST")[0] == 200
            before = relay.error_file.stat().st_size + relay.out_file.stat().st_size
            assert relay.admin("/reload", "POST")[0] == 200
            return relay.error_file.stat().st_size + relay.out_file.stat().st_size - before

        assert reloaded("error") == 0 and reloaded("info") > 0


def test_1_11_a_listener_without_tls_serves_local_work(relay: Relay) -> None:
    assert get(relay, b"/health").status == 200  # the harness's listener is plain


def test_1_14_health_is_on_the_listener_and_on_the_admin_socket(relay: Relay) -> None:
    assert json.loads(get(relay, b"/health").body)["status"] == "healthy"
    assert relay.admin("/health")[0] == 200


def test_1_15_every_request_has_one_record_with_model_duration_status_and_tokens(relay: Relay, upstream: Upstream) -> None:
    upstream.script = completion
    post(relay, b"/v1/responses", json.dumps({"model": "recorded", "input": "hello"}).encode(), JSON, KEY)
    record = relay.record(model="recorded")
    assert record["event"] == "request_completed" and record["status"] == 200
    assert {key for key in record if "token" in key} and any(key.endswith("_s") or key.endswith("_ms") for key in record)


def test_1_22_a_key_of_a_client_goes_to_the_backend_and_nowhere_else(relay: Relay, upstream: Upstream) -> None:
    upstream.script = completion
    post(relay, b"/v1/responses", json.dumps({"model": "secretly", "input": "hello"}).encode(), JSON, KEY)
    assert upstream.heads[0].get("authorization") == b"Bearer cpk-clients-own-key"
    upstream.script = says(b'{"error": {"message": "no"}}', JSON, status=b"401 Unauthorized")
    post(relay, b"/v1/responses", json.dumps({"model": "secretly", "input": "hello"}).encode(), JSON, KEY)
    until(lambda: len([one for one in relay.records() if one.get("model") == "secretly"]) == 2)
    shown = relay.output() + b"".join(relay.admin(path)[1] for path in ("/status", "/upstreams", "/metrics", "/streams", "/queue"))
    assert b"cpk-clients-own-key" not in shown


def test_1_27_the_old_env_becomes_a_configuration(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("BACKEND_URL=https://llm.chutes.ai/v1/chat/completions\nBACKEND_TIMEOUT_SECS=600\nHOST_PORT=8282\nRUST_LOG=info\n"
                   "CADDY_DOMAIN=responses-proxy.example.org\nCADDY_PORT=443\nCADDY_TLS=true\n")
    out = tmp_path / "relayd.yaml"
    done = subprocess.run([sys.executable, "-m", "relayd", "import", str(env), "-o", str(out), "--strict"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    assert "https://llm.chutes.ai/v1" in text and "responses-proxy.example.org" in text and "https_redirect: true" in text
    checked = subprocess.run([sys.executable, "-m", "relayd", "check", "-c", str(out)], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0 or "acme" in checked.stderr, checked.stderr  # python3-acme may be missing
