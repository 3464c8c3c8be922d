"""Libraries that the package only suggests: a running relayd uses one that is installed later, as `relayd check` does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.aids.ports import free_port
from tests.functional.harness.relay import ROOT, Relay

# Python reads this at its start. It hides the libraries until the file `installed` is beside it.
SITE = """
import os, sys

MARK = os.path.join(os.path.dirname(__file__), "installed")
FINDERS = list(sys.meta_path)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("redis", "jwt", "dns", "acme", "josepy") and not os.path.exists(MARK):
            return None
        found = (one.find_spec(name, path, target) for one in FINDERS)
        return next((one for one in found if one is not None), None)

sys.meta_path[:] = [Finder()]
"""
PORT = free_port()
USES: dict[str, dict[str, Any]] = {
    "redis": {"store": {"kind": "redis", "url": f"redis://127.0.0.1:{PORT}/0"}},
    "jwt": {"consumers": {"ci": {"jwt": {
        "issuer": "https://issuer.test", "audience": "relayd", "algorithms": ["HS256"], "secret": {"file": "SECRET"},
    }}}},
    "dns": {"upstreams": {"found": {"discovery": {"dns": {"name": "x.test", "port": 1, "servers": [f"127.0.0.1:{PORT}"]}}}}},
}  # fmt: skip


@pytest.mark.parametrize("library", USES)
def test_a_reload_finds_a_library_that_was_installed_after_the_start(library: str, folder: Path) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")  # each is only suggested
    site, secret = folder / "site", folder / "secret"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    secret.write_text("s" * 40 + "\n")
    secret.chmod(0o600)
    change: dict[str, Any] = USES[library]
    if library == "jwt":
        change["consumers"]["ci"]["jwt"]["secret"] = {"file": str(secret)}
    environment = {"PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))}
    with Relay(folder / "r", "http://127.0.0.1:1", environment=environment) as relay:
        relay.write(change)
        code, told = relay.admin("/reload", "POST")
        assert code != 200 and "which is not installed" in str(told)
        (site / "installed").touch()
        code, told = relay.admin("/reload", "POST")
        assert code == 200, told
        assert relay.status()["generation"] == 2
