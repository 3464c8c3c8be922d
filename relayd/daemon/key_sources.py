"""Reads the documents with keys of issuers (`jwt` of consumers) in the background: URLs with the curl client, files
when they change.

1. A document belongs to its spec: a reload that does not change it keeps its keys, and entries with the same one
   share it.
2. A start and a reload wait for the first answers of new URLs, for FIRST_ANSWERS_S at most: otherwise a process that
   takes over would refuse tokens.
3. Reading and parsing never hold the event loop, and a fault leaves the keys in use (access/key_source).
4. The document of a URL is kept in the state directory, and is used after a restart until the URL is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from relayd import clock
from relayd.access.key_set import MAX_BYTES, KeySetFault, parse_key_set
from relayd.access.key_source import KeySource, SourceSpec
from relayd.config.access import authenticators_of
from relayd.config.model import Config
from relayd.daemon.issuer_key_files import read_document, write_document
from relayd.daemon.timers import Timers
from relayd.plan.plan import Plan
from relayd.plan.specs import stamps_of
from relayd.schema.files import FileFault, read_file
from relayd.telemetry.metrics import Labels
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.discovered import LookupFault
from relayd.upstream.spec import TlsSpec
from relayd.upstream.transport.api_client import ApiRequests
from relayd.upstream.transport.client import StreamClient

LOG = logging.getLogger("relayd.key_sources")
FIRST_ANSWERS_S = 2.0
LOOK_S = 2.0  # between two looks at a file
RESTART_S = 5.0
REPEATED_S = 600.0  # between two log lines about the same fault


class KeySources:
    """A service."""

    def __init__(self, client: StreamClient, telemetry: Telemetry, state: str = "") -> None:
        """`state` is the state directory, empty without one."""
        self._requests, self._telemetry, self._state = ApiRequests(client), telemetry, state
        self._running: dict[SourceSpec, Reading] = {}
        self._prepared: dict[SourceSpec, Reading] = {}  # of a configuration that is not in force yet

    async def prepare(self, config: Config) -> None:
        """Start to read the new URLs of a configuration, and wait for their first answers."""
        for consumer in config.consumers.values():
            for authenticator in authenticators_of(consumer).values():
                source: KeySource | None = getattr(authenticator, "key_source", None)
                if source is None or not source.spec.url or source.spec in (*self._running, *self._prepared):
                    continue
                self._prepared[source.spec] = self._begin(source.spec)
        if self._prepared:
            answers = (reading.answered.wait() for reading in self._prepared.values())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_ANSWERS_S):
                    await asyncio.gather(*answers)

    def discard(self) -> None:
        """End the readings of a configuration that did not come into force."""
        for reading in self._prepared.values():
            reading.close()
        self._prepared.clear()

    def _begin(self, spec: SourceSpec) -> Reading:
        reading = Reading(spec, self._requests, self._telemetry, self._state)
        reading.start()
        return reading

    def commit(self, plan: Plan) -> None:
        """Keep, start and end readings, so that they are those of the plan."""
        wanted: dict[SourceSpec, list[tuple[str, KeySource]]] = {}
        for name, source in plan.consumers.key_sources():
            wanted.setdefault(source.spec, []).append((name, source))
        for spec in [spec for spec in self._running if spec not in wanted]:
            self._running.pop(spec).close()
        for spec, entries in wanted.items():
            if spec not in self._running:
                self._running[spec] = self._prepared.pop(spec) if spec in self._prepared else self._begin(spec)
            self._running[spec].attach(entries)
        self.discard()

    def start(self, timers: Timers) -> None:
        """Nothing is periodic: each document has a task."""

    def gauges(self) -> None:
        now_s = clock.monotonic()
        ages_s: dict[Labels, float] = {
            (name,): round(now_s - source.read_s, 1)
            for reading in self._running.values() for name, source in reading.entries if source.read_s is not None
        }
        self._telemetry.metrics.set_gauges("relayd.access.issuer_keys_age", ages_s)

    def close(self) -> None:
        self.discard()
        for reading in self._running.values():
            reading.close()
        self._running.clear()
        self._requests.close()


class Reading:
    """One document that is read again and again. `entries` are the sources of the plan with the names of their
    consumers; `answered` is set after the first attempt, or when kept keys are in use."""

    def __init__(self, spec: SourceSpec, requests: ApiRequests, telemetry: Telemetry, state: str) -> None:
        self.spec, self._telemetry = spec, telemetry
        self._folder = state if spec.url and spec.keep_s else ""  # of kept keys
        self.state = KeySource(spec)
        self.entries: list[tuple[str, KeySource]] = []
        self.answered = asyncio.Event()
        self._wanted = asyncio.Event()
        self._stamps: tuple[str, ...] | None = None  # of the file as it was read last
        self._task: asyncio.Task[None] | None = None
        self._server, self._target = requests.server_of(spec.url, TlsSpec(ca=spec.ca, stamps=stamps_of(spec.ca)))

    def attach(self, entries: list[tuple[str, KeySource]]) -> None:
        """Serve the sources of a new plan."""
        for _, source in self.entries:
            source.settle()  # requests of the old plan
        self.entries = entries
        for _, source in entries:
            source.on_wanted = self._want
            if self.answered.is_set():
                source.inherit(self.state)
            else:  # the keys of a file were read when the plan was compiled
                self.state.inherit(source)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        for _, source in self.entries:
            source.settle()

    def _want(self) -> bool:
        if self.state.want(clock.monotonic()):
            self._wanted.set()
        return self._wanted.is_set()

    async def _run(self) -> None:
        await self._use_stored()
        while True:
            try:
                await self._read()
                self._publish()
                self.answered.set()
                await self._pause()
            except Exception as error:  # rescue door: a fault of one reading must not end it for ever
                LOG.error("keys of %s", self.spec.name, exc_info=error)
                self._failed(f"internal fault: {type(error).__name__}")
                self.answered.set()
                await asyncio.sleep(RESTART_S)

    async def _use_stored(self) -> None:
        """Use the keys of an earlier process until the document is read."""
        if not self._folder:
            return
        stored = await asyncio.to_thread(read_document, self._folder, self.spec.url, self.spec.keep_s)
        if stored is None:
            return
        with contextlib.suppress(KeySetFault):  # of another version; the URL is read at once
            keys = await asyncio.to_thread(parse_key_set, stored[0])
            self.state.found(keys, clock.monotonic() - stored[1])
            self._publish()
            self.answered.set()

    async def _pause(self) -> None:
        """Wait until the document is to be read again."""
        pause_s = LOOK_S if self.spec.file else self.state.due_in_s(clock.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._wanted.wait()
        self._wanted.clear()

    async def _read(self) -> None:
        """Read the document, unless it is a file that was read without a fault and has not changed."""
        if self.spec.file:
            stamps = stamps_of(self.spec.file)
            if stamps == self._stamps and not self.state.fault:
                return
        try:
            if self.spec.file:
                data = (await asyncio.to_thread(read_file, self.spec.file, MAX_BYTES))[0]
                self._stamps = stamps
            else:
                data = await self._server.get(self._target, MAX_BYTES, self.spec.timeout_s)
            keys = await asyncio.to_thread(parse_key_set, data)
        except FileFault as fault:
            self._failed(f"cannot be read: {fault}")
        except (LookupFault, KeySetFault) as fault:
            self._failed(str(fault))
        else:
            if self._folder and (reason := await asyncio.to_thread(write_document, self._folder, self.spec.url, data)):
                self._telemetry.journal.limited(
                    f"issuer_keys:{self.spec.name}:kept", REPEATED_S, "warning", "issuer_keys_not_kept",
                    "After a restart, tokens cannot be verified before the URL is read.", source=self.spec.name,
                    why=reason,
                )
            recovered = self.state.fault
            self.state.found(keys, clock.monotonic())
            if recovered:
                self._telemetry.journal.limited(
                    f"issuer_keys:{self.spec.name}:recovered", REPEATED_S, "info", "issuer_keys_recovered",
                    consumer=self._names, source=self.spec.name, keys=len(keys),
                )

    def _failed(self, reason: str) -> None:
        """Report a failed reading. The keys that were read last stay."""
        self.state.failed(reason, clock.monotonic())
        stays = "The keys that were read last stay in use." if self.state.keys is not None else "No key is known."
        self._telemetry.journal.limited(
            f"issuer_keys:{self.spec.name}:{reason}", REPEATED_S, "warning", "issuer_keys_failed", stays,
            consumer=self._names, source=self.spec.name, why=reason,
        )
        self._publish()

    @property
    def _names(self) -> str:
        return ", ".join(name for name, _ in self.entries)

    def _publish(self) -> None:
        for _, source in self.entries:
            source.inherit(self.state)
