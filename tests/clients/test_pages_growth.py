"""A page that is open for long does not grow: neither the objects of its scripts nor its elements, whatever comes and goes.

`PAGES_ROUNDS` makes it a soak: a round is 1200 streams, and takes about 20 seconds."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.clients.dashboard import chat, loaded
from tests.functional.harness.faults import until
from tests.functional.harness.relay import Relay

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from tests.clients.test_pages import chromium, pytestmark, resize, show, signed_in  # noqa: E402

__all__ = ("chromium", "pytestmark")
STREAMS = 200
ROUNDS = int(os.environ.get("PAGES_ROUNDS", "2"))  # of each page, after one that fills the list of failures
PAGES = ("streams", "upstreams", "consumers", "failures", "configuration", "overview")
NEW_OBJECTS = 200  # intervals of the history, one in ten seconds; a leak is as many as there were streams
PROTOTYPES = ("Object", "Array", "Map")


def measured(driver: Any, relay: Relay) -> dict[str, int]:
    """After a collection: the size of the heap, which also has compiled code and the browser's own records, the numbers of
    objects of scripts, of elements and of listeners; and the memory of relayd."""
    for _ in range(3):
        driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    found = {one["name"]: int(one["value"]) for one in driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]}
    status = Path(f"/proc/{relay.pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    elements = evaluated(driver, "document.querySelectorAll('*').length")
    return {
        "heap": found["JSHeapUsedSize"], "nodes": found["Nodes"], "listeners": found["JSEventListeners"],
        "elements": elements, "objects": sum(map(partial(objects, driver), PROTOTYPES)), "relayd_kib": resident,
    }


def objects(driver: Any, name: str) -> int:
    """The number of objects with this prototype."""
    made = driver.execute_cdp_cmd("Runtime.evaluate", {"expression": f"{name}.prototype", "objectGroup": "counted"})
    found = driver.execute_cdp_cmd("Runtime.queryObjects", {"prototypeObjectId": made["result"]["objectId"], "objectGroup": "counted"})
    length = driver.execute_cdp_cmd("Runtime.callFunctionOn", {
        "functionDeclaration": "function () { return this.length; }", "objectId": found["objects"]["objectId"],
    })  # fmt: skip
    driver.execute_cdp_cmd("Runtime.releaseObjectGroup", {"objectGroup": "counted"})
    return int(length["result"]["value"])


def churn(driver: Any, relay: Relay, number: int) -> None:
    """Streams come, are shown, and go, with models and requests that were not there before."""
    before = in_flight(relay)
    with contextlib.ExitStack() as clients:
        for one in range(STREAMS):
            client = clients.enter_context(relay.client())
            client.send(chat(f"model-{number}-{one}", stream=True))
        until(lambda: in_flight(relay) >= before + STREAMS)
        until(lambda: count(driver) >= before + STREAMS)
    until(lambda: in_flight(relay) <= before)
    until(lambda: count(driver) <= before)


def in_flight(relay: Relay) -> int:
    """The number of streams, also beyond those that the status lists."""
    return int(relay.status()["in_flight"])


def count(driver: Any) -> int:
    """The number of streams that the page shows."""
    return evaluated(driver, "Number(document.querySelector(\"nav a[href='#streams'] .count\").textContent)")


def evaluated(driver: Any, expression: str) -> int:
    """A number of the page. WebDriver's own commands leave objects in the page at each call."""
    found = driver.execute_cdp_cmd("Runtime.evaluate", {"expression": expression, "returnByValue": True})
    return int(found["result"]["value"])


def test_neither_the_objects_nor_the_elements_of_a_page_grow(tmp_path: Path, chromium: Any) -> None:
    with loaded(tmp_path / "r", 5, 40) as (relay, _):
        resize(chromium, 1400, "light")
        signed_in(chromium, relay)
        chromium.execute_cdp_cmd("Performance.enable", {})
        for number, page in enumerate(PAGES):
            show(chromium, page)
            churn(chromium, relay, number)
        show(chromium, PAGES[0])
        first = measured(chromium, relay)
        for number in range(ROUNDS):
            for page in PAGES:
                evaluated(chromium, f"(location.hash = {page!r}, 0)")
                churn(chromium, relay, 1000 + number)
            print(number, measured(chromium, relay), flush=True)
        evaluated(chromium, f"(location.hash = {PAGES[0]!r}, 0)")
        until(lambda: count(chromium) <= 6)
        last = measured(chromium, relay)
    print("first", first, "last", last)
    assert last["objects"] - first["objects"] < NEW_OBJECTS, (first, last)
    assert last["elements"] <= first["elements"] and last["nodes"] <= first["nodes"] + 50, (first, last)
    assert last["listeners"] <= first["listeners"], (first, last)
