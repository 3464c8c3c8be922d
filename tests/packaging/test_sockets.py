"""Socket activation, and several instances on one port."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.conftest import WEB, Testbed, on_a_quiet_machine, until

pytestmark = pytest.mark.packaging

EXAMPLES = "/usr/share/doc/relayd/examples"


@pytest.fixture(scope="module")
def serving(system: Testbed) -> Testbed:
    system.upstream()
    return system


def test_relayd_takes_its_listener_from_systemd_and_needs_no_capability(serving: Testbed) -> None:
    serving.sh(f"mkdir -p /etc/systemd/system/relayd.service.d; cp {EXAMPLES}/socket.conf /etc/systemd/system/relayd.service.d/")
    serving.write("/etc/relayd.yaml", WEB.replace("127.0.0.1:8282", "systemd:public"))
    serving.sh("systemctl daemon-reload; systemctl enable -q relayd.socket; systemctl restart relayd.socket relayd.service")
    assert '"path": "/x"' in serving.curl("http://127.0.0.1:80/x")
    assert "CapBnd:\t0000000000000000" in serving.sh(f"cat /proc/{serving.worker_pid()}/status")
    assert float(serving.sh("systemd-analyze security --no-pager relayd | tail -n 1").split()[6]) <= 1.4


def test_restarts_end_no_stream_and_refuse_nobody(serving: Testbed) -> None:
    held = serving.hold(20, 7, "127.0.0.1:80")
    asking = serving.beside("ask", "127.0.0.1:80", "6")
    serving.sh("systemctl restart relayd; sleep 0.5; relayd upgrade; systemctl restart relayd.service")
    assert serving.outcome(asking)["faults"] == []
    assert serving.outcome(held) == {"streams": 20, "faults": []}


def test_a_socket_that_a_reload_cannot_have_is_explained(serving: Testbed) -> None:
    serving.sh("cp -p /etc/relayd.yaml /var/tmp/kept; sed -i 's/^listeners: {/&more: {address: \"systemd:more\"}, /' /etc/relayd.yaml")
    assert serving.call("exec", "systemctl", "reload", "relayd").returncode != 0
    assert "systemctl restart relayd.socket relayd.service" in serving.journal(10)
    serving.drop_in("more", "[Socket]\nListenStream=81\n", "relayd.socket")
    # One name for both ports: both are one listener. Two listeners need two socket units.
    serving.sh("cat /var/tmp/kept >/etc/relayd.yaml; systemctl restart relayd.socket relayd.service")
    assert '"path": "/x"' in serving.curl("http://127.0.0.1:81/x")


def test_connections_wait_while_the_service_is_stopped_and_start_it(serving: Testbed) -> None:
    serving.run("exec", "systemctl", "stop", "relayd.service")
    assert '"path": "/wake"' in serving.curl("http://127.0.0.1:80/wake")
    assert serving.show("ActiveState") == "active"
    serving.sh("systemctl disable -q --now relayd.socket; systemctl stop relayd; rm -r /etc/systemd/system/relayd.s*.d; systemctl daemon-reload")


def test_instances_share_a_port_each_with_its_own_admin_socket(serving: Testbed) -> None:
    serving.write("/etc/relayd.yaml", WEB.replace("'127.0.0.1:8282'", "'127.0.0.1:8282', reuse_port: true"))
    serving.sh("systemctl disable -q --now relayd; systemctl enable -q --now relayd@1 relayd@2")
    for _ in range(30):
        assert "/x" in serving.curl("http://127.0.0.1:8282/x")

    def answered(name: str) -> int:
        return serving.sh(f"journalctl -u relayd@{name} --no-pager").count("request_completed 200")

    until(lambda: answered("1") + answered("2") == 30)
    assert answered("1") and answered("2")
    assert serving.sh("relayd status --instance 1 --json") != serving.sh("relayd status --instance 2 --json")
    serving.sh("sed -i 's/^routes:.*/&\\n# nothing new/' /etc/relayd.yaml; systemctl reload 'relayd@*'")
    assert "generation 1" in serving.sh("relayd status --instance 1"), "no change, no new generation"
    serving.sh("sed -i '$aheaders: {proxy_by: X-Changed}' /etc/relayd.yaml; systemctl reload 'relayd@*'")
    assert "generation 2" in serving.sh("relayd status --instance 1") + serving.sh("relayd status --instance 2")


def test_one_instance_is_restarted_while_streams_go_on_in_all(serving: Testbed) -> None:
    held = serving.hold(20, 5)
    asking = serving.beside("ask", "127.0.0.1:8282", "4")
    serving.sh("systemctl restart relayd@1; systemctl stop relayd@2 && systemctl start relayd@2")
    told = serving.outcome(asking)
    assert serving.outcome(held) == {"streams": 20, "faults": []}
    assert told["asked"] > 1 and told["slowest_s"] < on_a_quiet_machine(1.5)
    until(lambda: "serving" in serving.sh("relayd status --instance 2"))
    serving.sh("test -S /run/relayd-1/admin.sock; test -S /run/relayd-2/admin.sock; ls /var/lib/relayd/1/generations")


def test_a_rolling_restart_of_all_instances_loses_no_request(serving: Testbed) -> None:
    asking = [serving.beside("ask", "127.0.0.1:8282", "5") for _ in range(2)]
    serving.sh("systemctl restart relayd@1; relayd upgrade --instance 2; systemctl reload 'relayd@*'; systemctl restart relayd@2")
    for one in asking:
        assert serving.outcome(one)["faults"] == []


def test_an_instance_that_is_killed_loses_only_its_requests_in_flight(serving: Testbed) -> None:
    held = serving.hold(20, 12)
    asking = [serving.beside("ask", "127.0.0.1:8282", "8") for _ in range(2)]
    lost = json.loads(serving.sh("relayd streams --instance 1 --json; systemctl kill -s KILL relayd@1"))["streams"]
    cut = [one for one in lost if one["path"].startswith("/stream/")]
    assert len(serving.outcome(held)["faults"]) == len(cut) > 0
    for one in asking:
        told = serving.outcome(one)
        assert len(told["faults"]) <= 1 < told["asked"], "at most the request in flight"
    until(lambda: serving.show("ActiveState", "relayd@1") == "active")


def test_instances_share_what_a_client_may_bring_to_another_one(serving: Testbed) -> None:
    serving.sh("test -S /run/relayd-1/admin.sock; test -f /var/lib/relayd/shared/seal.key; ! ls /var/lib/relayd/*/seal.key | grep -v shared")
    said = serving.call("exec", "relayd", "status")
    assert said.returncode and "--instance 1, --instance 2" in said.stderr


def test_an_upgrade_takes_over_in_every_instance(serving: Testbed, another: Callable[..., Path]) -> None:
    held = serving.hold(20, 10)
    serving.run("install", str(another("7.0")))
    for name in ("1", "2"):
        assert "relayd 7.0 serving" in serving.sh(f"relayd status --instance {name}")
    assert serving.show("ActiveState") == "inactive", "relayd.service itself is not started by it"
    assert serving.outcome(held) == {"streams": 20, "faults": []}


def test_instances_can_share_the_socket_of_the_socket_unit(serving: Testbed) -> None:
    serving.sh(f"systemctl disable -q --now relayd@1 relayd@2; mkdir -p '/etc/systemd/system/relayd@.service.d';"
               f"cp {EXAMPLES}/instances-socket.conf '/etc/systemd/system/relayd@.service.d/'")
    serving.write("/etc/relayd.yaml", WEB.replace("127.0.0.1:8282", "systemd:public"))
    serving.sh("systemctl daemon-reload; systemctl start relayd.socket; systemctl start relayd@1 relayd@2")
    assert '"path": "/both"' in serving.curl("http://127.0.0.1:80/both")
