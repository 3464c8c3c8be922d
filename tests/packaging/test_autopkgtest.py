"""The package's own tests, run by autopkgtest in a booted system."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.packaging.conftest import TOP, Testbed

pytestmark = pytest.mark.packaging


def test_the_packages_own_tests_pass(bare: Testbed, package: Path, tmp_path: Path) -> None:
    """`foreground` needs no isolation; `service` asks for a container, which the booted system is."""
    bare.run("install", "autopkgtest", "curl", "dpkg-dev", str(package), timeout_s=500)
    (tmp_path / "tree").mkdir()
    subprocess.run(["cp", "-a", str(TOP / "debian"), str(TOP / "systemd"), str(tmp_path / "tree")], check=True)
    bare.run("push", str(tmp_path / "tree"), "/var/tmp/tree")
    bare.sh("echo 'Acquire::Retries \"0\";' >/etc/apt/apt.conf.d/90no-network")  # its own apt would try and wait
    done = bare.call(
        "sh", f"cd /var/tmp/tree && autopkgtest --ignore-restrictions=isolation-container /var/tmp/debs/{package.name} ./ -- null",
        timeout_s=500,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    for name in ("foreground", "service"):
        assert f"{name:<20} PASS" in done.stdout + done.stderr
