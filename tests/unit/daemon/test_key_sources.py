"""Keys of issuers: read in the background from files and URLs, kept over faults and reloads."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jwt", reason="needs python3-jwt")

from relayd.access.key_set import parse_key_set
from relayd.access.key_source import KeySource
from relayd.config.load import load_text
from relayd.config.model import Config
from relayd.daemon import key_sources
from relayd.daemon.key_sources import KeySources
from relayd.plan.compile import compile_plan
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient
from tests.aids.tokens import Signer, key_set

FIRST, SECOND = key_set(Signer("ES256")), key_set(Signer("ES256"), Signer("EdDSA", kid="k2"))


class Scene:
    """A service, and a server that answers with `body`, or not at all while it is None. `asked` counts its requests,
    `left` those that relayd gave up."""

    def __init__(self, state: str = "") -> None:
        self.log = io.StringIO()
        self.telemetry = Telemetry.build(TelemetrySettings(access_format="off", log_format="json"), self.log)
        self.client: StreamClient = StreamClient(force_instance=True)
        self.service = KeySources(self.client, self.telemetry, state)
        self.body: bytes | None = FIRST
        self.asked = self.left = 0
        self.server: asyncio.Server | None = None

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            if self.body is None:
                await reader.read()
                self.left += 1
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self.body) + self.body)
                await writer.drain()

    async def close(self) -> None:
        """End what was started, and wait for its end: a test must not leave a connection to the next one."""
        self.service.close()
        if self.server is not None:
            self.server.close()
        self.client.close()
        self.telemetry.close()
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            _, running = await asyncio.wait(tasks, timeout=30)
            assert not running, running

    async def config(self, jwks: str = "", name: str = "ci", timeout: str = "30s") -> Config:
        if self.server is None:
            self.server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        source = jwks or f'{{url: "http://127.0.0.1:{port}/keys", timeout: {timeout}}}'
        text = f"""listeners: {{p: {{address: "127.0.0.1:1"}}}}
