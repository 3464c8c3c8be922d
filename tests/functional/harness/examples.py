"""The examples of conf/examples/ as running gateways, before a scripted upstream and with keys of their own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tests.functional.harness.relay import ROOT


def example(name: str, folder: Path, url: str) -> dict[str, Any]:
    """The example with the scripted upstream's address and keys of its own, on the harness's listener."""
    folder.mkdir(parents=True, exist_ok=True)
    text = (ROOT / "conf" / "examples" / f"{name}.yaml").read_text(encoding="utf-8")
    for word in set(re.findall(r"/etc/relayd/keys/([a-z]+)", text)):
        (folder / word).write_text(f"key-of-{word}")
        (folder / word).chmod(0o640)
        text = text.replace(f"/etc/relayd/keys/{word}", str(folder / word))
    config: dict[str, Any] = yaml.safe_load(text)
    for word in ("listeners", "include"):
        config.pop(word, None)
    config.get("telemetry", {}).pop("statsd", None)
    if config.get("store", {}).get("kind") == "sqlite":
        config["store"]["path"] = str(folder / "store.sqlite")
    for upstream in config["upstreams"].values():
        addresses = upstream.get("endpoints", [url])
        path = addresses[0].partition("://")[2].partition("/")[2]
        upstream["endpoints"] = [f"{url}/{path}".rstrip("/")] if "endpoints" in upstream else [url]
        upstream.pop("discovery", None)
        upstream.pop("http", None)
        retries = upstream.get("retries", {})
        if True in retries:  # PyYAML takes `on` for a truth value; relayd does not
            retries["on"] = retries.pop(True)
    return {**config, "upstreams": {**config["upstreams"], "up": {"endpoints": [url]}}}
