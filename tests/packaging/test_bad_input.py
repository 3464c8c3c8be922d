"""What an operator may get wrong: each ends in a message to act on, and the old configuration goes on serving."""

from __future__ import annotations

import pytest

from tests.packaging.conftest import QUICK, Testbed

pytestmark = pytest.mark.packaging

GOOD = QUICK + "include: /etc/relayd.d/*.yaml\nroutes: [{name: all, respond: {body: good}}]\n"

# What is done, and a word of the message that follows.
WRONG = {
    "empty": (": >/etc/relayd.yaml", "listeners"),
    "binary": ("head -c 3000 /dev/zero >/etc/relayd.yaml", "not a text file"),
    "noise": ("printf '\\377\\376\\001' >/etc/relayd.yaml", "UTF-8"),
    "half written": ("printf 'listeners: {public: {addr' >/etc/relayd.yaml", "relayd.yaml:"),
    "root only": ("chown root:root /etc/relayd.yaml; chmod 600 /etc/relayd.yaml", "Permission denied"),
    "gone": ("rm /etc/relayd.yaml", "No such file"),
    "a folder": ("rm /etc/relayd.yaml; mkdir /etc/relayd.yaml", "is a directory"),
    "missing key": (
        "echo 'upstreams: {x: {endpoints: [\"http://a:1\"], auth: {bearer: {file: /etc/relayd/keys/none}}}}' >>/etc/relayd.yaml",
        "/etc/relayd/keys/none",
    ),
    "broken drop-in": ("echo 'routes: {' >/etc/relayd.d/team.yaml", "/etc/relayd.d/team.yaml"),
    "drop-in nobody may read": ("echo '{}' >/etc/relayd.d/a.yaml; chmod 0 /etc/relayd.d/a.yaml", "/etc/relayd.d/a.yaml"),
    "port in use": (
        "sed -i 's/^listeners: {/&taken: {address: \"127.0.0.1:7777\"}, /' /etc/relayd.yaml", "127.0.0.1:7777",
    ),
    "unknown socket": ("sed -i 's/^listeners: {/&s: {address: \"systemd:web\"}, /' /etc/relayd.yaml", "systemctl restart"),
}


@pytest.fixture(scope="module")
def good(system: Testbed) -> Testbed:
    system.configure(GOOD)
    system.sh("cp -p /etc/relayd.yaml /var/tmp/good; systemd-run -q --unit=taken python3 -c "
              "'import socket, time; s = socket.create_server((\"127.0.0.1\", 7777)); time.sleep(9999)'")
    return system


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_file_is_refused_with_a_message_and_the_old_one_serves(good: Testbed, wrong: str) -> None:
    edit, word = WRONG[wrong]
    pid = good.main_pid()
    good.sh(edit)
    try:
        assert good.call("exec", "systemctl", "reload", "relayd").returncode != 0
        assert word in good.journal(12)
        assert (good.show("ActiveState"), good.main_pid()) == ("active", pid)
        assert good.curl("http://127.0.0.1:8282/") == "good"
        assert "refused" in good.run("exec", "relayd", "status")
        taken = good.call("exec", "relayd", "upgrade")
        assert taken.returncode == 1 and "continues to serve" in taken.stderr
        assert good.curl("http://127.0.0.1:8282/") == "good"
    finally:
        good.sh("rm -rf /etc/relayd.d/*; [ -d /etc/relayd.yaml ] && rmdir /etc/relayd.yaml; cp -p /var/tmp/good /etc/relayd.yaml")
    good.run("exec", "systemctl", "reload", "relayd")


def test_a_full_disk_is_told_and_relayd_goes_on(good: Testbed) -> None:
    good.sh("systemctl stop relayd; mount -t tmpfs -o size=64k,mode=700 tmpfs /var/lib/relayd;"
            "chown relayd:relayd-admin /var/lib/relayd; dd if=/dev/zero of=/var/lib/relayd/full bs=1k count=100 2>/dev/null || true;"
            "systemctl start relayd")
    assert "generation_not_kept" in good.journal(10)
    assert good.curl("http://127.0.0.1:8282/") == "good"
    good.run("exec", "systemctl", "reload", "relayd")
    good.sh("systemctl stop relayd; umount /var/lib/relayd; systemctl start relayd")
