"""The first minute: installed by apt, active, streaming, private, sandboxed, and reloaded by who may."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.packaging.conftest import QUICK, WEB, Testbed, until

pytestmark = pytest.mark.packaging

ASK = '{"model":"demo","stream":true,"messages":[{"role":"user","content":"hello"}]}'


def tokens(testbed: Testbed) -> list[str]:
    answer = testbed.curl("-N", "http://127.0.0.1:8282/v1/chat/completions", "-d", ASK)
    return re.findall(r"^data: (.+)$", answer, re.MULTILINE)


def test_after_installation_the_service_is_active_and_enabled_and_streams_tokens(system: Testbed) -> None:
    assert system.run("exec", "systemctl", "is-active", "relayd").strip() == "active"
    assert system.run("exec", "systemctl", "is-enabled", "relayd").strip() == "enabled"
    events = tokens(system)
    assert len(events) > 3 and events[-1] == "[DONE]"
    assert all('"chat.completion.chunk"' in event for event in events[:-1])


def test_nothing_listens_publicly_and_nothing_opt_in_is_enabled(system: Testbed) -> None:
    assert {line.split()[3] for line in system.sh("ss -ltnH").splitlines()} == {"127.0.0.1:8282"}
    for unit in ("relayd.socket", "relayd@1.service"):
        assert system.call("exec", "systemctl", "is-enabled", unit).stdout.strip() == "disabled"


def test_files_belong_to_root_and_only_the_group_relayd_reads_them(system: Testbed) -> None:
    paths = "/etc/relayd.yaml /etc/relayd.d /etc/relayd/keys /etc/relayd /run/relayd /var/lib/relayd"
    shown = system.sh(f"stat -c '%n %U:%G %a' {paths}").splitlines()
    assert shown == [
        "/etc/relayd.yaml root:relayd 640", "/etc/relayd.d root:relayd 750", "/etc/relayd/keys root:relayd 750",
        "/etc/relayd root:relayd 750", "/run/relayd relayd:relayd-admin 750", "/var/lib/relayd relayd:relayd-admin 700",
    ]
    assert set(system.sh("ps -o user= -C relayd").split()) == {"relayd"}


def test_who_is_in_the_group_uses_the_admin_socket_and_reads_no_key(system: Testbed) -> None:
    system.sh("useradd -G relayd-admin alice; useradd bob; echo secret >/etc/relayd/keys/x")
    assert "serving" in system.sh("runuser -u alice -- relayd status")
    assert "generation" in system.sh("runuser -u alice -- relayd reload")
    for path in ("/etc/relayd.yaml", "/etc/relayd/keys/x", "/var/lib/relayd/generations"):
        assert system.call("exec", "runuser", "-u", "alice", "--", "test", "-r", path).returncode == 1
    assert system.call("exec", "runuser", "-u", "bob", "--", "relayd", "status").returncode == 1


def test_an_edit_is_in_force_after_reload_and_the_process_stays(system: Testbed) -> None:
    pid, before = system.main_pid(), system.status()["pid"]
    edit = "sed -i 's/^routes:.*/&\\n  - {name: edited, match: {path: \\/edited}, respond: {status: 200, body: edited}}/'"
    system.sh(f"{edit} /etc/relayd.yaml")
    assert "+ routes.edited" in system.call("exec", "relayd", "diff").stdout
    system.run("exec", "systemctl", "reload", "relayd")
    assert system.curl("http://127.0.0.1:8282/edited") == "edited"
    assert (system.main_pid(), system.status()["pid"]) == (pid, before)
    assert tokens(system)[-1] == "[DONE]"


def test_sighup_reloads_too(system: Testbed) -> None:
    generation = system.status()["generation"]
    system.run("exec", "systemctl", "kill", "--signal=HUP", "relayd")
    until(lambda: "reloaded 0 changes" in system.journal(5))
    assert system.status()["generation"] == generation, "a reload without changes is no new generation"
    system.sh("sed -i 's/body: edited/body: hung up/' /etc/relayd.yaml; systemctl kill --signal=HUP relayd")
    until(lambda: system.status()["generation"] > generation)
    assert system.curl("http://127.0.0.1:8282/edited") == "hung up"


BROKEN = {
    "a key that is none": ("echo 'listenrs: {}' >>/etc/relayd.yaml", "listenrs"),
    "a port in use": (
        "sed -i 's/^listeners:/&\\n  taken: {address: \"127.0.0.1:7777\"}/' /etc/relayd.yaml", "127.0.0.1:7777",
    ),
    "an address of another machine": (
        "sed -i 's/^listeners:/&\\n  far: {address: \"192.0.2.1:80\"}/' /etc/relayd.yaml", "192.0.2.1:80",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_restart_on_a_file_with_a_fault_serves_what_was_accepted_last_and_says_so(system: Testbed, fault: str) -> None:
    edit, word = BROKEN[fault]
    system.sh("cp -p /etc/relayd.yaml /var/tmp/kept; systemctl is-active -q taken || systemd-run -q --unit=taken python3 -c "
              "'import socket, time; s = socket.create_server((\"127.0.0.1\", 7777)); time.sleep(9999)'")
    until(lambda: ":7777 " in system.sh("ss -ltnH"))
    try:
        system.sh(edit)
        system.run("exec", "systemctl", "restart", "relayd")
        assert tokens(system)[-1] == "[DONE]"
        assert (system.show("ActiveState"), system.show("NRestarts")) == ("active", "0")
        told = system.journal(30)
        assert "start_refused" in told and word in told
        assert "refused" in system.run("exec", "relayd", "status")
    finally:
        system.sh("cat /var/tmp/kept >/etc/relayd.yaml; systemctl reload relayd")
    assert "refused" not in system.run("exec", "relayd", "status")


def test_without_an_accepted_configuration_a_fault_fails_a_start_once_with_the_reason_in_the_journal(system: Testbed) -> None:
    system.sh("cp -p /etc/relayd.yaml /var/tmp/kept; echo 'listenrs: {}' >>/etc/relayd.yaml; systemctl stop relayd;"
              "mv /var/lib/relayd/generations /var/tmp/")
    assert system.call("exec", "systemctl", "start", "relayd").returncode != 0
    shown = system.run("exec", "systemctl", "show", "-p", "ActiveState,ExecMainStatus,NRestarts", "relayd").split()
    assert sorted(shown) == ["ActiveState=failed", "ExecMainStatus=78", "NRestarts=0"]
    assert "listenrs" in system.journal()
    system.sh("cat /var/tmp/kept >/etc/relayd.yaml; mv /var/tmp/generations /var/lib/relayd/; systemctl start relayd")
    assert tokens(system)[-1] == "[DONE]"


def test_the_address_of_the_file_as_shipped_can_be_opened_to_others_by_a_reload_and_a_restart(system: Testbed) -> None:
    system.sh("cp -p /etc/relayd.yaml /var/tmp/kept")
    for address in ("0.0.0.0", "[::]"):
        for way in ("reload", "restart"):
            if way == "restart":
                system.sh("cat /var/tmp/kept >/etc/relayd.yaml; systemctl reload relayd")
            system.sh(f"sed -i 's/\"127.0.0.1:8282\"/\"{address}:8282\"/' /etc/relayd.yaml; systemctl {way} relayd")
            assert tokens(system)[-1] == "[DONE]"
            until(lambda: "127.0.0.1:8282" not in system.sh("ss -ltnH"))
    system.sh("cat /var/tmp/kept >/etc/relayd.yaml; systemctl reload relayd")


def test_everything_the_unit_names_is_there(system: Testbed) -> None:
    pages = system.sh("dpkg -L relayd | grep /usr/share/man/")
    for page in re.findall(r"man:([\w.-]+)\((\d)\)", system.sh("systemctl cat relayd relayd@1 relayd.socket")):
        assert f"man{page[1]}/{page[0]}.{page[1]}.gz" in pages
    # `man` itself is not in the test system: that the pages are missing is all that verify may say.
    told = system.call("sh", "systemd-analyze verify relayd.service relayd@1.service relayd.socket 2>&1").stdout
    known = re.compile(r"man |Can't show|RestartSteps|RestartMaxDelaySec")
    assert [line for line in told.splitlines() if "relayd" in line and not known.search(line)] == []
    for path in (
        "/usr/share/bash-completion/completions/relayd", "/usr/share/zsh/vendor-completions/_relayd",
        "/etc/ufw/applications.d/relayd", "/etc/apparmor.d/usr.bin.relayd", "/usr/share/doc/relayd/README.Debian",
        "/usr/share/doc/relayd/handbook.md.gz",
        *(f"/usr/share/relayd/monitoring/{name}" for name in ("relayd.rules.yml", "grafana-board.json", "statsd_exporter.yml")),
    ):
        system.sh(f"test -s {path} || test -s {path}.gz")
    assert "-F _relayd relayd" in system.sh(
        "bash -c '. /usr/share/bash-completion/completions/relayd; complete -p relayd'"
    )


def test_https_upstreams_low_ports_and_journal_fields_work_in_the_sandbox(
    system: Testbed, tmp_path: Path
) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")],
        check=True, capture_output=True,
    )
    system.run("push", str(tmp_path / "cert"), "/usr/local/share/ca-certificates/upstream.crt")
    system.sh("update-ca-certificates >/dev/null 2>&1")
    system.upstream(9443, str(tmp_path / "cert"), str(tmp_path / "key"))
    config = WEB.replace("http://127.0.0.1:9001", "https://localhost:9443")
    config = config.replace("listeners: {", "listeners: {low: {address: '0.0.0.0:80'}, ")
    system.configure(config + "telemetry: {access_log: {format: journal}}\n")
    system.run("exec", "systemctl", "restart", "relayd")
    assert '"path": "/there"' in system.curl("http://127.0.0.1:80/there")
    held = system.hold(20, 2, "127.0.0.1:80")
    score = system.sh("systemd-analyze security --no-pager relayd | tail -n 1")
    found = re.search(r"(\d+\.\d+) OK", score)
    assert found and float(found[1]) <= 1.4, score
    assert system.outcome(held) == {"streams": 20, "faults": []}
    until(lambda: '"RELAYD_STATUS":"200"' in system.sh(
        "journalctl -u relayd RELAYD_ROUTE=rest -o json --no-pager -n 5"
    ).replace('" : "', '":"'))
    assert "RELAYD_GENERATION" in system.sh("journalctl -u relayd RELAYD_ROUTE=rest -o json --no-pager -n 1")
    started = re.findall(r"started .*descriptors=(\d+)", system.journal(400))
    limit = int(system.sh(f"grep 'open files' /proc/{system.worker_pid()}/limits").split()[3])
    assert int(started[-1]) == limit > 1024


def test_a_credential_of_each_kind_reaches_the_upstream(system: Testbed) -> None:
    system.upstream()
    system.sh(
        "install -d -m 0700 /etc/credstore; printf plain-key >/etc/credstore/plain;"
        "printf sealed-key | systemd-creds encrypt --with-key=host --name=sealed - /etc/credstore/sealed;"
        "printf 'ENV_KEY=env-key' >/etc/relayd/environment; chmod 600 /etc/relayd/environment;"
        "printf file-key >/etc/relayd/keys/k; chgrp relayd /etc/relayd/keys/k; chmod 640 /etc/relayd/keys/k"
    )
    system.drop_in("keys", "[Service]\nLoadCredential=plain:/etc/credstore/plain\n"
                   "LoadCredentialEncrypted=sealed:/etc/credstore/sealed\nEnvironmentFile=/etc/relayd/environment\n")
    sources = {"plain": "credential: plain", "sealed": "credential: sealed", "env": "env: ENV_KEY",
               "file": "file: /etc/relayd/keys/k"}
    upstreams = ", ".join(
        f"{name}: {{endpoints: ['http://127.0.0.1:9001'], auth: {{bearer: {{{source}}}}}}}"
        for name, source in sources.items()
    )
    routes = ", ".join(f"{{name: {name}, match: {{prefix: /{name}}}, upstream: {name}}}" for name in sources)
    system.write("/etc/relayd.yaml", f"{QUICK}upstreams: {{{upstreams}}}\nroutes: [{routes}]\n")
    system.run("exec", "systemctl", "restart", "relayd")
    for name in sources:
        kind = {"plain": "plain", "sealed": "sealed"}.get(name, name)
        assert f"Bearer {kind}-key" in system.curl(f"http://127.0.0.1:8282/{name}/x")
    asked = system.run("exec", "relayd", "check")
    assert "asked as  user relayd, within relayd.service" in asked and "not asked" in asked
    for path, fault in (("/etc/relayd/environment", "EnvironmentFile="), ("/etc/credstore/sealed", "LoadCredentialEncrypted=")):
        system.sh(f"mv {path} {path}.away")
        refused = system.call("exec", "relayd", "check")
        assert refused.returncode == 78 and fault in refused.stderr, refused.stderr
        system.sh(f"mv {path}.away {path}")
    system.sh("chgrp root /etc/relayd/keys/k")
    assert "Permission denied" in system.call("exec", "relayd", "check").stderr
    system.sh("chgrp relayd /etc/relayd/keys/k")
    assert system.sh("ls -d /run/relayd-check-* 2>/dev/null || true") == "", "nothing of a check is left behind"
    # A file is read again by a reload; what systemd passed is not.
    system.sh("printf new-file >/etc/relayd/keys/k; printf new-plain >/etc/credstore/plain; systemctl reload relayd")
    assert "Bearer new-file" in system.curl("http://127.0.0.1:8282/file/x")
    if int(re.findall(r"\d+", system.run("exec", "systemctl", "--version"))[0]) < 260:
        assert "Bearer plain-key" in system.curl("http://127.0.0.1:8282/plain/x")
    system.run("exec", "systemctl", "restart", "relayd")
    assert "Bearer new-plain" in system.curl("http://127.0.0.1:8282/plain/x")
    shown = system.sh("journalctl -u relayd --no-pager; cat /var/lib/relayd/generations/*; relayd status --json")
    assert not re.search(r"(plain|sealed|env|file)-key|new-(file|plain)", shown)


def test_generations_survive_a_restart_and_can_be_rolled_back(system: Testbed) -> None:
    system.configure(QUICK + "routes: [{name: one, respond: {body: one}}]\n")
    first = system.status()["generation"]
    system.configure(QUICK + "routes: [{name: two, respond: {body: two}}]\n")
    system.run("exec", "systemctl", "restart", "relayd")
    assert system.status()["generation"] == first + 1, "a start with the same file is the same generation"
    assert str(first) in system.run("exec", "relayd", "rollback", "--list")
    assert "~" in system.run("exec", "relayd", "rollback") or system.status()["generation"] == first + 2
    assert system.curl("http://127.0.0.1:8282/") == "one"
    assert system.sh("stat -c '%U:%G %a' /etc/relayd.yaml").strip() == "root:relayd 640"
    assert "body: two" in system.sh("cat /etc/relayd.yaml.before-rollback")
    assert set(system.sh("stat -c %a /var/lib/relayd/generations/*").split()) == {"600"}
    assert f"generation={first + 2}" in system.journal(5)


def test_expectations_can_be_a_condition_of_a_reload(system: Testbed) -> None:
    examples = "/usr/share/doc/relayd/examples"
    system.sh(
        f"cp {examples}/relayd.tests.yaml /etc/; mkdir -p /etc/systemd/system/relayd.service.d;"
        f"cp {examples}/test-before-reload.conf /etc/systemd/system/relayd.service.d/; systemctl daemon-reload"
    )
    routes = "routes: [{name: health, match: {path: /health}, upstream: admin}, {name: %s, match: {prefix: /v1/}, upstream: demo}]"
    system.configure(QUICK + routes % "demo")
    generation = system.status()["generation"]
    system.write("/etc/relayd.yaml", QUICK + routes % "other")
    assert system.call("exec", "systemctl", "reload", "relayd").returncode != 0
    assert "route: other, expected demo" in system.journal(12)
    assert system.status()["generation"] == generation
    system.configure(QUICK + routes % "demo")
