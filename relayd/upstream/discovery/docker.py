"""The containers of a Docker engine, by name, label or Compose service; their addresses follow every deploy.

relayd lists the containers and then follows the engine's events. A container that is killed, dies, is paused or leaves
its network loses its endpoint at once, because another container may soon get its address. One that starts gets
requests after its own health check has passed, if it has one. A new container and one that has started again are new
endpoints, also at an address that was in use before; one that is paused or unhealthy keeps its breaker. After a lost connection, after a silence, and every
`refresh` the containers are listed again; while the engine cannot be reached, the addresses found last stay in use.

Address: with `network`, the container's address in that network. Without it, its only address; a container in several
networks is left out with the reason, because relayd cannot know which of them it can reach. With network_mode host it is
127.0.0.1. Port: `port`, otherwise the only TCP port that the container exposes.

Where the networks of containers cannot be reached (a rootless engine, Docker Desktop, an engine on another host), set
`address: published`: a container is reached by the port of the host that publishes its port (`-p 8001:8001`), at the address
where it is published, or at `host` if that is every address of the host. Among several, an IPv4 address and the lowest port
are used. A container that does not publish the port is left out with the reason.

relayd needs access to the engine's socket, which is opt-in and equals root on this machine: see relayd-security(7) for the
systemd drop-in and for a proxy that permits nothing but these two reads.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import re
from collections.abc import Iterable
from typing import Literal
from urllib.parse import quote

from relayd import clock
from relayd.schema import Duration, section, setting
from relayd.upstream.discovered import Address, ApiClient, LookupFault, Report, Tools
from relayd.upstream.discovery._containers import (
    PROJECT,
    SERVICE,
    Event,
    Selection,
    read_containers,
    read_event,
    reasons,
)
from relayd.upstream.discovery._threads import in_thread
from relayd.upstream.discovery._urls import PATH, PATH_DOC, SCHEME_DOC, backoff_s, parts_of, url_of

LISTING_BYTES = 8 << 20
EVENT_BYTES = 256 * 1024
SMALL_BYTES = 64 * 1024  # a listing up to this size is parsed on the loop
TIMEOUT_S = 10.0
LEAST_RETRY_S, MOST_RETRY_S = 0.5, 15.0
WINDOW_S = 10.0
PACES = ((20, 0.05), (40, 0.25))  # up to so many listings within WINDOW_S: the wait before the next one in seconds
SLOWEST_S = 1.0
MOST_DEATHS = 1024  # containers
RENAMED_S = 0.5  # from a renaming to the listing that applies it
AGAIN_S = 1.0  # from the last event to another listing: the engine sends an event before its list has the change
GONE = frozenset({"die", "stop", "destroy", "pause", "oom"})
BACK = frozenset({"start", "unpause", "restart"})
FATAL = frozenset({"9", "15", "2", "3", "KILL", "TERM", "INT", "QUIT"})
ACTIONS = [*sorted(GONE), *sorted(BACK), "kill", "rename", "update", "health_status", "connect", "disconnect"]
HOST = r"[A-Za-z0-9.\-]{1,253}|[0-9a-fA-F:]{2,39}"
ENGINE = r"unix:/[^:]{1,106}|http://(?:[A-Za-z0-9.\-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}"


@section()
class Options:
    """Containers of a Docker engine. Of name, label and service at least one is required; all that are given must match."""

    name: str | None = setting(default=None, doc="Name of the container. A replica with a number (`backend.ai.1`, as Dokku names them) matches, too; `*` stands for any text.", pattern=r"[A-Za-z0-9_.*\-]{1,200}", example="backend.ai")
    label: tuple[str, ...] = setting(default=(), doc="A label of the container, as key or key=value; or several, which it must all have.", example="relayd.upstream=chat")
    service: str | None = setting(default=None, doc="Name of the service in Docker Compose.", pattern=r"[A-Za-z0-9_.\-]{1,200}", example="chat")
    project: str | None = setting(default=None, doc="Name of the Compose project; without it the service may be of any project.", pattern=r"[a-z0-9_\-]{1,200}", example="ai")
    network: str | None = setting(default=None, doc="The network whose address is used. In Docker Compose its name includes the project: `ai_default`.", pattern=r"[A-Za-z0-9_.\-]{1,200}", example="bridge")
    port: int | None = setting(default=None, doc="Port inside the container.", minimum=1, maximum=65535, example=8001)
    address: Literal["network", "published"] = setting(default="network", doc="How a container is reached: at its own address in a network, or at the port of the host that publishes its port.")
    host: str = setting(default="127.0.0.1", doc="With `address: published`: the address or name of the engine's host, for ports that are published at all of its addresses.", pattern=HOST)
    scheme: Literal["http", "https"] = setting(default="http", doc=SCHEME_DOC)
    path: str | None = setting(default=None, doc=PATH_DOC, pattern=PATH, example="/v1")
    engine: str = setting(default="unix:/run/docker.sock", doc="Where the Engine API is: unix:/path, or http://host:port of a proxy.", pattern=ENGINE)
    refresh: Duration = setting(default=Duration(120), doc="How often the containers are listed even without an event, and after which silence the connection for events is renewed.", minimum=1, maximum=86400)

    def url_parts(self) -> tuple[str, str]:
        """Scheme and base path of all addresses."""
        return parts_of(self.scheme, self.path)

    def check(self) -> Iterable[tuple[str, str]]:
        if self.name is None and not self.label and self.service is None:
            yield "", "needs name, label or service"
        if self.project is not None and self.service is None:
            yield "project", "has a meaning only with service"
        if self.address == "published" and self.network is not None:
            yield "network", "has no meaning with address: published"
        if self.address == "network" and self.host != "127.0.0.1":
            yield "host", "has a meaning only with address: published"
        yield from ((f"label[{index}]", "needs a key") for index, text in enumerate(self.label) if not text.partition("=")[0])
        if self.engine.startswith("http:") and int(self.engine.rpartition(":")[2]) not in range(1, 65536):
            yield "engine", "needs a port between 1 and 65535"


class Discovery:
    """Follows one engine. `_known` are the addresses in use by container, `_listed` all containers that match, `_gone`
    those that died or were killed since the last connection and have not started again, `_deaths` counts how often a
    container has died."""

    def __init__(self, options: Options, tools: Tools) -> None:
        self._options, self._tools = options, tools
        self.interval_s = float(options.refresh)
        labels = [*options.label]
        labels += [f"{SERVICE}={options.service}"] if options.service is not None else []
        labels += [f"{PROJECT}={options.project}"] if options.project is not None else []
        self._selection = Selection(
            options.name, tuple(labels), options.network, options.port, options.host if options.address == "published" else None
        )
        self._socket = options.engine.removeprefix("unix:") if options.engine.startswith("unix:") else None
        self._known: dict[str, Address] = {}
        self._network: dict[str, str] = {}  # of the container's address, if the rule is by network
        self._listed: set[str] = set()
        self._gone: set[str] = set()
        self._deaths: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._again: asyncio.TimerHandle | None = None
        self._times: collections.deque[float] = collections.deque(maxlen=PACES[-1][0])
        self._failures = self._incomplete = 0
        parts = [options.name or "", *options.label, *([f"service {options.service}"] if options.service else [])]
        self.source = f"docker {' '.join(part for part in parts if part)}"

    def faults(self) -> Iterable[tuple[str, str]]:
        return ()

    def cautions(self) -> Iterable[tuple[str, str]]:
        if why := self._why_unreachable():
            yield "engine", f"the upstream has no endpoint until this is corrected: {why}"

    def _why_unreachable(self) -> str:
        """Why the socket cannot be used, as far as its file tells; else empty."""
        if self._socket is None:
            return ""
        if not os.path.exists(self._socket):
            return f"there is no socket {self._socket}; is Docker installed and running?"
        if not os.access(self._socket, os.R_OK | os.W_OK, effective_ids=True):
            return f"this user may not use {self._socket}; see the drop-in docker.conf in relayd-security(7)"
        return ""

    async def run(self, report: Report) -> None:
        while True:
            try:
                await self._follow(self._tools.connect(self._options.engine), report)
            except LookupFault as fault:
                self._failures += 1
                report.failed(self._why_unreachable() or str(fault))
                await asyncio.sleep(backoff_s(self._failures, LEAST_RETRY_S, MOST_RETRY_S))

    async def _follow(self, api: ApiClient, report: Report) -> None:
        """List the containers, and follow the events until the engine is silent. Raises LookupFault."""
        self._gone.clear()
        reader = asyncio.create_task(self._read_events(api, report))
        reader.add_done_callback(lambda _: self._changed.set())
        refreshed_s = clock.monotonic()
        try:
            while True:
                try:
                    async with asyncio.timeout(max(0.0, refreshed_s + float(self._options.refresh) - clock.monotonic())):
                        await self._changed.wait()
                except TimeoutError:
                    self._gone.clear()  # of containers that survived a signal
                if reader.done():
                    return reader.result()
                await asyncio.sleep(self._pace_s())  # further events of the same change arrive meanwhile
                self._changed.clear()
                await self._list(api, report)
                self._failures, refreshed_s = 0, clock.monotonic()
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, LookupFault):
                await reader

    def _pace_s(self) -> float:
        """The wait before the next listing: longer after many of them, as with a container that restarts for ever."""
        now_s = clock.monotonic()
        recent = sum(1 for time_s in self._times if now_s - time_s < WINDOW_S)
        self._times.append(now_s)
        return next((pace_s for most, pace_s in PACES if recent < most), SLOWEST_S)

    # ---- the list

    async def _list(self, api: ApiClient, report: Report) -> None:
        """List the containers and report the addresses of those that are ready. Raises LookupFault."""
        filters: dict[str, list[str]] = {"status": ["running"]}
        if self._selection.labels:
            filters["label"] = list(self._selection.labels)
        if self._selection.name is not None:
            filters["name"] = [re.escape(self._selection.name.partition("*")[0])]
        data = await api.get(f"/containers/json?filters={as_query(filters)}", LISTING_BYTES, TIMEOUT_S)
        containers = await in_thread(read_containers, data) if len(data) > SMALL_BYTES else read_containers(data)
        matching = [one for one in containers if self._selection.matches(one.name, one.labels)]
        known, left_out, is_incomplete = {}, [], False
        for one in matching:
            where = one.why_not_ready or self._selection.host_and_port(one)
            if one.id in self._gone:
                left_out.append((one.name, "is stopping"))
            elif isinstance(where, str):
                left_out.append((one.name, where))
                is_incomplete = is_incomplete or not (one.why_not_ready or one.networks)
            else:
                run = str(self._deaths.get(one.id, ""))
                known[one.id] = Address(url_of(self._options.scheme, *where, self._options.path), instance=one.id[:12], run=run)
                self._network[one.id] = "" if self._options.address == "published" else self._options.network or next(iter(one.networks), "")
        self._listed = {one.id for one in matching}
        self._gone &= self._listed
        self._network = {key: name for key, name in self._network.items() if key in known}
        self._known = known
        note = reasons(left_out) if left_out else "" if known else "no running container matches"
        report.found(tuple(known.values()), note)
        self._incomplete = self._incomplete + 1 if is_incomplete else 0
        if is_incomplete:  # the address of a new container can be missing for a moment, without an event when it is there
            delay_s = backoff_s(self._incomplete, LEAST_RETRY_S, MOST_RETRY_S)
            asyncio.get_running_loop().call_later(delay_s, self._changed.set)

    # ---- events

    async def _read_events(self, api: ApiClient, report: Report) -> None:
        """Follow the events until the engine is silent. Raises LookupFault."""
        filters = {"type": ["container", "network"], "event": ACTIONS}
        target = f"/events?filters={as_query(filters)}"
        async with contextlib.aclosing(api.lines(target, EVENT_BYTES, float(self._options.refresh))) as lines:
            async for line in lines:
                if not line:  # the connection is open: what happened before is in the list, what follows is an event
                    self._changed.set()
                elif (event := read_event(line)) is not None:
                    self._on_event(event, report)

    def _on_event(self, event: Event, report: Report) -> None:
        container = event.container
        if event.action.partition(":")[0] not in ACTIONS:  # a proxy may ignore the filter
            return
        if event.kind == "network":
            if event.action == "disconnect" and event.name == self._network.get(container):
                self._drop(container, report)
            if container in self._listed:
                self._list_soon()
            return
        if container not in self._listed and not self._selection.matches(event.name, event.attributes):
            return
        if event.action == "die":
            self._count_death(container)
        signal = event.attributes.get("signal", "").removeprefix("SIG")
        if event.action in GONE or (event.action == "kill" and signal in FATAL):
            self._gone.add(container)  # also if it is not listed yet: a listing may be on its way
            self._drop(container, report)
        elif event.action in BACK:
            self._gone.discard(container)
        elif event.action == "kill":
            return
        elif event.action == "rename":  # a deploy renames the old container, then the new one: both still run
            asyncio.get_running_loop().call_later(RENAMED_S, self._list_soon)
            return
        self._list_soon()

    def _list_soon(self) -> None:
        """List the containers now, and again after AGAIN_S without a further event."""
        self._changed.set()
        if self._again is not None:
            self._again.cancel()
        self._again = asyncio.get_running_loop().call_later(AGAIN_S, self._changed.set)

    def _count_death(self, container: str) -> None:
        """The container ends: what starts in its place is another run, with no failure on record."""
        self._deaths[container] = self._deaths.pop(container, 0) + 1
        if len(self._deaths) > MOST_DEATHS:
            del self._deaths[next(iter(self._deaths))]

    def _drop(self, container: str, report: Report) -> None:
        """Remove the address of a container at once: another container may get it."""
        if self._known.pop(container, None) is not None:
            report.found(tuple(self._known.values()), "" if self._known else "the container has stopped")


def as_query(filters: dict[str, list[str]]) -> str:
    """Filters as the API expects them in a query."""
    return quote(json.dumps(filters, separators=(",", ":")), safe="")
