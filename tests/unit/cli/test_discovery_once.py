"""One lookup of a discovery: what it finds, and why it finds nothing, within its time."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from relayd.cli.discovery_once import discovered
from relayd.cli.main import main
from relayd.config.load import load
from relayd.plan.specs import upstream_spec
from relayd.upstream.discovered import LookupFault
from relayd.upstream.spec import UpstreamSpec
from relayd.upstream.transport.client import StreamClient
from tests.functional.harness.upstream import Upstream
from tests.unit.cli.doctor.cases import written


def spec_of(folder: Path, discovery: dict[str, Any]) -> UpstreamSpec:
    path = written(folder, upstreams={"up": {"discovery": discovery}})
    return upstream_spec("up", load(path).config.upstreams["up"])


def looked_up(spec: UpstreamSpec, timeout_s: float = 60.0) -> UpstreamSpec:
    async def main() -> UpstreamSpec:
        client: StreamClient = StreamClient(force_instance=True)
        try:
            return await discovered(client, spec, timeout_s)
        finally:
            client.close()

    return asyncio.run(main())


def test_the_addresses_that_a_source_has_now(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- http://127.0.0.1:8001/v1\n- http://127.0.0.1:8002\n")
    spec = looked_up(spec_of(tmp_path, {"file": {"path": str(tmp_path / "list.yaml")}}))
    assert [one.label for one in spec.endpoints] == ["127.0.0.1:8001", "127.0.0.1:8002"]
    assert looked_up(spec_of(tmp_path, {"command": {"argv": ["/bin/echo", "http://127.0.0.1:9"]}})).endpoints[0].label == "127.0.0.1:9"


@pytest.mark.parametrize(("discovery", "reason"), [
    ({"file": {"path": "{0}/empty.yaml"}}, "nothing was found"), ({"file": {"path": "{0}/none.yaml"}}, "No such file"),
    ({"docker": {"name": "x", "engine": "unix:{0}/docker.sock"}}, "docker.sock"),
    ({"command": {"argv": ["/bin/false"]}}, "false"),
])
def test_a_source_that_has_none_is_named_with_the_reason(tmp_path: Path, discovery: Any, reason: str) -> None:
    (tmp_path / "empty.yaml").write_text("[]\n")
    with pytest.raises(LookupFault, match=reason):
        looked_up(spec_of(tmp_path, json.loads(json.dumps(discovery).replace("{0}", str(tmp_path)))))


def test_a_source_that_hangs_ends_at_the_time_limit(tmp_path: Path) -> None:
    path = str(tmp_path / "docker.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        with pytest.raises(LookupFault, match=r"no result within 0\.3 s"):
            looked_up(spec_of(tmp_path, {"docker": {"name": "x", "engine": f"unix:{path}"}}), 0.3)


def test_a_probe_asks_the_addresses_that_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Upstream() as upstream:
        (tmp_path / "list.yaml").write_text(f"- {upstream.url}\n")
        path = written(tmp_path, upstreams={
            "up": {"discovery": {"file": {"path": str(tmp_path / "list.yaml")}}},
            "away": {"discovery": {"docker": {"name": "x", "engine": f"unix:{tmp_path}/docker.sock"}}},
        })
        assert main(["probe", "-c", path, "up"]) == 0
        assert f"endpoint      {upstream.url}" in capsys.readouterr().out
        assert main(["probe", "-c", path]) == 1
        told = capsys.readouterr().out
        assert "no address is found" in told and "relayd-security(7)" in told
