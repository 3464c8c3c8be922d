"""`relayd doctor` and `relayd probe` as an operator runs them, beside a running relayd, on a machine with planted faults."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.aids.certificates import made
from tests.aids.ports import free_port
from tests.functional.harness.message import Message, answer
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream, saying

SECRETS = ("sk-accepted-0123456789", "sk-refused-0123456789")


def relayd(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "relayd", *arguments], capture_output=True, text=True, env=environment, timeout=120
    )


def key(folder: Path, number: int) -> dict[str, str]:
    file = folder / f"key{number}"
    file.write_text(SECRETS[number] + "\n")
    file.chmod(0o600)
    return {"file": str(file)}


def models(peer: Peer, message: Message) -> None:
    """A list of models for the accepted key; a 401 that repeats the key for any other."""
    peer.whole(message)
    told = message.get("authorization") or b""
    if told == b"Bearer " + SECRETS[0].encode():
        peer.send(answer(json.dumps({"data": [{"id": "m1"}, {"id": SECRETS[0]}]}).encode()))
    else:
        peer.send(answer(b'{"error": "' + told + b'"}', b"X-Key: " + told, status=b"401 Unauthorized"))


def test_a_machine_with_many_faults_gets_a_cause_and_a_cure_for_each(folder: Path) -> None:
    authority = made(folder, "authority", authority=True)
    expired = made(folder, "expired", "127.0.0.1", begins_d=-30, ends_d=-1, issuer=authority)
    other = made(folder, "other", "elsewhere.test", issuer=authority)
    own = made(folder, "own", "127.0.0.1")
    good = made(folder, "good", "127.0.0.1", issuer=authority)
    trust = {"tls": {"ca": authority.cert}}
    hole, waiting = socket.socket(), []
    with (
        Upstream(tls=expired.serving()) as old, Upstream(tls=other.serving()) as misnamed, Upstream(tls=own.serving()) as self_signed,
        Upstream(tls=good.serving()) as api, Upstream() as broken, hole, socket.create_server(("127.0.0.1", 0)) as held,
    ):
        api.script, broken.script = models, saying(answer(b"", status=b"503 Service Unavailable"))
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        for _ in range(4):  # its queue is full: a further connection gets no answer
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(hole.getsockname())
            waiting.append(one)
        ports = [free_port() for _ in range(2)]
        config: dict[str, Any] = {"upstreams": {
            "expired": {"endpoints": [old.url], **trust}, "misnamed": {"endpoints": [misnamed.url], **trust},
            "own": {"endpoints": [self_signed.url], **trust}, "closed": {"endpoints": [f"http://127.0.0.1:{ports[0]}"]},
            "hole": {"endpoints": [f"http://127.0.0.1:{hole.getsockname()[1]}"], "timeouts": {"connect": "1s"}},
            "broken": {"endpoints": [broken.url]}, "nowhere": {"endpoints": ["http://nowhere.invalid"]},
            "api": {"endpoints": [api.url + "/v1"], "protocol": "openai_chat", **trust,
                    "auth": {"bearer": [key(folder, 0), key(folder, 1)]}},
        }, "telemetry": {"statsd": {"address": f"127.0.0.1:{ports[1]}"}}}  # fmt: skip
        with Relay(folder / "r", "http://127.0.0.1:1", config) as relay:
            relay.write({"listeners": {"second": {"address": f"127.0.0.1:{held.getsockname()[1]}"}}})
            began = time.monotonic()
            told = relayd("doctor", "-c", str(relay.file), "--json")
            assert time.monotonic() - began < 60
            text = relayd("doctor", "-c", str(relay.file))
            probed = relayd("probe", "-c", str(relay.file))
            shown = relayd("probe", "-c", str(relay.file), "--json", "api")
            assert relay.status()["generation"] == 1
        for one in waiting:
            one.close()
    assert told.returncode == text.returncode == probed.returncode == shown.returncode == 1, told.stderr
    found = [finding for check in json.loads(told.stdout)["checks"] for finding in check["findings"]]
    causes = {(one["level"], one["subject"].partition(",")[0]): one["cause"] for one in found}
    for subject, cause in {
        "upstream expired": "the certificate expired on", "upstream misnamed": "is for elsewhere.test, not for 127.0.0.1",
        "upstream own": "self-signed", "upstream closed": "no connection", "upstream hole": "not established",
        "upstream broken": "answered 503", "upstream nowhere": "cannot be resolved",
        "upstream api": f"refuses the key of file {folder}/key1", "listener second": f"(pid {os.getpid()})",
        f"statsd 127.0.0.1:{ports[1]}": "no daemon receives there",
    }.items():  # fmt: skip
        assert cause in causes.get(("failure", subject), ""), (subject, causes)
    assert "2 models" in causes["fine", "upstream api"] and causes["fine", "listener public"] == "accepts connections"
    assert "changes that are not in force" in causes["warning", "running relayd"]
    assert all(one["cure"] for one in found if one["level"] in ("failure", "warning"))
    assert api.connections and not old.heads and not misnamed.heads and not self_signed.heads
    everything = "".join(run.stdout + run.stderr for run in (told, text, probed, shown))
    assert not [secret for secret in SECRETS if secret in everything]
    assert "\033" not in everything and "Traceback" not in everything
    assert json.loads(shown.stdout)["upstreams"][0]["endpoints"][0]["models"] == ["m1", "***"]


def test_no_prompt_is_sent_and_a_sound_machine_has_no_failure(folder: Path) -> None:
    with Upstream() as upstream, Relay(folder / "r", upstream.url) as relay:
        told = relayd("doctor", "-c", str(relay.file))
        assert told.returncode == 0, told.stdout
        assert told.stdout.splitlines()[-1].startswith("0 failures, ")
        assert {head.start.split()[0] for head in upstream.heads} <= {b"GET"}
