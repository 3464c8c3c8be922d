"""The stack of a Dokku include that follows a container: its promises over conf/examples/dokku.yaml."""

from __future__ import annotations

import queue
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.aids.seeds import Account, Outside, elsewhere, faults_of
from tests.functional.harness.examples import example
from tests.functional.harness.faults import get, post
from tests.functional.harness.message import Message, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream

KEY = b"Authorization: Bearer key-of-app"
ACCOUNTS: dict[int, Account] = {
    1: elsewhere("tests/functional/test_discovery_docker.py::test_a_dokku_deploy_with_renames_cuts_no_stream_and_no_request"),
    3: elsewhere("tests/functional/test_discovery_docker.py::test_twenty_deploys_under_load_lose_no_request_and_never_reach_the_squatter",
                 "tests/functional/test_names.py::test_a_kept_connection_follows_its_name_and_a_stream_finishes_on_the_old_address"),
    4: elsewhere("tests/functional/test_discovery_docker.py::test_pause_stop_start_health_and_networks", "tests/functional/test_discovery_dns.py::test_answers_that_change_and_fail_are_followed",
                 "tests/functional/test_discovery.py::test_a_changed_file_is_in_force_without_a_reload_and_cuts_no_stream"),
    5: elsewhere("tests/functional/test_discovery.py::test_a_changed_file_is_in_force_without_a_reload_and_cuts_no_stream"),
    6: elsewhere("tests/functional/test_discovery.py::test_a_deploy_hook_sets_the_endpoints_until_the_configuration_changes"),
    7: elsewhere("tests/functional/test_imports.py::test_an_import_behaves_as_the_original"),
    8: elsewhere("tests/packaging/test_install.py::test_who_is_in_the_group_uses_the_admin_socket_and_reads_no_key"),
    9: elsewhere("tests/packaging/test_install.py::test_who_is_in_the_group_uses_the_admin_socket_and_reads_no_key"),
    11: elsewhere("tests/functional/test_names.py::test_status_shows_the_addresses_and_since_when"),
    12: elsewhere("tests/functional/test_discovery.py::test_a_broken_file_keeps_the_addresses_and_is_reported_once"),
    15: Outside("relayd-migration(7): the AI process needs not be the web process"),
    16: elsewhere("tests/functional/test_discovery_docker.py::test_pause_stop_start_health_and_networks"),
    17: elsewhere("tests/functional/test_discovery_dns.py::test_answers_that_change_and_fail_are_followed"),
    18: elsewhere("tests/functional/test_discovery.py::test_a_command_is_followed_and_kept_in_bounds"),
    19: elsewhere("tests/packaging/test_install.py::test_everything_the_unit_names_is_there"),
}


def CONFIG(folder: Path, url: str) -> dict[str, Any]:
    return example("dokku", folder, url)


def test_every_row_has_one_account() -> None:
    assert not list(faults_of(__file__, 0, 19, ACCOUNTS))


def test_0_2_both_paths_go_to_the_same_upstream_and_events_are_not_held(relay: Relay, upstream: Upstream) -> None:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        assert upstream_may_go_on.get(timeout=60)
        peer.send(b"data: 2\n\n")
        peer.close()

    upstream_may_go_on: queue.Queue[bool] = queue.Queue()
    assert post(relay, b"/api/chat", b"{}", KEY).status == 200
    upstream.fresh()
    upstream.script = script
    with relay.client() as client:
        client.send(request(b"/api/chat/stream", KEY, method=b"POST", body=b"{}"))
        assert client.head_of_answer().status == 200
        assert b"data: 1\n\n" in client.read_some()
        upstream_may_go_on.put(True)
        assert b"data: 2\n\n" in client.read_some()
    assert upstream.heads[0].target == b"/api/chat/stream"


def test_0_10_explain_says_which_route_matched_and_a_404_names_the_request(relay: Relay, upstream: Upstream) -> None:
    def explained(path: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "relayd", "explain", "-c", str(relay.file), "POST", f"http://relayd.test{path}"], cwd=ROOT, capture_output=True, text=True)

    found, missed = explained("/api/chat"), explained("/api/other")
    assert found.returncode == 0 and "chat" in found.stdout and missed.returncode == 1 and "chat" in missed.stdout
    reply = get(relay, b"/api/other")
    assert reply.status == 404 and (reply.get("x-request-id") or b"?") in reply.body and upstream.nothing_came()


def test_0_13_only_the_two_paths_are_exposed(relay: Relay, upstream: Upstream) -> None:
    for path in (b"/", b"/api", b"/api/chat/", b"/api/chat/other", b"/api/chatter", b"/api/chat/stream/x", b"/v1/models"):
        assert get(relay, path).status == 404, path
    assert upstream.nothing_came()


def test_0_14_without_a_key_nothing_goes_to_the_container(relay: Relay, upstream: Upstream) -> None:
    assert post(relay, b"/api/chat", b"{}").status == 401
    assert post(relay, b"/api/chat", b"{}", b"Authorization: Bearer wrong").status == 401
    assert upstream.nothing_came()
    assert post(relay, b"/api/chat", b"{}", KEY).status == 200
