"""The stack of Model Hunter (three providers with limits, Redis, nginx): its promises over conf/examples/model-hunter.yaml."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.aids.imports import SAMPLES
from tests.aids.seeds import Account, elsewhere, faults_of
from tests.functional.harness.examples import example
from tests.functional.harness.faults import get, post, says
from tests.functional.harness.message import Message, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Upstream
from tests.functional.test_resilience_fallbacks import completion

JSON = b"Content-Type: application/json"
APP = b"Authorization: Bearer key-of-app"
OPERATOR = b"Authorization: Bearer key-of-operator"
ACCOUNTS: dict[int, Account] = {
    2: elsewhere("tests/functional/test_store_redis.py::test_a_conversation_goes_on_in_another_process_also_after_an_outage", "tests/functional/test_store_redis.py::test_without_redis_relayd_starts_degraded",
                 "tests/functional/test_sessions_shared.py::test_sessions_go_on_while_redis_is_away"),
    3: elsewhere("tests/functional/test_store_redis.py::test_a_conversation_goes_on_in_another_process_also_after_an_outage", "tests/unit/stores/test_contract.py::test_bytes_are_bounded_and_counted"),
    4: elsewhere("tests/functional/test_resilience_seeds.py::test_each_provider_has_its_own_concurrency_and_the_rest_waits",
                 "tests/functional/test_admission.py::test_a_reload_that_raises_the_limit_lets_those_in_who_wait"),
    5: elsewhere("tests/functional/test_admission.py::test_who_waits_is_served_by_priority_then_by_turns_of_the_consumers", "tests/functional/test_admission.py::test_a_full_queue_answers_at_once_and_says_when_to_come_back",
                 "tests/functional/test_admission.py::test_a_client_that_leaves_the_queue_frees_its_place_at_once"),
    7: elsewhere("tests/functional/test_http2.py::test_requests_of_many_clients_share_one_connection", "tests/functional/test_reload_and_stop.py::test_an_unchanged_upstream_keeps_its_connections"),
    8: elsewhere("tests/packaging/test_install.py::test_after_installation_the_service_is_active_and_enabled_and_streams_tokens"),
    10: elsewhere("tests/functional/test_handover.py::test_an_upgrade_loses_no_stream_and_no_newcomer", "tests/functional/test_handover.py::test_a_new_process_that_cannot_start_leaves_the_old_one_serving"),
    11: elsewhere("tests/functional/test_session_commands.py::test_the_sessions_of_the_old_program_go_on"),
    13: elsewhere("tests/packaging/test_life_of_the_package.py::test_a_downgrade_works_in_the_same_way", "tests/packaging/test_install.py::test_generations_survive_a_restart_and_can_be_rolled_back"),
    14: elsewhere("tests/functional/test_doctor.py::test_a_machine_with_many_faults_gets_a_cause_and_a_cure_for_each", "tests/functional/test_reload_and_stop.py::test_a_port_in_use_is_named_with_who_holds_it"),
    15: elsewhere("tests/packaging/test_install.py::test_after_installation_the_service_is_active_and_enabled_and_streams_tokens"),
}


def CONFIG(folder: Path, url: str) -> dict[str, Any]:
    return example("model-hunter", folder, url)


def test_every_row_has_one_account() -> None:
    assert not list(faults_of(__file__, 3, 15, ACCOUNTS))


def session(relay: Relay, method: bytes, session_id: bytes = b"", body: bytes | None = None) -> Message:
    fields = [APP, JSON, *([b"Cookie: session=" + session_id] if session_id else [])]
    with relay.client() as client:
        return client.ask(request(b"/api/session", *fields, method=method, body=body))


def test_3_1_a_session_survives_a_restart_and_is_renewed_by_each_access(tmp_path: Path, upstream: Upstream) -> None:
    with Relay(tmp_path / "relay", upstream.url, CONFIG(tmp_path / "keys", upstream.url)) as relay:
        made = session(relay, b"PUT", body=b'{"cart": [1]}')
        session_id = made.get("x-session-id") or b""
        assert made.status == 201 and len(session_id) >= 22
        assert relay.stop() == 0
        relay.start()
        found = session(relay, b"GET", session_id)
        assert (found.status, json.loads(found.body)) == (200, {"cart": [1]})
        assert b"Max-Age=7200" in (found.get("set-cookie") or b""), "two hours from this access on"
        assert get(relay, b"/api/session").status == 401


def test_3_6_a_missing_key_is_named_by_check_with_its_line(tmp_path: Path) -> None:
    text = (ROOT / "conf/examples/model-hunter.yaml").read_text(encoding="utf-8").replace("/etc/relayd/keys/", f"{tmp_path}/")
    for name in ("openai", "openrouter", "app", "operator"):
        (tmp_path / name).write_text(f"key-of-{name}\n")
        (tmp_path / name).chmod(0o600)
    file = tmp_path / "relayd.yaml"
    file.write_text(text)
    done = subprocess.run([sys.executable, "-m", "relayd", "check", "-c", str(file)], cwd=ROOT, capture_output=True, text=True)
    line = next(number for number, one in enumerate(text.splitlines(), 1) if f"{tmp_path}/fireworks" in one)
    assert done.returncode == 78 and f"{file}:{line}:" in done.stderr and "fireworks" in done.stderr


def test_3_9_health_for_everyone_and_status_for_operators_only(relay: Relay, upstream: Upstream) -> None:
    assert json.loads(get(relay, b"/api/health").body)["status"] == "healthy"
    assert get(relay, b"/api/admin/status").status == 401 and get(relay, b"/api/admin/status", APP).status == 403
    told = json.loads(get(relay, b"/api/admin/status", OPERATOR).body)
    assert {"openrouter", "fireworks", "openai"} <= {one["name"] for one in told["upstreams"]} if isinstance(told["upstreams"], list) else set(told["upstreams"])
    assert upstream.nothing_came()


def test_3_12_the_old_project_becomes_a_configuration(tmp_path: Path) -> None:
    """The way back: docker-compose.yml and .env, converted and accepted; the keys are in files that only their owner reads."""
    folder = SAMPLES / "compose" / "3-model-hunter"
    out, keys = tmp_path / "relayd.yaml", tmp_path / "keys"
    argv = [sys.executable, "-m", "relayd", "import", str(folder / "docker-compose.yml"), str(folder / "dot.env"), "-o", str(out), "--keys", str(keys)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    checked = subprocess.run([sys.executable, "-m", "relayd", "check", "-c", str(out)], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in keys.iterdir()} == dict.fromkeys(("app", "fireworks", "openai", "openrouter"), "0o600")


def test_every_provider_gets_its_own_key_and_the_model_chooses_it(relay: Relay, upstream: Upstream) -> None:
    for model, key in (("gpt-4o", b"key-of-openai"), ("accounts/fireworks/models/x", b"key-of-fireworks"), ("anthropic/claude", b"key-of-openrouter")):
        upstream.fresh()
        upstream.script = says(completion("yes"), JSON)
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]}).encode()
        assert post(relay, b"/v1/chat/completions", body, JSON, APP).status == 200
        assert upstream.heads[0].get("authorization") == b"Bearer " + key
