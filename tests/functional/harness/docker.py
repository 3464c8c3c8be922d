"""A private Docker engine (tests/packaging/docker.sh): its own network, no download, nothing of the host's touched."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "packaging" / "docker.sh"


class Docker:
    """One engine; a context manager."""

    def __init__(self, name: str = "functional") -> None:
        self.words = [str(SCRIPT), "-n", f"{name}-{os.getpid()}"]

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.words, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)

    def run(self, *words: str) -> str:
        """The output of a command of the script."""
        done = self.call(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def docker(self, *words: str) -> str:
        return self.run("docker", *words)

    def serve(self, name: str, port: int, *options: str) -> str:
        """Start a container that answers every path with its name, and wait until it does; returns its address."""
        self.docker("run", "-d", "--name", name, *options, "relayd-test/http", "/bin/serve", str(port), name)
        address = self.address(name)
        listens = f"until (exec 3<>/dev/tcp/{address}/{port}) 2>/dev/null; do sleep 0.05; done"
        self.run("netexec", "timeout", "60", "bash", "-c", listens)
        return address

    def address(self, name: str, network: str = "bridge") -> str:
        return self.docker("inspect", "-f", f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}', name)

    def remove_all(self) -> None:
        for identity in self.docker("ps", "-aq").split():
            self.docker("rm", "-f", identity)

    @property
    def socket(self) -> str:
        return self.run("sock")

    @property
    def inside(self) -> tuple[str, ...]:
        """Words before a command that runs on the engine's network."""
        return (*self.words, "netexec")

    def __enter__(self) -> Docker:
        # Not captured: dockerd keeps the descriptors it was given.
        done = subprocess.run([*self.words, "up"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
        assert done.returncode == 0, f"docker.sh up: {done.returncode}"
        return self

    def __exit__(self, *fault: object) -> None:
        self.call("down")


def why_not() -> str:
    """Why this machine cannot run a Docker engine; empty if it can."""
    if shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        return "docker.io is not installed"
    done = subprocess.run([str(SCRIPT), "check"], capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip().replace("\n", "; ")
