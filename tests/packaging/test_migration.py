"""relayd-migration(7) on an installed system, command by command: each stack from its files to relayd, and back.

A stand-in for the old stack holds the ports; programs that a test system lacks (docker, dokku) stop and start it, and
write down how they were called.
"""

from __future__ import annotations

import json
import re

import pytest

from tests.docs.migration_page import STACKS, STEPS, Stack
from tests.packaging.conftest import QUICK, TOP, Testbed, until

pytestmark = pytest.mark.packaging

SAMPLES = TOP / "tests/unit/importers/samples"
FOLDER = "/srv/stack"
SECRET = "sk-planted-0123456789abcdef"
OLD = """import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"the old stack")
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >>/srv/called
case "$*" in
  *stop*|*down*) systemctl stop old ;;
  *"up -d"*) systemctl start old ;;
esac
"""
# What the page cannot know: the address in the sample, and what exists on the Internet only.
INSTEAD = {
    "curl https://responses-proxy.example.org/health": "curl -sS http://127.0.0.1:8180/health",
    "relayd doctor": "relayd doctor --json >/srv/doctor.json || true",
    "curl -H 'Authorization: Bearer KEY' -d '{}' http://127.0.0.1:8282/api/chat": "curl -sS -o /dev/null -w '%{http_code}' -d '{}' http://127.0.0.1:8282/api/chat",
    "apt remove nginx": "", 'apt remove docker.io && deluser "$USER" docker': "", "apt install relayd=VERSION; relayd rollback": "relayd rollback --help",
    "systemctl disable --now litellm": "", "ufw delete deny 8282/tcp && ufw allow relayd": "",
}


def sample(path: str, **replaced: str) -> str:
    text = (SAMPLES / path).read_text()
    for name, value in replaced.items():
        text = text.replace(f"@{name}@", value)
    return text


def prepare(system: Testbed, port: int, files: dict[str, str]) -> None:
    """A fresh relayd, the files of a stack in FOLDER, and its stand-in on the port."""
    system.sh(f"rm -rf {FOLDER} /srv/called; mkdir -p {FOLDER}; systemctl enable -q --now relayd")
    system.configure(QUICK)
    for name, text in files.items():
        system.sh(f"mkdir -p $(dirname {FOLDER}/{name})")
        system.write(f"{FOLDER}/{name}", text)
    system.write("/srv/old.py", OLD)
    for name in ("docker", "podman-compose", "dokku"):
        system.write(f"/usr/local/bin/{name}", STAND_IN)
        system.sh(f"chmod 755 /usr/local/bin/{name}")
    system.write("/etc/systemd/system/old.service", f"[Service]\nExecStart=python3 /srv/old.py {port}")
    system.sh("systemctl daemon-reload; systemctl restart old")
    until(lambda: f":{port} " in system.sh("ss -ltnH"))


