"""Certificates for tests, made by the openssl command."""

from __future__ import annotations

import subprocess
from pathlib import Path

from relayd.config.listener import Certificate


def certificate(folder: Path, *names: str, subject: str = "", days: int = 2) -> Certificate:
    """A self-signed certificate for these names."""
    stem = subject or names[0].replace("*", "any")
    cert, key = folder / f"{stem}.pem", folder / f"{stem}.key"
    extensions = ["-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)] if names else []
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", str(days),
         "-subj", f"/CN={subject or names[0].replace('*', 'any')}", "-keyout", str(key), "-out", str(cert), *extensions],
        check=True, capture_output=True,
    )
    return Certificate(cert=str(cert), key=str(key))