upstreams: {{u: {{endpoints: ["http://127.0.0.1:2"]}}}}
consumers: {{{name}: {{jwt: {{issuer: i, jwks: {source}}}}}}}
routes: [{{name: all, upstream: u}}]"""
        return load_text(text, "relayd.yaml").config

    async def commit(self, jwks: str = "", name: str = "ci", timeout: str = "30s") -> KeySource:
        config = await self.config(jwks, name, timeout)
        await self.service.prepare(config)
        plan = compile_plan(config, 1)
        self.service.commit(plan)
        ((_, source),) = plan.consumers.key_sources()
        return source

    def events(self, name: str) -> list[dict[str, Any]]:
        return [one for one in map(json.loads, self.log.getvalue().splitlines()) if one["event"] == name]


@pytest.fixture
def scene(io_loop: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(key_sources, "FIRST_ANSWERS_S", 30.0)  # a machine may be slow

    async def make() -> Scene:
        return Scene()

    made: Scene = io_loop.run_sync(make)
    yield made
    io_loop.run_sync(made.close)


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


async def test_the_keys_of_a_url_are_there_when_the_preparation_ends(scene: Scene) -> None:
    source = await scene.commit()
    assert source.keys is not None and len(source.keys) == 1 and scene.asked == 1
    scene.service.gauges()
    assert scene.telemetry.metrics.value("relayd.access.issuer_keys_age", consumer="ci") >= 0


async def test_a_reload_keeps_the_keys_and_asks_nobody(scene: Scene) -> None:
    first = await scene.commit()
    scene.body = None
    second = await scene.commit(name="renamed")
    assert second is not first and second.keys is first.keys and scene.asked == 1


async def test_an_unknown_kid_leads_to_one_reading(scene: Scene) -> None:
    source = await scene.commit()
    scene.body = SECOND
    assert source.want(1e9)
    await until(lambda: source.keys is not None and len(source.keys) == 2)
    assert not source.want(1e9 + 30) and scene.asked == 2


async def test_a_server_that_answers_something_else_is_reported_and_its_keys_stay(scene: Scene) -> None:
    source = await scene.commit()
    keys = source.keys
    scene.body = b"{}"
    source.want(1e9)
    await until(lambda: scene.events("issuer_keys_failed"))
    assert source.keys is keys and "no JWK Set" in source.fault
    (event,) = scene.events("issuer_keys_failed")
    assert event["consumer"] == "ci" and "no JWK Set" in event["why"] and event["source"].endswith("/keys")
    assert "stay in use" in event["message"]
    scene.body = SECOND
    await until(lambda: source.keys is not keys)
    assert not source.fault and scene.events("issuer_keys_recovered")


async def test_a_server_that_is_silent_is_reported_when_its_time_is_over(scene: Scene) -> None:
    scene.body = None
    source = await scene.commit(timeout="100ms")
    assert source.keys is None and source.fault and scene.events("issuer_keys_failed")
    scene.body = FIRST
    await until(lambda: source.keys is not None)
    assert not source.fault


async def test_a_preparation_does_not_wait_for_ever_and_can_be_discarded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_sources, "FIRST_ANSWERS_S", 0.01)
    scene.body = None
    await scene.service.prepare(await scene.config(timeout="60s"))
    await until(lambda: scene.asked)
    scene.service.discard()
    await until(lambda: scene.left == 1)


async def test_a_file_is_read_again_when_it_changes(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_sources, "LOOK_S", 0.02)
    file = tmp_path / "jwks.json"
    file.write_bytes(FIRST)
    source = await scene.commit(f"{{file: {file}}}")
    assert source.keys is not None and len(source.keys) == 1
    file.write_bytes(SECOND)
    await until(lambda: source.keys is not None and len(source.keys) == 2)
    file.unlink()
    await until(lambda: "No such file" in source.fault)
    assert len(source.keys) == 2 and scene.events("issuer_keys_failed")


async def test_a_file_that_is_moved_away_and_back_is_right_again(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_sources, "LOOK_S", 0.02)
    file = tmp_path / "jwks.json"
    file.write_bytes(FIRST)
    source = await scene.commit(f"{{file: {file}}}")
    compiled_s = source.read_s
    await until(lambda: source.read_s != compiled_s)
    file.rename(tmp_path / "elsewhere")
    await until(lambda: source.fault)
    (tmp_path / "elsewhere").rename(file)  # the same file: neither its size nor its time is another one
    await until(lambda: not source.fault)
    assert scene.events("issuer_keys_recovered")


async def test_a_file_that_goes_after_the_plan_was_made_leaves_its_keys_in_use(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(FIRST)
    source = await scene.commit(f"{{file: {file}}}")
    file.unlink()
    await until(lambda: source.fault)
    assert source.keys is not None and "stay in use" in scene.events("issuer_keys_failed")[0]["message"]


async def test_a_document_that_the_plan_does_not_name_is_read_no_more(scene: Scene, tmp_path: Path) -> None:
    source = await scene.commit(timeout="60s")
    scene.body = None
    source.want(1e9)
    await until(lambda: scene.asked == 2)
    file = tmp_path / "jwks.json"
    file.write_bytes(FIRST)
    await scene.commit(f"{{file: {file}}}")
    await until(lambda: scene.left == 1)


async def test_a_fault_of_relayd_itself_ends_no_reading(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_sources, "RESTART_S", 0.01)
    broken = True

    def parse(data: bytes) -> Any:
        if broken:
            raise RuntimeError("broken")
        return parse_key_set(data)

    monkeypatch.setattr(key_sources, "parse_key_set", parse)
    source = await scene.commit()
    assert source.keys is None and "internal fault" in source.fault
    broken = False
    await until(lambda: source.keys is not None)


async def kept_by_an_earlier_process(folder: Path, issuer: Scene) -> str:
    """A state directory with the keys of an issuer. Returns `jwks` with its URL."""
    await issuer.config()
    assert issuer.server is not None
    jwks = f'{{url: "http://127.0.0.1:{issuer.server.sockets[0].getsockname()[1]}/keys", timeout: 30s}}'
    earlier = Scene(str(folder))
    assert (await earlier.commit(jwks)).keys is not None
    await earlier.close()
    return jwks


async def test_keys_of_an_earlier_process_are_used_while_the_issuer_hangs(scene: Scene, tmp_path: Path) -> None:
    jwks = await kept_by_an_earlier_process(tmp_path, scene)
    scene.body = None
    later = Scene(str(tmp_path))
    source = await later.commit(jwks)
    assert source.keys is not None and len(source.keys) == 1 and source.read_s is not None
    await until(lambda: scene.asked == 2)  # the document is read at once, however new the kept one is
    await later.close()


@pytest.mark.parametrize("kind", ["too old", "unreadable"])
async def test_kept_keys_that_cannot_be_used_are_none(kind: str, scene: Scene, tmp_path: Path) -> None:
    jwks = await kept_by_an_earlier_process(tmp_path, scene)
    (kept,) = (tmp_path / "issuer_keys").iterdir()
    if kind == "too old":
        os.utime(kept, (1e9, 1e9))
    else:
        kept.write_bytes(b"{}")
    scene.body = b"no"
    later = Scene(str(tmp_path))
    assert (await later.commit(jwks)).keys is None
    await later.close()
