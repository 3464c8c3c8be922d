"""Inspects all endpoints of upstreams concurrently, with a limit: `relayd probe`, and a check of `relayd doctor`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import NamedTuple

from relayd.cli.discovery_once import discovered
from relayd.config.model import Config
from relayd.plan.specs import upstream_spec
from relayd.proxy.api_path import translated_path
from relayd.upstream.discovered import LookupFault
from relayd.upstream.spec import AuthSpec, EndpointSpec, UpstreamSpec
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.inspection import Inspection, inspect

MOST = 32


class Inspected(NamedTuple):
    """The inspection of one endpoint with one key. `number` is its place in the configuration."""

    number: int
    spec: UpstreamSpec
    found: Inspection


def specs_of(config: Config, names: Iterable[str] = ()) -> list[UpstreamSpec]:
    """The specs of these upstreams, of all upstreams without names. Raises KeyError for an unknown name."""
    return [upstream_spec(name, config.upstreams[name]) for name in (tuple(names) or config.upstreams)]


async def inspections(specs: Sequence[UpstreamSpec], timeout_s: float) -> AsyncGenerator[Inspected, None]:
    """Inspect every endpoint with the first key, and the first endpoint of each upstream with every other key.

    The results come in the order in which they are found; `timeout_s` limits each inspection. The endpoints of an
    upstream with `discovery` are looked up first, within the same time; if none is found, the reason is the result.
    """
    client: StreamClient = StreamClient(force_instance=True)
    slots = asyncio.Semaphore(MOST)

    async def one(number: int, spec: UpstreamSpec, endpoint: EndpointSpec, auth: AuthSpec | None) -> Inspected:
        async with slots:
            return Inspected(number, spec, await inspect(client, spec, endpoint, auth, translated_path, timeout_s))

    async def failed(number: int, spec: UpstreamSpec, fault: LookupFault) -> Inspected:
        return Inspected(number, spec, Inspection("", "discovery", "", code="no_endpoint", fault=str(fault)))

    tasks: list[asyncio.Task[Inspected]] = []
    try:
        found = await asyncio.gather(*(discovered(client, spec, timeout_s) for spec in specs), return_exceptions=True)
        for spec, known in zip(specs, found, strict=True):
            if isinstance(known, LookupFault):
                tasks.append(asyncio.create_task(failed(len(tasks), spec, known)))
                continue
            if isinstance(known, BaseException):
                raise known
            for index, endpoint in enumerate(known.endpoints):
                for auth in (spec.keys or (None,)) if index == 0 else (spec.auth,):
                    tasks.append(asyncio.create_task(one(len(tasks), spec, endpoint, auth)))
        for done in asyncio.as_completed(tasks):
            yield await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        client.close()


async def inspect_upstreams(specs: Sequence[UpstreamSpec], timeout_s: float) -> list[Inspected]:
    """All inspections, in the order of the configuration."""
    return sorted([one async for one in inspections(specs, timeout_s)], key=lambda one: one.number)
