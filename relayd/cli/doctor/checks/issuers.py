"""The keys of identity providers (`jwt` of consumers): each file and URL can be read, and has usable keys.

Sends one GET request to each URL.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from relayd.access.key_set import MAX_BYTES, KeySetFault, parse_key_set
from relayd.access.key_source import KeySource, SourceSpec
from relayd.cli.diagnosis import Finding, failure, fine
from relayd.cli.doctor.examination import Context
from relayd.config.access import authenticators_of
from relayd.config.model import Config
from relayd.schema.files import FileFault, read_file
from relayd.upstream.discovered import LookupFault
from relayd.upstream.spec import TlsSpec
from relayd.upstream.transport.api_client import ApiRequests
from relayd.upstream.transport.client import StreamClient

NEEDS_CONFIGURATION = True


async def run(context: Context) -> AsyncGenerator[Finding, None]:
    specs = sources_of(context.config)
    client: StreamClient = StreamClient(force_instance=True)
    requests = ApiRequests(client)
    try:
        judging = [judge(requests, spec, ", ".join(names), context.timeout_s / 2) for spec, names in specs.items()]
        for done in asyncio.as_completed(judging):
            yield await done
    finally:
        requests.close()
        client.close()
    if not specs:
        yield fine("issuers", "no consumer has jwt with jwks")


def sources_of(config: Config) -> dict[SourceSpec, list[str]]:
    """The documents with keys, and the consumers that use each."""
    found: dict[SourceSpec, list[str]] = {}
    for name, consumer in config.consumers.items():
        for authenticator in authenticators_of(consumer).values():
            source: KeySource | None = getattr(authenticator, "key_source", None)
            if source is not None:
                found.setdefault(source.spec, []).append(name)
    return found


async def judge(requests: ApiRequests, spec: SourceSpec, names: str, timeout_s: float) -> Finding:
    """Read one document, as relayd does."""
    subject = f"keys of {names}"
    try:
        if spec.file:
            data = (await asyncio.to_thread(read_file, spec.file, MAX_BYTES))[0]
        else:
            server, target = requests.server_of(spec.url, TlsSpec(ca=spec.ca))
            data = await server.get(target, MAX_BYTES, min(spec.timeout_s, timeout_s))
        keys = await asyncio.to_thread(parse_key_set, data)
    except FileFault as fault:
        return failure(subject, f"{spec.name} cannot be read: {fault}", "correct jwks.file, or the rights of the file")
    except LookupFault as fault:
        cure = "check jwks.url and the way to the issuer; after a restart, tokens are refused once jwks.keep is over"
        return failure(subject, str(fault), cure)
    except KeySetFault as fault:
        return failure(subject, f"{spec.name} {fault}", "name the issuer's jwks_uri, as its openid-configuration does")
    return fine(subject, f"{spec.name} has {len(keys)} usable keys")
