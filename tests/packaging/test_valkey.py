"""The installed relayd with the Valkey and the python3-redis of the distribution; skipped where it has no Valkey."""

from __future__ import annotations

import json

import pytest

from tests.packaging.conftest import WEB, Testbed, until

pytestmark = pytest.mark.packaging
SHARED = WEB.replace("routes: [", "store: {kind: redis, url: 'redis://127.0.0.1:6379/0', on_failure: closed}\nroutes: [").replace(
    "upstream: web}", "upstream: web, rates: [{requests: 2, per: 1h}]}"
)


def status_of(system: Testbed) -> str:
    return system.curl("-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:8282/")


def test_rates_are_counted_in_the_valkey_of_the_distribution(system: Testbed) -> None:
    done = system.call("apt", "install", "-y", "-q", "--no-install-recommends", "valkey-server", "python3-redis", timeout_s=600)
    if done.returncode:
        pytest.skip(f"{system.suite} has no valkey-server: {done.stderr.strip().splitlines()[-1:]}")
    system.sh("systemctl restart valkey-server")
    system.upstream()
    system.write("/etc/relayd.yaml", SHARED)
    system.sh("systemctl restart relayd")  # a running relayd does not see a library that was installed later
    until(lambda: bool(system.status()["store"]["server"]) and not system.status()["store"]["degraded"])
    assert [status_of(system) for _ in range(3)] == ["200", "200", "429"]
    system.sh("systemctl restart relayd")
    until(lambda: not system.status()["store"]["degraded"])
    assert status_of(system) == "429", "Valkey has kept what was used"
    found = json.loads(system.call("exec", "relayd", "doctor", "redis", "--json").stdout)
    assert found["checks"] and not [one for check in found["checks"] for one in check["findings"] if one["level"] == "failure"]
