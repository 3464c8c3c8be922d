"""Upgrade, downgrade, a version that fails, an interruption, reinstall, reboot, remove, purge: as an operator expects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.conftest import WEB, Testbed

pytestmark = pytest.mark.packaging

Another = Callable[..., Path]


def new_conffile(tree: Path) -> None:
    file = tree / "etc/relayd.yaml"
    file.write_text(file.read_text() + "# of the new version\n")


def import_fails(tree: Path) -> None:
    (tree / "usr/lib/python3/dist-packages/relayd/server/listener.py").write_text("raise RuntimeError('broken build')\n")


def start_fails(tree: Path) -> None:
    file = tree / "usr/lib/python3/dist-packages/relayd/daemon/lifecycle.py"
    file.write_text(file.read_text().replace("        self.signals.install(self._loop)", "        raise SystemExit(3)\n"))


def new_unit(tree: Path) -> None:
    for file in tree.glob("**/systemd/system/relayd.service"):
        file.write_text(file.read_text().replace("[Service]\n", "[Service]\nEnvironment=UNIT=new\n"))


def install(system: Testbed, package: Path, *words: str) -> str:
    system.run("push", str(package), f"/var/tmp/{package.name}")
    done = system.call(
        "apt", "install", "-y", "--allow-downgrades", "-o", "Dpkg::Options::=--force-confdef", "-o",
        "Dpkg::Options::=--force-confold", *words, f"/var/tmp/{package.name}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def serving(system: Testbed) -> Testbed:
    system.configure()
    system.upstream()
    return system


def test_an_upgrade_keeps_the_edited_file_and_puts_the_new_one_beside_it(serving: Testbed, another: Another) -> None:
    held = serving.hold(5, 8)
    keeper = serving.main_pid()
    install(serving, another("2.0", new_conffile))
    assert serving.sh("cat /etc/relayd.yaml") == WEB + "\n"
    assert "of the new version" in serving.sh("cat /etc/relayd.yaml.dpkg-dist")
    assert serving.sh("stat -c '%U:%G %a' /etc/relayd.yaml").strip() == "root:relayd 640"
    assert (serving.status()["version"], serving.main_pid()) == ("2.0", keeper)
    assert serving.outcome(held) == {"streams": 5, "faults": []}


def test_a_downgrade_works_in_the_same_way(serving: Testbed, package: Path) -> None:
    held = serving.hold(5, 6)
    install(serving, package)
    assert serving.status()["version"] != "2.0"
    assert serving.outcome(held) == {"streams": 5, "faults": []}


@pytest.mark.parametrize("fault", [import_fails, start_fails])
def test_a_new_version_that_fails_leaves_the_old_one_serving(
    serving: Testbed, another: Another, package: Path, fault: Callable[[Path], None]
) -> None:
    held = serving.hold(5, 8)
    before = serving.status()
    said = install(serving, another("3.0", fault))
    assert "the old one continues to serve" in said
    assert '"path": "/after"' in serving.curl("http://127.0.0.1:8282/after")
    assert "upgrade_refused" in serving.journal()
    assert serving.show("ActiveState") == "active"
    serving.run("apt", "check")  # the package itself is in order
    install(serving, package)
    assert serving.status()["version"] == before["version"]
    assert serving.outcome(held) == {"streams": 5, "faults": []}


def test_a_changed_unit_comes_into_force_and_no_stream_ends(
    serving: Testbed, another: Another, package: Path
) -> None:
    held = serving.hold(5, 8)
    install(serving, another("4.0", new_unit))
    assert "UNIT=new" in serving.sh("tr '\\0' '\\n' </proc/$(systemctl show -p MainPID --value relayd)/environ")
    assert serving.outcome(held) == {"streams": 5, "faults": []}
    install(serving, package)


def test_an_upgrade_leaves_a_stopped_service_stopped(serving: Testbed, another: Another, package: Path) -> None:
    serving.run("exec", "systemctl", "stop", "relayd")
    install(serving, another("5.0"))
    assert serving.show("ActiveState") == "inactive"
    install(serving, package)
    serving.run("exec", "systemctl", "start", "relayd")


def test_an_interrupted_installation_is_finished_by_dpkg_and_relayd_serves_all_the_while(
    serving: Testbed, another: Another, package: Path
) -> None:
    newer = another("6.0")
    serving.run("push", str(newer), "/var/tmp/half.deb")
    serving.sh("dpkg --unpack /var/tmp/half.deb")
    assert '"path": "/half"' in serving.curl("http://127.0.0.1:8282/half")
    serving.sh("dpkg --configure -a")
    assert serving.status()["version"] == "6.0"
    install(serving, package)


def test_after_a_reboot_it_is_back(serving: Testbed) -> None:
    serving.run("reboot")
    assert serving.show("ActiveState") == "active"
    assert '"serving"' in serving.sh("relayd status --json")


def test_remove_keeps_files_and_state_and_reinstalling_goes_on_with_them(serving: Testbed, package: Path) -> None:
    generation = serving.status()["generation"]
    serving.run("apt", "remove", "-y", "relayd")
    assert serving.call("exec", "systemctl", "is-active", "relayd").returncode != 0
    assert serving.call("exec", "pgrep", "-u", "relayd").returncode == 1
    serving.sh("test -e /etc/relayd.yaml; test -e /var/lib/relayd/generations; ! test -e /run/relayd")
    assert "relayd.service" not in serving.sh("systemctl list-unit-files --no-legend 'relayd*' || true")
    serving.run("install", str(package))
    assert serving.status()["generation"] == generation
    assert serving.sh("stat -c '%U:%G %a' /etc/relayd.yaml").strip() == "root:relayd 640"


def test_purge_leaves_nothing_but_the_user(serving: Testbed) -> None:
    serving.sh("echo mine >/etc/relayd/keys/mine")
    serving.run("apt", "purge", "-y", "relayd")
    left = serving.sh(
        "find /etc /usr /var/lib /var/cache /var/log /run -xdev \\( -name 'relayd*' -o -name '*.relayd' \\) "
        "! -path '/var/lib/dpkg/*' 2>/dev/null || true"
    )
    assert left.split() == ["/etc/relayd"], "only the folder with the operator's own key"
    assert "relayd" not in serving.sh("dpkg-statoverride --list || true")
    assert serving.sh("dpkg -l relayd 2>&1 | grep -c ^.[ic] || true").strip() == "0"
    serving.sh("id relayd >/dev/null; getent group relayd-admin >/dev/null")
