"""Rights of the configuration, of keys and of private keys: who else can read or change them."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator

from relayd.cli.diagnosis import Finding, fine, unknown, warning
from relayd.cli.doctor.examination import Context
from relayd.daemon.preflight import secrets_of

NEEDS_CONFIGURATION = True


async def run(context: Context) -> AsyncGenerator[Finding, None]:
    assert context.loaded is not None
    sources = [secret.source for _, secret in secrets_of(context.config)]
    keys = {source.partition(" ")[2] for source in sources if source.startswith("file ")}
    sections = [one.tls for one in context.config.listeners.values() if one.tls is not None]
    private = {certificate.key for tls in sections for certificate in tls.certificates}
    files = [*context.loaded.files, *sorted({*keys, *private})]
    for file in files:
        for finding in await context.in_thread(faults, file, file in keys or file in private):
            yield finding
    yield fine("files", f"{len(files)} files looked at, {len(keys)} of them with keys")


def faults(file: str, is_secret: bool) -> list[Finding]:
    """Rights that let others read a secret or change a file."""
    try:
        status = os.stat(file)
    except OSError as error:
        return [unknown(file, f"cannot be looked at: {error.strerror}", "run relayd doctor as root")]
    found = []
    if is_secret and status.st_mode & stat.S_IROTH:
        cure = f"chgrp relayd {file} && chmod 0640 {file}"
        found.append(warning(file, "every user of this machine can read this key", cure))
    if status.st_mode & stat.S_IWOTH:
        found.append(warning(file, "every user of this machine can change this file", f"chmod o-w {file}"))
    return found
