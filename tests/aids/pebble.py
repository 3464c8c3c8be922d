"""Pebble, a real ACME directory for tests, with its DNS server (apt: pebble). Started on free ports, ended by process id."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pytest

from tests.aids.ports import free_port

START_S = 30.0


def needs_pebble() -> pytest.MarkDecorator:
    """Skips a module on a machine without the packages."""
    missing = [name for name in ("pebble", "pebble-challtestsrv") if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason="needs the package pebble (apt install pebble)")


class Pebble:
    """A directory that validates names at `http_port` and `tls_port` of this machine; a context manager.

    `nonce_reject` is the percentage of good nonces that it rejects, `validity_s` the lifetime of its certificates. A command `prefix` runs
    it in another network, which only the caller can reach; there it validates names at ports 80 and 443.
    """

    def __init__(
        self, folder: Path, *, validity_s: int = 0, nonce_reject: int = 0, environment: Mapping[str, str] | None = None,
        eab: Mapping[str, str] | None = None, blocked: tuple[str, ...] = (), prefix: tuple[str, ...] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._prefix = prefix
        self.folder, self.port, self.http_port, self.tls_port = folder, free_port(), free_port(), free_port()
        if prefix:
            self.http_port, self.tls_port = 80, 443
        self._management, self._dns, self._dns_management = free_port(), free_port(), free_port()
        self.ca, key = folder / "directory.pem", folder / "directory.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", "/CN=pebble", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(self.ca)],
            check=True, capture_output=True,
        )
        config: dict[str, Any] = {
            "listenAddress": f"127.0.0.1:{self.port}", "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(self.ca), "privateKey": str(key), "httpPort": self.http_port, "tlsPort": self.tls_port,
            "ocspResponderURL": "", "externalAccountBindingRequired": eab is not None, "domainBlocklist": list(blocked),
        }
        if validity_s:
            config["certificateValidityPeriod"] = validity_s
        if eab is not None:
            config["externalAccountMACKeys"] = dict(eab)
        (folder / "pebble.json").write_text(json.dumps({"pebble": config}))
        self._environment = {
            **os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": str(nonce_reject), "PEBBLE_AUTHZREUSE": "0",
            **(environment or {}),
        }
        self._trusting = ssl.create_default_context(cafile=str(self.ca))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log: IO[bytes] | None = None

    @property
    def directory(self) -> str:
        return f"https://127.0.0.1:{self.port}/dir"

    def section(self, *domains: str, **further: Any) -> dict[str, Any]:
        """`tls.acme:` for this directory."""
        return {"domains": list(domains), "email": "ops@example.org", "directory": self.directory, "directory_ca": str(self.ca), **further}

    def __enter__(self) -> Pebble:
        self._log = open(self.folder / "pebble.log", "wb")
        options = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]
        usage = subprocess.run(["pebble-challtestsrv", "-help"], capture_output=True, text=True, check=False)
        if "-doh" in usage.stderr + usage.stdout:
            options += ["-doh", ""]
        dns = f"127.0.0.1:{self._dns}"
        self._start("pebble-challtestsrv", *options, "-dns01", dns, "-management", f"127.0.0.1:{self._dns_management}")
        self._start("pebble", "-config", str(self.folder / "pebble.json"), "-dnsserver", dns)
        for port in () if self._prefix else (self._dns_management, self.port, self._management):
            self._await(port)
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes:
            process.terminate()
            process.wait(30)
        if self._log is not None:
            self._log.close()

    def _start(self, *command: str) -> None:
        self._processes.append(subprocess.Popen([*self._prefix, *command], env=self._environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT))

    def _await(self, port: int) -> None:
        end = time.monotonic() + START_S
        while True:
            assert all(one.poll() is None for one in self._processes), (self.folder / "pebble.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.02)

    @property
    def roots_url(self) -> str:
        return f"https://127.0.0.1:{self._management}/roots/0"

    def roots(self) -> Path:
        """A file with the root of the certificates that this directory issues."""
        file = self.folder / "roots.pem"
        with urllib.request.urlopen(self.roots_url, context=self._trusting, timeout=30) as answer:
            file.write_bytes(answer.read())
        return file

    def tell_dns(self, action: str, **data: Any) -> None:
        """A command of the DNS server: set-txt, clear-txt, add-a, set-servfail and others."""
        urllib.request.urlopen(f"http://127.0.0.1:{self._dns_management}/{action}", json.dumps(data).encode(), timeout=30).close()

    def dns_hook(self) -> list[str]:
        """A hook that publishes TXT records in the DNS server; it notes its calls in `hook.log`."""
        file = self.folder / "dns-hook"
        file.write_text(f"""#!/bin/sh
set -e
echo "$@ $CERTBOT_DOMAIN $CERTBOT_VALIDATION" >>{self.folder}/hook.log
if [ "$1" = set ]; then action=set-txt; else action=clear-txt; fi
curl -sf -d "{{\\"host\\": \\"$2.\\", \\"value\\": \\"$3\\"}}" http://127.0.0.1:{self._dns_management}/$action
""")
        file.chmod(0o755)
        return [str(file)]

    def log(self) -> str:
        return (self.folder / "pebble.log").read_text(errors="replace")

    def orders(self) -> int:
        """How many orders clients have placed."""
        return self.log().count("POST /order-plz")