def walk(system: Testbed, commands: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Run the commands of a chapter as they stand; their output."""
    shown = {}
    for command, _ in commands:
        done = system.call("sh", f"cd {FOLDER}; {INSTEAD.get(command, command)}")
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert SECRET not in done.stdout + done.stderr
        shown[command] = done.stdout
    return shown


def stack(example: str) -> Stack:
    return next(one for one in STACKS if one.example == example)


def back(system: Testbed, one: Stack, port: int) -> None:
    """The way back: relayd stopped and disabled, the old stack answers. Afterwards its port is free."""
    walk(system, one.back)
    assert system.call("exec", "systemctl", "is-active", "relayd").returncode != 0
    assert system.call("exec", "systemctl", "is-enabled", "relayd").returncode != 0
    until(lambda: system.call("netexec", "curl", "-sS", f"http://127.0.0.1:{port}/").stdout == "the old stack")
    system.sh("systemctl stop old")
    system.write("/etc/relayd.yaml", QUICK)


def test_the_steps_of_a_conversion_on_the_installed_package(system: Testbed) -> None:
    prepare(system, 9999, {".env": f"TARGET_URL=https://127.0.0.1:9001\nPORT=8080\nHOST=127.0.0.1\nMAGIC_WORD={'a1b2c3d4' * 5}\n"})
    written = {
        command: command.replace("FILE...", ".env").replace("https://ai.example.org/v1/models", "http://127.0.0.1:8080/v1/models")
        for command, _ in STEPS[:3]
    }
    shown = [system.sh(f"cd {FOLDER}; {command} 2>&1") for command in written.values()]
    assert re.search(r"\.env:1\b", shown[0]) and "a1b2c3d4" not in shown[0], shown[0]
    assert "takes the request" in shown[2] and "target    /v1/models" in shown[2], shown[2]
    page = system.sh("zcat -f /usr/share/man/man7/relayd-migration.7*")
    assert page == (TOP / "debian/man/relayd-migration.7").read_text()


def test_a_responses_proxy_behind_caddy(system: Testbed) -> None:
    folder = "compose/1-responses-proxy/"
    one = stack("responses-proxy.yaml")
    prepare(system, 8180, {"docker-compose.yml": sample(f"{folder}docker-compose.yml"), ".env": sample(f"{folder}dot.env")})
    assert system.curl("http://127.0.0.1:8180/health") == "the old stack"
    shown = walk(system, one.there)
    health = json.loads(shown["curl https://responses-proxy.example.org/health"].splitlines()[-1])
    assert health["circuit_breaker"] == {"enabled": True, "is_open": False, "consecutive_failures": 0}, health
    assert json.loads(system.sh("cat /srv/doctor.json"))["checks"]
    walk(system, one.end)
    assert system.sh("cat /srv/called").split("\n")[:2] == ["docker compose stop caddy", "docker compose down"]
    back(system, one, 8180)


def test_a_dokku_include(system: Testbed) -> None:
    one = stack("dokku.yaml")
    base = "/" + "home/dokku/backend"
    prepare(system, 9996, {"update_ai_proxy.sh": "systemctl start old"})
    system.sh(f"mkdir -p {base}/nginx.conf.d {base}/postdeploy.d /etc/systemd/system/relayd.service.d; touch {base}/postdeploy.d/99_update_ai_proxy")
    system.write(f"{base}/nginx.conf.d/ai-proxy.conf", sample("nginx/1-dokku-include.conf"))
    system.sh("getent group docker >/dev/null || groupadd docker")
    shown = walk(system, one.there)
    assert "/api/chat" in next(iter(shown.values()))
    assert shown["curl -H 'Authorization: Bearer KEY' -d '{}' http://127.0.0.1:8282/api/chat"] in ("401", "503"), shown
    walk(system, one.end)
    assert "dokku nginx:build-config backend" in system.sh("cat /srv/called")
    system.sh("systemctl stop old")
    back(system, one, 9996)
    system.sh("rm /etc/systemd/system/relayd.service.d/docker.conf; systemctl daemon-reload")


def test_a_transparent_proxy(system: Testbed) -> None:
    one = stack("transparent-proxy.yaml")
    prepare(system, 8080, {".env": sample("compose/2-transparent-proxy/dot.env", BACKEND="127.0.0.1:9003", PORT="8080")})
    system.upstream(9003)
    shown = walk(system, one.there)
    health = json.loads(shown["curl http://localhost:8080/api/health"])
    assert health == {"status": "healthy", "target_url": "http://127.0.0.1:9003", "timeout": 300, "ssl_verify": True}, health
    assert json.loads(system.curl("http://127.0.0.1:8080/any/path?of=it"))["path"] == "/any/path?of=it"
    walk(system, one.end)
    assert system.sh("cat /srv/called") == "docker compose stop\ndocker compose down --rmi local\n"
    back(system, one, 8080)


def test_a_gateway_to_several_providers(system: Testbed) -> None:
    one = stack("model-hunter.yaml")
    compose = sample("compose/3-model-hunter/docker-compose.yml").replace("env_file: dot.env", "env_file: .env")
    keys = sample("compose/3-model-hunter/dot.env").replace("sk-openai-abcdefghij", SECRET)
    prepare(system, 8000, {"docker-compose.yml": compose, ".env": keys})
    shown = walk(system, one.there)
    for provider in ("openai", "openrouter", "fireworks"):
        assert provider in shown["relayd queue"] and provider in shown["relayd upstreams"], shown
    assert re.search(r"openrouter\b.*\b10\b", shown["relayd queue"]), "the limit of the old stack"
    assert SECRET in system.sh("cat /etc/relayd/keys/*") and SECRET not in system.sh("cat /etc/relayd.yaml")
    assert set(system.sh("stat -c '%U %a' /etc/relayd/keys/*").splitlines()) == {"relayd 600"}
    walk(system, one.end)
    assert system.sh("cat /srv/called") == "docker compose stop\ndocker compose down --volumes\n"
    back(system, one, 8000)


def test_a_chat_gateway_behind_traefik(system: Testbed) -> None:
    one = stack("chat-gateway.yaml")
    files = {"docker-compose.yml": "compose/4-chat-gateway/docker-compose.yml", "config.yaml": "litellm/1-simple/config.yaml", "routes.yml": "traefik/1-routes.yml"}
    prepare(system, 5002, {name: sample(path, BACKEND="127.0.0.1:11434") for name, path in files.items()} | {".env": f"GEMINI_API_KEY={SECRET}\n"})
    shown = walk(system, one.there)
    imported = [shown[command] for command, _ in one.there[:3]]
    assert "/chat" in imported[0] and "mistral-7b-instruct" in imported[1] and "assistant.example.org" in imported[2], imported
    assert '"ollama": "connected"' in shown["curl http://localhost:5002/health"], shown
    assert system.sh("cat /etc/relayd/keys/gemini").strip() == SECRET
    walk(system, one.end)
    assert system.sh(f"cat /srv/called; ls {FOLDER}") == "podman-compose stop\npodman-compose down\nconfig.yaml\ndocker-compose.yml\n"
    back(system, one, 5002)


def test_a_discovery_command_that_hangs_ends_in_the_sandbox_with_its_children_of_other_sessions(system: Testbed) -> None:
    system.sh("systemctl enable -q --now relayd")
    system.write("/usr/local/bin/where-is", "#!/bin/sh\n(setsid sleep 4711 >/dev/null 2>&1 &)\nsleep 4712")
    system.sh("chmod 755 /usr/local/bin/where-is")
    system.configure(QUICK + """upstreams: {u: {discovery: {command: {argv: [/usr/local/bin/where-is], interval: 1h, timeout: 3s}}}}
routes: [{name: rest, match: {prefix: /}, upstream: u}]
""")
    until(lambda: system.call("sh", "pgrep -x -f 'sleep 4711'").returncode == 0)
    until(lambda: "was killed" in system.status()["upstreams"][0]["discovery"]["fault"])
    until(lambda: system.call("sh", "pgrep -x -f 'sleep 471[12]'").returncode != 0)
    text = system.sh("cat /etc/relayd.yaml")
    system.write("/etc/relayd.yaml", text.replace("interval: 1h", "user: games"))
    refused = system.call("exec", "relayd", "check")
    assert refused.returncode == 78 and "only root can start a program as games, and relayd runs as relayd" in refused.stderr, refused
    system.configure(QUICK)


def test_resource_limits_firewall_profile_and_networks_of_the_package(system: Testbed) -> None:
    """Rows 1.19, 1.21 and 1.23 of the promises of the old stacks."""
    examples = "/usr/share/doc/relayd/examples"
    system.sh("systemctl enable -q --now relayd")
    anywhere = QUICK.replace("127.0.0.1", "0.0.0.0")
    system.configure(anywhere)
    for name in ("limits", "closed-site"):
        system.drop_in(name, system.sh(f"cat {examples}/{name}.conf"))
    try:
        system.run("exec", "systemctl", "restart", "relayd")
        assert int(system.show("MemoryMax")) == 1 << 30 and system.show("CPUQuotaPerSecUSec") == "2s"
        resident_kib = int(system.sh(f"ps -o rss= -p {system.worker_pid()}"))
        assert 0 < resident_kib < 256 << 10, "far below the limit"
        system.sh("ip address add 10.20.0.5/32 dev lo; ip address add 172.20.0.5/32 dev lo")
        code = ("netexec", "curl", "-sS", "--max-time", "3", "-o", "/dev/null", "-w", "%{http_code}")
        assert [system.call(*code, f"http://{host}:8282/").stdout for host in ("127.0.0.1", "10.20.0.5", "172.20.0.5")] == ["404", "404", "000"]
        system.run("apt", "install", "-y", "--no-install-recommends", "ufw", timeout_s=500)
        assert "8282/tcp" in system.sh("ufw app info relayd") and "80,443/tcp" in system.sh("ufw app info 'relayd Full'")
        system.sh("ufw allow relayd; ufw allow 'relayd Full'")
        assert "8282/tcp" in system.sh("ufw show added; ufw app list; ufw app info relayd")
    finally:
        system.sh("rm -f /etc/systemd/system/relayd.service.d/limits.conf /etc/systemd/system/relayd.service.d/closed-site.conf; systemctl daemon-reload; systemctl restart relayd")


def test_caddys_limits_of_connections_have_their_effect_on_the_installed_package(system: Testbed) -> None:
    """Row 1.20: the connections of clients, and the idle connections to an endpoint."""
    system.sh("systemctl enable -q --now relayd")
    system.upstream(9002)
    system.configure("""listeners: {public: {address: "127.0.0.1:8282", limits: {connections: 2}}}
upstreams: {web: {endpoints: ["http://127.0.0.1:9002"], pool: {max_idle_age: 2s, max_connections: 100}}}
routes: [{name: rest, match: {prefix: /}, upstream: web}]
""")
    held = system.hold(2, 8)
    third = system.call("netexec", "curl", "-sS", "--max-time", "1", "http://127.0.0.1:8282/")
    assert third.returncode != 0, "it waits until a connection ends"
    system.outcome(held)
    until(lambda: system.call("netexec", "curl", "-sS", "--max-time", "5", "http://127.0.0.1:8282/").returncode == 0)
    ask = "curl -sS -o /dev/null http://127.0.0.1:8282/; ss -tnH state established '( dport = :9002 )' | awk '{print $3}'"
    first, again = (set(system.sh(ask).split()) for _ in range(2))
    assert first and first == again, "a connection is kept"
    later = set(system.sh(f"sleep 3; {ask}").split())  # longer than max_idle_age
    assert later and not later & first, "and not used after it has been idle for too long"
