"""The stack of a chat gateway (Gemini, LiteLLM, Ollama, Traefik): its promises over conf/examples/chat-gateway.yaml."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.aids.imports import SAMPLES, files_of, filled
from tests.aids.seeds import Account, elsewhere, faults_of
from tests.functional.harness.examples import example
from tests.functional.harness.faults import get, post
from tests.functional.harness.message import Message, answer
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream

JSON = b"Content-Type: application/json"
APPS = b"Authorization: Bearer key-of-apps"
HELLO = {"messages": [{"role": "user", "content": "Hello!"}], "temperature": 0.7, "max_tokens": 50}
ACCOUNTS: dict[int, Account] = {
    1: elsewhere("tests/functional/test_chat_gateway.py::test_a_local_model_answers_in_the_shape_of_the_old_gateway"),
    2: elsewhere("tests/functional/test_chat_gateway.py::test_the_backend_is_the_upstream_that_answered_whatever_the_model_is_called"),
    3: elsewhere("tests/functional/test_chat_gateway.py::test_metrics_have_the_names_that_dashboards_know", "tests/functional/test_chat_gateway.py::test_the_webhook_remembers_a_session",
                 "tests/functional/test_chat_gateway.py::test_health_asks_nobody"),
    6: elsewhere("tests/functional/test_listeners.py::test_a_trusted_proxy_is_believed_up_to_the_first_stranger", "tests/functional/test_streaming.py::test_every_event_reaches_the_client_before_the_next_one_is_made"),
    7: elsewhere("tests/functional/test_resilience_seeds.py::test_health_answers_while_every_worker_is_busy"),
    8: elsewhere("tests/packaging/test_restart.py::test_a_loop_that_hangs_is_found_by_the_watchdog", "tests/functional/test_resilience_overload.py::test_when_the_loop_is_late_bulk_is_turned_away_and_the_important_is_served"),
    10: elsewhere("tests/functional/test_chat_gateway.py::test_health_asks_nobody"),
    12: elsewhere("tests/packaging/test_install.py::test_https_upstreams_low_ports_and_journal_fields_work_in_the_sandbox"),
    13: elsewhere("tests/functional/test_monitoring.py::test_promtool_accepts_the_rules_and_each_alert_fires_and_resolves", "tests/functional/test_monitoring.py::test_alerts_fire_under_faults_and_resolve"),
    14: elsewhere("tests/functional/test_issued_keys.py::test_a_key_has_the_rates_that_were_stated_and_a_reload_or_rotation_gives_it_no_more", "tests/functional/test_budgets.py::test_a_thousand_requests_at_once_spend_no_more_than_a_budget_for_five_hundred",
                  "tests/unit/limits/test_ledger.py::test_every_value_of_each_has_its_own_counter_and_idle_ones_are_forgotten", "tests/functional/test_admission.py::test_a_full_queue_answers_at_once_and_says_when_to_come_back"),
    16: elsewhere("tests/functional/test_admin_over_a_route.py::test_allow_stands_before_all_of_it"),
}


def CONFIG(folder: Path, url: str) -> dict[str, Any]:
    config = example("chat-gateway", folder, url)
    config["upstreams"]["gemini"]["endpoints"] = [f"{url}/v1beta"]
    return config


def models(peer: Peer, message: Message) -> None:
    """Ollama and Gemini, each in its own shape."""
    peer.whole(message)
    if message.target == b"/api/chat":
        peer.send(answer(json.dumps({"message": {"role": "assistant", "content": "local"}, "done": True, "done_reason": "stop", "prompt_eval_count": 1, "eval_count": 1}).encode(), JSON))
    else:
        peer.send(answer(json.dumps({"candidates": [{"content": {"role": "model", "parts": [{"text": "cloud"}]}, "finishReason": "STOP"}]}).encode(), JSON))


def test_every_row_has_one_account() -> None:
    assert not list(faults_of(__file__, 4, 16, ACCOUNTS))


def test_4_4_the_models_of_the_stack_are_asked_at_ollama_directly(relay: Relay, upstream: Upstream) -> None:
    for model, named in (("mistral-7b-instruct", "mistral:7b-instruct"), ("phi-3-mini", "phi3:mini"), ("llama3.2-3b", "llama3.2:3b")):
        upstream.fresh()
        upstream.script = models
        reply = post(relay, b"/chat", json.dumps({"model": model, **HELLO}).encode(), JSON, APPS)
        told = json.loads(reply.body)
        assert (told["model"], told["backend"], told["choices"][0]["message"]["content"]) == (model, "litellm", "local")
        assert json.loads(upstream.heads[0].body)["model"] == named and upstream.heads[0].target == b"/api/chat"


def test_4_5_a_new_key_of_gemini_is_in_force_after_a_reload(upstream: Upstream, folder: Path) -> None:
    upstream.script = models
    with Relay(folder, upstream.url, CONFIG(folder, upstream.url)) as relay:
        body = json.dumps({"model": "gemini-1.5-flash", **HELLO}).encode()
        assert json.loads(post(relay, b"/chat", body, JSON, APPS).body)["backend"] == "gemini"
        (folder / "gemini").write_text("a-new-key")
        assert relay.admin("/reload", "POST")[0] == 200
        post(relay, b"/chat", body, JSON, APPS)
    assert [head.get("x-goog-api-key") for head in upstream.heads] == [b"key-of-gemini", b"a-new-key"]


def test_4_9_liveness_readiness_and_the_state_of_upstreams_are_three_answers(relay: Relay) -> None:
    assert [relay.admin(path)[0] for path in ("/live", "/ready")] == [200, 200]
    assert get(relay, b"/health").status == 200 and b"ollama" in relay.admin("/upstreams")[1]


def test_4_11_nobody_chats_without_a_key(relay: Relay, upstream: Upstream) -> None:
    body = json.dumps({"model": "mistral-7b-instruct", **HELLO}).encode()
    assert post(relay, b"/chat", body, JSON).status == 401 and get(relay, b"/metrics").status == 401 and upstream.nothing_came()


def test_4_15_compose_traefik_and_litellm_files_are_read(tmp_path: Path) -> None:
    sources = {"compose": SAMPLES / "compose" / "4-chat-gateway", "traefik": SAMPLES / "traefik" / "1-routes.yml", "litellm": SAMPLES / "litellm" / "1-simple"}
    for kind, sample in sources.items():
        files = []
        for path in files_of(sample):
            (tmp_path / path.name).write_text(filled(path.read_text(encoding="utf-8")))
            files.append(str(tmp_path / path.name))
        out = tmp_path / f"{kind}.yaml"
        done = subprocess.run([sys.executable, "-m", "relayd", "import", *files, "-o", str(out), "--keys", str(tmp_path / kind)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and f"{kind}: " in done.stdout, done.stderr
        checked = subprocess.run([sys.executable, "-m", "relayd", "check", "-c", str(out)], cwd=ROOT, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
