"""A module that is put into a plug-in folder is all that a new kind needs: configuration, check, manual and work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.faults import until
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream

HEAD = "from __future__ import annotations\n\nfrom relayd.schema import Secret, Size, section, setting\n"
PLANTED = {
    "upstream/balancers/last_one.py": '"""The last one of the list, or one before it."""\n\n' + HEAD + '''

@section()
class Options:
    """Which one is last, with `balance: last_one`."""

    before: int = setting(default=0, doc="How many stand behind the chosen one.", minimum=0)


class Balancer:
    affinity = None
    numbers_endpoints = False

    def __init__(self, options, chance):
        self._before = options.before

    def join(self, endpoints):
        pass

    def pick(self, candidates, key):
        return sorted(candidates, key=lambda one: one.index)[-1 - self._before]
''',
    "upstream/discovery/signpost.py": '"""Addresses on a signpost."""\n\n' + HEAD + '''
import asyncio

from relayd.upstream.discovered import Address


@section()
class Options:
    """A signpost."""

    arms: tuple[str, ...] = setting(doc="What its arms say.")


class Discovery:
    def __init__(self, options, tools):
        self._arms = options.arms
        self.interval_s = 3600.0
        self.source = f"signpost with {len(options.arms)} arms"

    def faults(self):
        return ()

    def cautions(self):
        if len(self._arms) > 9:
            yield "arms", "are too many to read"

    async def run(self, report):
        report.found([Address(url) for url in self._arms])
        await asyncio.Event().wait()
''',
    "telemetry/sinks/notebook.py": '"""Metrics written into a notebook."""\n\n' + HEAD + '''
from relayd.telemetry.names import Metric


@section()
class Options:
    """A notebook."""

    file: str = setting(doc="Where it lies.", pattern="/.*")


class Sink:
    metrics = (Metric("relayd.telemetry.pages", "counter", "", (), "Pages of the notebook."),)
    takes_samples = False
    interval_s = 0.1

    def __init__(self, options, metrics):
        self._file, self._metrics = options.file, metrics

    @staticmethod
    def name_of(metric):
        return ""

    def prepare(self):
        return None

    def flush(self):
        self._metrics.add("relayd.telemetry.pages")
        with open(self._file, "a") as file:
            file.write(f"{self._metrics.value('relayd.proxy.requests')}\\\\n")

    def page(self, accept=""):
        return None

    def close(self):
        self.flush()
'''.replace("\\\\n", "\\n"),
    "stores/shelf.py": '"""On a shelf."""\n\n' + HEAD + '''
from relayd.errors import OptionError
from relayd.stores import memory


@section()
class Options:
    """The shelf."""

    shelf: str = setting(doc="Its number.", pattern="[0-9]+")


class Store(memory.Store):
    @classmethod
    def open(cls, options, bounds):
        if options.shelf == "13":
            raise OptionError("shelf", "is unlucky")
        print(f"shelf {options.shelf} of {bounds.entries}", flush=True)
        return cls(bounds.entries, bounds.size_bytes, bounds.ttl_s)
''',
    "access/authenticators/badge.py": '"""A badge, read backwards."""\n\n' + HEAD + '''
from relayd.access.credential import Credential


def backwards(value):
    return value.strip()[::-1] or None


@section()
class Options:
    """A badge."""

    badge: Secret = setting(doc="The badge that a consumer wears in X-Badge.")


class Authenticator:
    def __init__(self, options):
        self._secret = options.badge

    def credentials(self, key_headers=()):
        yield Credential(b"x-badge", backwards, self._secret)

    def lines(self):
        return [f"X-Badge: {self._secret.reveal()[::-1]}"]
''',
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """relayd with one more module in every plug-in folder."""
    top = tmp_path_factory.mktemp("planted")
    shutil.copytree(ROOT / "relayd", top / "relayd", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in PLANTED.items():
        (top / "relayd" / name).write_text(text)
    return top


def run(tree: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "relayd", *words], cwd=tree, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(tree), "BADGE": "gold"},
    )
    return done.returncode, done.stdout + done.stderr


def config(folder: Path, **change: Any) -> dict[str, Any]:
    return {
        "upstreams": {"up": {"balance": "last_one", "last_one": {"before": 1}}},
        "consumers": {"guest": {"badge": {"env": "BADGE"}}},
        "routes": [{"name": "all", "upstream": "up", "allow": ["guest"]}],
        "store": {"kind": "shelf", "shelf": "7", "entries": 50},
        "telemetry": {"notebook": {"file": str(folder / "notebook")}},
        **change,
    }


@pytest.mark.parametrize("word", ["last_one", "notebook", "shelf", "badge", "signpost"])
def test_a_planted_kind_is_in_the_schema_the_sample_and_the_manual(tree: Path, word: str) -> None:
    for form in ("--json", "--sample", "--man"):
        code, text = run(tree, "schema", form)
        assert code == 0 and word in text.replace("\\", ""), form
    schema = json.loads(run(tree, "schema", "--json")[1])
    assert "last_one" in json.dumps(schema["$defs"]["Upstream"]["properties"]["balance"])
    assert "shelf" in schema["$defs"]["Store"]["properties"] and "badge" in schema["$defs"]["Consumer"]["properties"]
    assert "notebook" in schema["$defs"]["Telemetry"]["properties"]


def test_the_manual_explains_a_planted_kind_in_its_own_words(tree: Path) -> None:
    page = " ".join(run(tree, "schema", "--man")[1].replace("\\", "").split())
    for text in (
        "The last one of the list, or one before it.", "How many stand behind the chosen one.", "Where it lies.",
        "On a shelf.", "Its number.", "Addresses on a signpost.", "What its arms say.", "The badge that a consumer wears in X-Badge.",
    ):
        assert text in page
    metrics = subprocess.run(
        [sys.executable, "-m", "tests.docs.metrics_page"], cwd=tree, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tree), str(ROOT)))},
    ).stdout
    assert ".SH NOTEBOOK" in metrics and "relayd.telemetry.pages" in metrics


def test_check_knows_the_options_of_a_planted_kind(tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "relayd.yaml"
    base = {
        "listeners": {"public": {"address": "127.0.0.1:1"}}, "admin": {"address": f"unix:{tmp_path}/admin.sock"},
    }

    def checked(**change: Any) -> tuple[int, str]:
        made = config(tmp_path, **change)
        made["upstreams"]["up"]["endpoints"] = ["http://127.0.0.1:1"]
        file.write_text(json.dumps({**base, **made}))
        return run(tree, "check", "-c", str(file))

    assert checked()[0] == 0
    for change, fault in (
        ({"upstreams": {"up": {"balance": "last_one", "last_one": {"before": -1}}}}, "upstreams.up.last_one.before"),
        ({"telemetry": {"notebook": {"file": "here"}}}, "telemetry.notebook.file"),
        ({"telemetry": {"notebook": {}}}, "telemetry.notebook.file: is missing"),
        ({"store": {"kind": "shelf", "shelf": "seven"}}, "store.shelf"),
        ({"store": {"kind": "shelf"}}, "store.shelf: is missing"),
        ({"store": {"kind": "memory", "shelf": "7"}}, "store.shelf: has a meaning only with kind: shelf"),
        ({"consumers": {"guest": {"badge": "gold"}}}, "consumers.guest.badge"),
    ):
        code, text = checked(**change)
        assert code == 78 and fault.partition(":")[0] in text and fault.rpartition(": ")[2] in text, (fault, text)


def test_a_planted_discovery_is_checked_and_at_work(tree: Path, tmp_path: Path) -> None:
    with Upstream() as only:
        change = config(tmp_path)
        change["upstreams"]["up"] = {"endpoints": None, "discovery": {"signpost": {"arms": [only.url]}}}
        environment = {"PYTHONPATH": str(tree), "BADGE": "gold"}
        with Relay(tmp_path, only.url, change, environment=environment) as relay, relay.client() as client:
            until(lambda: relay.status()["upstreams"][0]["endpoints"])
            assert relay.status()["upstreams"][0]["discovery"]["source"] == "signpost with 1 arms"
            assert client.ask(request(b"/", b"X-Badge: dlog")).status == 200
            relay.write({"upstreams": {"up": {"discovery": {"signpost": {"arms": [only.url] * 10}}}}})
            code, text = run(tree, "check", "-c", str(relay.file))
            assert code == 0 and "upstreams.up.discovery.signpost.arms: are too many to read" in text, text


def test_planted_kinds_are_at_work(tree: Path, tmp_path: Path) -> None:
    def says(name: bytes) -> Any:
        def script(peer: Peer, message: Message) -> None:
            peer.whole(message)
            assert message.get("x-badge") is None or name == b"never"
            peer.send(answer(name))

        return script

    with Upstream() as first, Upstream() as second, Upstream() as third:
        for upstream, name in ((first, b"first"), (second, b"second"), (third, b"third")):
            upstream.script = says(name)
        change = config(tmp_path)
        change["upstreams"]["up"]["endpoints"] = [first.url, second.url, third.url]
        environment = {"PYTHONPATH": str(tree), "BADGE": "gold"}
        with Relay(tmp_path, first.url, change, environment=environment) as relay, relay.client() as client:
            assert client.ask(request(b"/", b"X-Badge: gold")).status == 401
            for _ in range(3):
                assert client.ask(request(b"/", b"X-Badge: dlog")).body == b"second"
            notebook = tmp_path / "notebook"
            until(lambda: notebook.exists() and "4" in notebook.read_text().split())
            assert b"relayd_telemetry_pages_total" in relay.admin("/metrics")[1]
            assert b"shelf 7 of 50" in relay.output()
            assert not (first.faults or second.faults or third.faults)


def test_an_option_that_a_planted_kind_cannot_use_refuses_the_start(tree: Path, tmp_path: Path) -> None:
    change = config(tmp_path, store={"kind": "shelf", "shelf": "13"})
    change["upstreams"]["up"]["endpoints"] = ["http://127.0.0.1:1"]
    relay = Relay(tmp_path, "http://127.0.0.1:1", change, environment={"PYTHONPATH": str(tree), "BADGE": "gold"})
    with pytest.raises(AssertionError, match=r"store\.shelf.*is unlucky"):
        relay.start()
