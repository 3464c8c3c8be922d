"""`make apt-repo`: a signed repository that apt installs from, and that nobody can change unseen."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.conftest import TOP, Testbed

pytestmark = pytest.mark.packaging

LINE = "deb [signed-by=/etc/apt/keyrings/relayd.gpg] file:/srv/apt stable main"
ONLY = "-o Dir::Etc::sourcelist=/etc/apt/sources.list.d/relayd.list -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0"


@pytest.fixture(scope="module")
def repository(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Made with a key of its own keyring, that is gone afterwards."""
    missing = [tool for tool in ("gpg", "apt-ftparchive") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"missing here: {', '.join(missing)}")
    home, folder = tmp_path_factory.mktemp("gnupg"), tmp_path_factory.mktemp("apt")
    home.chmod(0o700)
    environment = {**os.environ, "GNUPGHOME": str(home)}
    words = ["gpg", "--batch", "--passphrase", "", "--quick-generate-key", "relayd test <test@example.org>", "ed25519"]
    subprocess.run([*words, "sign", "1d"], env=environment, check=True, capture_output=True)
    make = [str(TOP / "debian/make-repository"), str(folder), "test@example.org", str(package)]
    subprocess.run(make, env=environment, check=True, capture_output=True)
    yield folder
    subprocess.run(["gpgconf", "--kill", "all"], env=environment, check=False)


def test_apt_installs_from_it_and_only_with_its_key(bare: Testbed, repository: Path) -> None:
    bare.run("push", str(repository), "/srv/apt")
    bare.write("/etc/apt/sources.list.d/relayd.list", LINE)
    refused = bare.call("sh", f"apt-get {ONLY} update 2>&1")
    assert "NO_PUBKEY" in refused.stdout or "signed" in refused.stdout or "keyring" in refused.stdout.lower()
    bare.sh(f"mkdir -p /etc/apt/keyrings; cp /srv/apt/relayd.gpg /etc/apt/keyrings/; apt-get {ONLY} update")
    bare.sh("DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends --no-download relayd || "
            "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends relayd")
    assert bare.show("ActiveState") == "active"
    assert "/srv/apt stable/main" in bare.sh("apt-cache policy relayd").replace("file:", "")


def test_a_changed_index_is_refused(bare: Testbed) -> None:
    bare.sh("cd /srv/apt/dists/stable && for f in main/*/Packages main/*/Packages.gz; do printf x >>$f; done;"
            "rm -f /var/lib/apt/lists/*srv_apt*")
    told = bare.call("sh", f"apt-get {ONLY} update 2>&1")
    assert "Hash Sum mismatch" in told.stdout or "unexpected size" in told.stdout
