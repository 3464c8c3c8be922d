"""`relayd top` in a real terminal, with a real relayd and streams under way."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.aids.terminal import Emulator
from tests.functional.harness.faults import until
from tests.functional.harness.message import Message, chunk, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Peer, Upstream

JSON = b"Content-Type: application/json"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
UP, DOWN, ESCAPE = "\x1b[A", "\x1b[B", "\x1b"
MODELS = ("zebra", "small\x1b[2J\x1b]0;title\x07", "mid")
WIDE, NARROW = (110, 20), (60, 12)


def endless(peer: Peer, message: Message) -> None:
    """A stream that begins and never ends."""
    peer.whole(message)
    piece = {"choices": [{"index": 0, "delta": {"content": "word " * 20}}]}
    peer.send(STREAM + chunk(b"data: " + json.dumps(piece).encode() + b"\n\n"))
    with contextlib.suppress(OSError):
        peer.sock.recv(1)


def streams(relay: Relay, count: int) -> bool:
    """True if this number of streams is under way."""
    return sum(str(one["room"]) == "transfer" for one in relay.status()["exchanges"]) == count


def chat(model: str) -> bytes:
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
    return request(b"/v1/chat/completions", JSON, b"Content-Length: %d" % len(body), method=b"POST") + body


@pytest.fixture
def busy(folder: Path) -> Iterator[Relay]:
    """A relayd with one stream for each of MODELS, the first one the oldest."""
    change = {
        "upstreams": {"up": {"protocol": "openai_chat"}, "spare": {"endpoints": ["http://127.0.0.1:9", "http://127.0.0.1:11"]}},
        "routes": [{"name": "llm", "match": {"prefix": "/"}, "protocol": "openai_chat", "upstream": "up"}],
    }
    with Upstream() as upstream, contextlib.ExitStack() as clients:
        upstream.script = endless
        with Relay(folder / "r", f"{upstream.url}/v1", change) as relay:
            for number, model in enumerate(MODELS, 1):
                client = clients.enter_context(relay.client())
                client.send(chat(model))
                until(partial(streams, relay, number))
            yield relay
            clients.close()


class Top:
    """A `relayd top` in a terminal."""

    def __init__(self, relay: Relay, *words: str, size: tuple[int, int] = WIDE, environment: dict[str, str] | None = None) -> None:
        master, self.slave = pty.openpty()
        self.terminal = Emulator(master, *size)
        self.before = termios.tcgetattr(self.slave)
        command = [sys.executable, "-m", "relayd", "top", "--socket", relay.admin_path, *words]
        self.process = subprocess.Popen(
            command, stdin=self.slave, stdout=self.slave, stderr=self.slave, cwd=relay.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(environment or {})},
        )

    def __enter__(self) -> Top:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.slave)
        os.close(self.terminal.master)

    def press(self, keys: str) -> None:
        self.terminal.press(keys)

    def ends(self) -> int:
        """The exit code, once the terminal was restored."""
        self.terminal.wait(lambda: self.process.poll() is not None)
        while self.terminal.raw.rpartition(b"\x1b[?1049")[2][:1] != b"l":
            assert self.terminal.read()
        assert termios.tcgetattr(self.slave) == self.before
        return self.process.returncode

    @property
    def models(self) -> list[str]:
        """The models in the order of the rows."""
        return [name for line in self.terminal.lines for name in ("zebra", "small", "mid") if name in line and "transfer" in line]


def test_streams_are_sorted_and_filtered_and_the_terminal_is_restored(busy: Relay) -> None:
    with Top(busy) as top:
        top.terminal.shows("AGEv")
        top.press(">>>")  # the column of models
        top.terminal.shows("MODELv")
        top.terminal.wait(lambda: top.models == ["zebra", "small", "mid"])
        top.press("r")
        top.terminal.wait(lambda: top.models == ["mid", "small", "zebra"])
        top.press("/MID\r")
        top.terminal.wait(lambda: top.models == ["mid"])
        top.press(ESCAPE)
        top.terminal.wait(lambda: len(top.models) == 3)
        top.press("q")
        assert top.ends() == 0
        assert b"\x1b[2J\x1b]0;title" not in top.terminal.raw and b"\x07" not in top.terminal.raw


def test_the_selected_stream_is_cancelled_after_a_question(busy: Relay) -> None:
    with Top(busy, "--sort", "model") as top:
        top.terminal.wait(lambda: top.models == ["mid", "small", "zebra"])
        top.press(DOWN + DOWN + UP + "c")
        top.terminal.shows("Cancel POST /v1/chat/completions of no consumer? [y/N]")
        top.press("n")
        top.terminal.shows("nothing was done")
        top.press("c")
        top.terminal.shows("[y/N]")
        top.press("y")
        top.terminal.wait(lambda: top.models == ["mid", "zebra"])
        top.terminal.shows("done")
        record = busy.record(code="stopped")
        assert record["model"].startswith("small") and record["detail"] == "cancelled by an operator"
        top.press("q")
        assert top.ends() == 0


def test_an_endpoint_is_drained_and_enabled_and_the_detail_shows_its_cells(busy: Relay) -> None:
    with Top(busy, "--view", "upstreams", "--filter", "127.0.0.1:11") as top:
        top.terminal.shows("127.0.0.1:11", "available")
        top.press("d")
        top.terminal.shows("Drain spare 127.0.0.1:11? [y/N]")
        top.press("y")
        top.terminal.shows("draining", "Drain spare 127.0.0.1:11: done")
        assert {one["address"]: one["state"] for one in json.loads(busy.admin("/upstreams")[1])["upstreams"][1]["endpoints"]} == {
            "127.0.0.1:9": "enabled", "127.0.0.1:11": "draining",
        }
        top.press("d")
        top.terminal.shows("not possible for this row: drain")
        top.press("ey")
        top.terminal.shows("Enable spare 127.0.0.1:11: done")
        top.press("\r")
        top.terminal.shows("  state         available", "any key: back")
        top.press("xq")
        assert top.ends() == 0


def test_a_narrow_terminal_a_resize_and_no_colours(busy: Relay) -> None:
    with Top(busy, size=NARROW, environment={"NO_COLOR": "1"}) as top:
        top.terminal.shows("AGEv", "zebra")
        assert "1 Streams 3" in top.terminal.text and "SENT" not in top.terminal.text
        top.press("2")
        top.terminal.shows("spare", "127.0.0.1:11")
        top.terminal.resize(*WIDE, pid=top.process.pid)
        top.press("1")
        top.terminal.shows("SENT", "REQUEST", "3 Consumers 0")
        assert b"\x1b[31m" not in top.terminal.raw and b"\x1b[32m" not in top.terminal.raw
        top.press("q")
        assert top.ends() == 0


def test_a_lost_connection_is_reported_and_tried_again(busy: Relay) -> None:
    with Top(busy) as top:
        top.terminal.wait(lambda: len(top.models) == 3)
        assert busy.process is not None
        busy.process.kill()
        busy.process.wait()
        top.terminal.shows("no connection, trying again:")
        assert len(top.models) == 3  # the last state
        busy.start()
        top.terminal.hides("no connection,")
        top.terminal.shows("No request is under way.")
        top.press("q")
        assert top.ends() == 0


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 0), (signal.SIGHUP, 129)])
def test_a_signal_ends_it_and_the_terminal_is_restored(busy: Relay, number: signal.Signals, code: int) -> None:
    with Top(busy) as top:
        top.terminal.wait(lambda: len(top.models) == 3)
        top.process.send_signal(number)
        assert top.ends() == code


def test_a_pause_keeps_the_state_until_it_ends(busy: Relay) -> None:
    with Top(busy) as top:
        top.terminal.wait(lambda: len(top.models) == 3)
        top.press("p")
        top.terminal.shows("PAUSED")
        one = next(one for one in busy.status()["exchanges"])
        assert busy.admin(f"/streams/{one['id']}/cancel", "POST")[0] == 200
        until(lambda: busy.exchanges() == 2)
        top.press("?")
        top.terminal.shows("choose the view")
        top.press("x")
        top.terminal.wait(lambda: len(top.models) == 3)
        top.press("p")
        top.terminal.wait(lambda: len(top.models) == 2)
        top.press("q")
        assert top.ends() == 0


def test_nothing_is_changed_if_it_is_read_only(busy: Relay) -> None:
    with Top(busy, "--read-only") as top:
        top.terminal.wait(lambda: len(top.models) == 3)
        assert "cancel" not in top.terminal.lines[-1]
        top.press("c")
        top.terminal.shows("read-only: this user may not change anything")
        top.press("q")
        assert top.ends() == 0


def printed(relay: Relay, *words: str, **options: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "relayd", "top", "--socket", relay.admin_path, *words], cwd=relay.folder, capture_output=True,
        text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT), **options},
    )
    return done.returncode, done.stdout, done.stderr


def test_one_screen_is_printed_as_text(busy: Relay) -> None:
    code, out, err = printed(busy, "--once", "--sort", "model", "--reverse", COLUMNS="90", LINES="30")
    assert (code, err) == (0, "") and "\x1b" not in out
    rows = [line for line in out.splitlines() if "transfer" in line]
    assert [name for line in rows for name in ("zebra", "small", "mid") if name in line] == ["zebra", "small", "mid"]
    assert max(map(len, out.splitlines())) <= 90
    code, out, err = printed(busy, "--once", "--sort", "wrong")
    assert code == 2 and "has no column 'wrong'; it has: age, state" in err


def test_without_a_terminal_it_is_the_status_again_and_again(busy: Relay) -> None:
    command = [sys.executable, "-m", "relayd", "top", "--interval", "100ms", "--socket", busy.admin_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        count = 0
        for line in process.stdout:
            assert "\x1b" not in line
            count += "exchanges in flight" in line
            if count == 2:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_without_a_relayd_it_ends_with_the_reason(busy: Relay) -> None:
    busy.stop()
    with Top(busy) as top:
        top.terminal.wait(lambda: top.process.poll() is not None)
        top.terminal.shows("relayd: nothing to show:")
        assert top.process.returncode == 1 and b"\x1b[?1049h" not in top.terminal.raw


def test_a_stop_by_the_user_restores_the_terminal_until_it_goes_on(busy: Relay) -> None:
    with Top(busy) as top:
        top.terminal.wait(lambda: len(top.models) == 3)
        top.process.send_signal(signal.SIGTSTP)
        state = Path(f"/proc/{top.process.pid}/stat")
        top.terminal.wait(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")
        top.terminal.wait(lambda: top.terminal.raw.endswith(b"\x1b[?1049l"))
        assert termios.tcgetattr(top.slave) == top.before
        top.process.send_signal(signal.SIGCONT)
        top.terminal.wait(lambda: top.terminal.raw.count(b"\x1b[?1049h") == 2)
        top.press("2")
        top.terminal.shows("127.0.0.1:11")
        top.press("q")
        assert top.ends() == 0
