"""The pages in a real Chromium, under load: every page in both colour schemes and at three widths, without an error on
the console, a serious violation of axe-core, or anything wider than the window. Screenshots are kept in build/pages."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.dashboard import KEY, SCRIPT, Load, loaded
from tests.functional.harness.faults import until
from tests.functional.harness.relay import Relay

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
Keys = webdriver.Keys
TOP = Path(__file__).resolve().parents[2]
SHOTS = TOP / "build" / "pages"
AXE = TOP / "build" / "clients" / "node_modules" / "axe-core" / "axe.min.js"
PAGES = ("overview", "streams", "upstreams", "consumers", "failures", "configuration")
WIDTHS = {1400: 900, 768: 1000, 320: 640}
SCHEMES = ("light", "dark")
EXAMINED = ((1400, "light"), (1400, "dark"), (320, "light"))  # by axe-core, which takes a second for each page
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None or shutil.which("chromedriver") is None, reason="Chromium is not installed"
)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, Load]]:
    with loaded(tmp_path_factory.mktemp("pages")) as running:
        yield running


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(60)
    try:
        yield driver
    finally:
        driver.quit()


def resize(driver: Any, width: int, scheme: str) -> None:
    size = {"width": width, "height": WIDTHS[width], "deviceScaleFactor": 1, "mobile": width < 400}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def screenshot(driver: Any, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    found = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": False})
    (SHOTS / f"{name}.png").write_bytes(base64.b64decode(found["data"]))


def check(driver: Any, name: str, *, accessible: bool = True) -> None:
    """No error on the console, nothing wider than the window, and with `accessible` no serious violation."""
    errors = [one for one in driver.get_log("browser") if one["level"] in ("SEVERE", "WARNING")]
    assert errors == [], (name, errors)
    wide = driver.execute_script(
        "const limit = document.documentElement.clientWidth;"
        "const inside = (node) => node.closest('.scroll, .skip, thead');"
        "const wide = [...document.body.querySelectorAll('*')].filter((node) => !inside(node) &&"
        " node.getBoundingClientRect().right > limit + 1);"
        "return [document.documentElement.scrollWidth > limit, wide.slice(0, 5).map((node) => node.outerHTML.slice(0, 200))];"
    )
    assert wide == [False, []], (name, wide)
    if accessible and AXE.exists():
        driver.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE.read_text()})  # not subject to the page's CSP
        found = driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "axe.run(document, {resultTypes: ['violations']}).then((all) => done(all.violations), (error) => done([String(error)]));"
        )
        serious = [
            (one["id"], one["nodes"][0]["html"], one["nodes"][0]["failureSummary"]) for one in found
            if isinstance(one, str) or one["impact"] in ("serious", "critical")
        ]
        assert serious == [], (name, serious)


def signed_in(driver: Any, relay: Relay) -> None:
    driver.get(f"http://localhost:{relay.port}/dashboard/")
    if driver.find_elements("css selector", "#key"):
        driver.find_element("css selector", "#key").send_keys(KEY)
        driver.find_element("css selector", "button").click()
    until(lambda: driver.find_elements("css selector", "#connection.good"))


def show(driver: Any, page: str) -> None:
    driver.execute_script("location.hash = arguments[0]", page)
    until(lambda: driver.find_elements("css selector", f"nav a[href='#{page}'][aria-current]"))
    driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_in_both_schemes_and_at_three_widths(
    busy: tuple[Relay, Load], chromium: Any, width: int, scheme: str
) -> None:
    relay, _ = busy
    resize(chromium, width, scheme)
    chromium.delete_all_cookies()
    for name, path in (("sign-in", "dashboard/"), ("docs", "api/docs"), ("redoc", "api/redoc")):
        chromium.get(f"http://localhost:{relay.port}/{path}")
        screenshot(chromium, f"{name}-{scheme}-{width}")
        check(chromium, f"{name} {scheme} {width}", accessible=(width, scheme) in EXAMINED)
    signed_in(chromium, relay)
    for page in PAGES:
        show(chromium, page)
        screenshot(chromium, f"{page}-{scheme}-{width}")
        check(chromium, f"{page} {scheme} {width}", accessible=(width, scheme) in EXAMINED)


def test_texts_of_clients_and_endpoints_are_shown_as_texts(busy: tuple[Relay, Load], chromium: Any) -> None:
    relay, _ = busy
    resize(chromium, 1400, "light")
    signed_in(chromium, relay)
    for page in ("streams", "failures"):
        show(chromium, page)
        chromium.find_element("css selector", "#content .filter").send_keys("onerror")
        until(lambda: chromium.find_elements("css selector", "tbody tr"))
        assert SCRIPT in chromium.find_element("css selector", "tbody").text
    assert chromium.find_elements("css selector", "tbody script, tbody img") == []
    assert chromium.execute_script("return document.scripts.length") == 1
    check(chromium, "hostile texts")


def test_a_stream_is_cancelled_and_an_endpoint_drained_from_the_page(busy: tuple[Relay, Load], chromium: Any) -> None:
    relay, _ = busy
    resize(chromium, 1400, "light")
    signed_in(chromium, relay)
    show(chromium, "streams")
    before = relay.exchanges()
    chromium.find_element("css selector", "#content .filter").send_keys("model-3")
    until(lambda: "of" in chromium.find_element("css selector", ".bar .dim").text)
    row = chromium.find_element("css selector", "tbody tr")
    name = row.find_element("css selector", "button").get_attribute("aria-label")
    row.find_element("css selector", "button").click()
    chromium.find_element("css selector", "#confirm-yes").click()
    until(lambda: relay.exchanges() == before - 1)
    record = relay.record(id=name.split()[1])
    assert (record["outcome"].split(".")[0], record["code"], record["detail"]) == ("admin", "stopped", "cancelled by ops")
    show(chromium, "upstreams")
    chromium.find_element("css selector", "#content .filter").send_keys("spare-07")
    until(lambda: len(chromium.find_elements("css selector", "section[aria-label='Endpoints'] tbody tr")) == 1)
    chromium.find_element("css selector", "button[aria-label^='Drain spare-07']").click()
    chromium.find_element("css selector", "#confirm-yes").click()
    until(lambda: chromium.find_elements("css selector", "button[aria-label^='Enable spare-07']"))
    chromium.find_element("css selector", "button[aria-label^='Enable spare-07']").click()
    until(lambda: chromium.find_elements("css selector", "button[aria-label^='Drain spare-07']"))
    check(chromium, "actions")


def test_tabs_share_one_event_stream_and_one_takes_over(busy: tuple[Relay, Load], chromium: Any) -> None:
    relay, _ = busy
    resize(chromium, 1400, "light")
    signed_in(chromium, relay)

    def streams() -> int:
        return sum(one["path"] == "/dashboard/events" for one in relay.status()["exchanges"])

    first = chromium.current_window_handle
    others = []
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            chromium.switch_to.new_window("tab")
            others.append(chromium.current_window_handle)
            chromium.get(f"http://localhost:{relay.port}/dashboard/#streams")
            until(lambda: chromium.find_elements("css selector", "tbody tr"))
        assert streams() == 1
        chromium.switch_to.window(first)
        chromium.close()
        chromium.switch_to.window(others[0])
        until(lambda: streams() == 1)
        before = chromium.find_element("css selector", "#updated").text
        until(lambda: chromium.find_element("css selector", "#updated").text != before)
        stack.pop_all()
    for handle in others[1:]:
        chromium.switch_to.window(handle)
        chromium.close()
    chromium.switch_to.window(others[0])


def test_the_page_works_by_keyboard(busy: tuple[Relay, Load], chromium: Any) -> None:
    relay, _ = busy
    resize(chromium, 1400, "dark")
    signed_in(chromium, relay)
    chromium.execute_script("location.hash = ''")
    chromium.find_element("css selector", "body").send_keys("3")
    until(lambda: chromium.execute_script("return location.hash") == "#upstreams")
    chromium.find_element("css selector", "body").send_keys("/")
    assert chromium.switch_to.active_element.get_attribute("class") == "filter"
    chromium.switch_to.active_element.send_keys("spare-01")
    until(lambda: len(chromium.find_elements("css selector", "section[aria-label='Endpoints'] tbody tr")) == 1)
    data = json.loads(chromium.execute_async_script("fetch('session').then((all) => all.text()).then(arguments[0])"))
    assert (data["consumer"], data["may_write"]) == ("ops", True)


def test_a_generation_is_rolled_back_by_keyboard(busy: tuple[Relay, Load], chromium: Any) -> None:
    relay, _ = busy
    resize(chromium, 1400, "light")
    before = relay.file.read_bytes()
    relay.write({"routes": [*relay.config["routes"][:-1], {"name": "all", "match": {"prefix": "/"}, "respond": {"body": "new"}}]})
    assert relay.admin("/reload", "POST")[0] == 200
    signed_in(chromium, relay)
    chromium.find_element("css selector", "body").send_keys("6")
    button = "button[aria-label='Roll back to generation 1']"
    until(lambda: chromium.find_elements("css selector", button))
    check(chromium, "generations")
    chromium.find_element("css selector", button).send_keys(Keys.ENTER)
    until(lambda: chromium.find_elements("css selector", "#confirm[open]"))
    assert "routes.all" in chromium.find_element("css selector", "#confirm-detail").text
    assert chromium.switch_to.active_element.text == "Keep"  # nothing happens by Enter alone
    check(chromium, "rollback")
    chromium.switch_to.active_element.send_keys(Keys.TAB)
    chromium.switch_to.active_element.send_keys(Keys.ENTER)
    until(lambda: "Generation 3 is in force" in chromium.find_element("css selector", "#toasts").text)
    assert any("generation 1 was restored" in warning for warning in relay.status()["config"]["warnings"])
    until(lambda: chromium.find_elements("css selector", "button[aria-label='Roll back to generation 2']"))
    assert not chromium.find_elements("css selector", "button[aria-label='Roll back to generation 3']")
    relay.file.write_bytes(before)
    assert relay.admin("/reload", "POST")[0] == 200


def test_an_operation_is_tried_from_its_form_with_a_key(busy: tuple[Relay, Load], chromium: Any) -> None:
    relay, _ = busy
    resize(chromium, 1400, "light")
    chromium.get(f"http://localhost:{relay.port}/api/docs")
    chromium.find_element("css selector", "#key").send_keys(KEY)
    form = "form[data-path='/v1/chat/completions']"
    chromium.execute_script(f"document.querySelector(\"{form}\").closest('details').open = true")
    chromium.find_element("css selector", f"{form} button").click()
    until(lambda: "chat.completion" in chromium.find_element("css selector", f"{form} output").text)
    assert relay.record(path="/v1/chat/completions", model="m")["consumer"] == "ops"
    check(chromium, "try")
