"""One lookup of an upstream's discovery, for commands: the addresses that relayd would find now."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace

from relayd.daemon.endpoint_lists import parse_endpoints
from relayd.plan.specs import discovered_specs, endpoint_spec
from relayd.upstream.discovered import Address, LookupFault, Tools, discovery
from relayd.upstream.spec import UpstreamSpec
from relayd.upstream.transport.api_client import ApiRequests
from relayd.upstream.transport.client import StreamClient


class FirstReport:
    """The receiver of a discovery's reports; keeps the first one."""

    def __init__(self) -> None:
        self._first: asyncio.Future[tuple[Sequence[Address], str]] = asyncio.get_running_loop().create_future()

    def found(self, addresses: Sequence[Address], note: str = "") -> None:
        if not self._first.done():
            self._first.set_result((addresses, note))

    def confirmed(self) -> None:
        """Only the first lookup counts."""

    def failed(self, reason: str, expired: bool = False) -> None:
        if not self._first.done():
            self._first.set_exception(LookupFault(reason))

    async def pause(self, seconds: float) -> None:
        """No further lookup is wanted."""
        await asyncio.Event().wait()

    async def first(self, running: asyncio.Task[None]) -> tuple[Sequence[Address], str]:
        """Wait for the first report. Raises LookupFault, and what the discovery itself raises."""
        await asyncio.wait((self._first, running), return_when=asyncio.FIRST_COMPLETED)
        if not self._first.done():
            running.result()
            raise LookupFault("the lookup ended without a result")
        return self._first.result()


async def discovered(client: StreamClient, spec: UpstreamSpec, timeout_s: float) -> UpstreamSpec:
    """The spec with the endpoints that its discovery finds now; unchanged without a discovery.

    Raises LookupFault with the reason if it finds none within the time.
    """
    if spec.discovery is None:
        return spec
    requests, report = ApiRequests(client), FirstReport()
    kind = discovery(spec.discovery, Tools(parse_endpoints, lambda url: requests.connect(endpoint_spec(url))))
    running = asyncio.create_task(kind.run(report))
    try:
        async with asyncio.timeout(timeout_s):
            addresses, note = await report.first(running)
    except TimeoutError:
        raise LookupFault(f"{kind.source}: no result within {timeout_s:g} s") from None
    except LookupFault as fault:
        raise LookupFault(f"{kind.source}: {fault}") from None
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError, LookupFault):
            await running
        requests.close()
    endpoints, left_out = discovered_specs(addresses, spec.discovery, spec.balance.kind)
    if not endpoints:
        raise LookupFault(f"{kind.source}: {note or left_out or 'nothing was found'}")
    return replace(spec, endpoints=endpoints)
