"""Ports: free, held by a named process, not bindable; and listeners of a running relayd, with and without TLS."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from relayd.cli.diagnosis import FAILURE, FINE, UNKNOWN, WARNING
from relayd.cli.doctor.checks import listeners
from relayd.config.listener import Listener
from tests.aids.certificates import made
from tests.aids.ports import free_port
from tests.functional.harness.upstream import Upstream
from tests.unit.cli.admin_case import Admin
from tests.unit.cli.doctor.cases import STATUS, context_of, findings, written


def test_a_free_port_one_that_is_held_and_an_address_of_another_machine(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        path = written(tmp_path, listeners={
            "free": {"address": f"127.0.0.1:{free_port()}"}, "held": {"address": f"0.0.0.0:{port}"},
            "far": {"address": "192.0.2.1:80"}, "named": {"address": "nowhere.invalid:80"},
            "passed": {"address": "systemd:web"}, "all": {"address": f"[::]:{free_port()}"},
            "path": {"address": f"unix:{tmp_path}/p.sock"}, "gone": {"address": f"unix:{tmp_path}/no/p.sock"},
        })  # fmt: skip
        found = {one.subject.split()[1].rstrip(","): one for one in findings(listeners, context_of(path))}
        levels = {name: one.level for name, one in found.items()}
        assert levels == {
            "free": FINE, "held": FAILURE, "far": FAILURE, "named": FAILURE, "passed": UNKNOWN, "all": FINE, "path": FINE,
            "gone": FAILURE,
        }
        assert f"(pid {os.getpid()})" in found["held"].cause and "does not have that address" in found["far"].cause


def test_a_port_below_1024_and_one_that_nobody_can_name() -> None:
    assert listeners._not_bindable("x", 80, PermissionError(13, "no")).level == UNKNOWN
    assert listeners._not_bindable("x", 1, OSError(98, "in use")).level == WARNING
    assert listeners._not_bindable("x", 80, OSError(5, "other")).level == FAILURE


def test_listeners_of_the_running_relayd_are_connected_to(tmp_path: Path) -> None:
    pair = made(tmp_path, "own", "a.test")
    with Upstream() as plain, Upstream(tls=pair.serving()) as secure, Upstream(unix=str(tmp_path / "l.sock")) as path:
        tls = {"certificates": [{"cert": pair.cert, "key": pair.key}]}
        addresses = {
            "plain": f"0.0.0.0:{plain.port}", "secure": f"127.0.0.1:{secure.port}", "path": f"unix:{path.unix}",
            "dead": f"127.0.0.1:{free_port()}",
        }
        file = written(tmp_path / "", listeners={
            name: {"address": address, **({"tls": tls} if name == "secure" else {})} for name, address in addresses.items()
        })  # fmt: skip
        status = {**STATUS, "listeners": [{"address": address} for address in addresses.values()]}
        with Admin(tmp_path, (200, status)) as admin:
            found = {one.subject.split()[1].rstrip(","): one for one in findings(listeners, context_of(file, socket=admin.path))}
        assert {name: one.level for name, one in found.items()} == {
            "plain": FINE, "secure": FINE, "path": FINE, "dead": FAILURE
        }
        assert "with a certificate until 20" in found["secure"].cause


def test_a_listener_that_expects_a_header_is_left_alone() -> None:
    one = listeners.reached("x", Listener(address="127.0.0.1:1", proxy_protocol=True, trusted_proxies=("127.0.0.1",)))
    assert one.level == FINE
