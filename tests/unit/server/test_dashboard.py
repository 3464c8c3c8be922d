"""The dashboard without a socket: pages, files, the sign-in form, and the fields that restrict browsers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from relayd.access.sessions import Session
from relayd.errors import ExchangeError
from relayd.proxy.application import LocalRequest
from relayd.server import pages
from relayd.server.dashboard import MAX_FORM, Dashboard, form_value, is_dashboard, lacks_token
from relayd.server.dashboard_feed import DashboardFeed
from relayd.server.dashboard_state import State
from relayd.wire.json_steps import Steps
from tests.unit.server.recording_responder import RecordingResponder, later


class FakeBrowser:
    """A browser with or without a session. `result` is what its sign-in leads to."""

    def __init__(self, session: Session | None = None, result: str | ExchangeError = "token") -> None:
        self.session, self.result = session, result
        self.is_secure = False
        self.keys: list[bytes] = []
        self.signed_out = False

    def sign_in(self, key: bytes, on_done: Callable[[str | ExchangeError], None]) -> None:
        self.keys.append(key)
        on_done(self.result)

    def sign_out(self) -> None:
        self.signed_out = True


def state() -> Steps[State]:
    yield
    return {}


def ask(
    method: str, path: str, browser: FakeBrowser | None = None, body: bytes = b"", *, cross: bool = False,
    fields: Mapping[bytes, bytes] | None = None,
) -> RecordingResponder:
    responder = RecordingResponder()
    dashboard = Dashboard(DashboardFeed(state, bool, later))
    request = LocalRequest(method, f"/dashboard{path}", True, cross, (fields or {}).get, browser, "ops")
    handler = dashboard(request, responder)
    handler.feed(body, True)
    assert responder.response is not None
    assert b"default-src 'none'" in b"".join(responder.response.keep)
    return responder


def outcome(responder: RecordingResponder) -> tuple[int, str]:
    assert responder.response is not None and responder.ended
    return responder.response.status, responder.response.get(b"location")


SIGNED_IN = Session(b"digest", 1e9)


def test_the_page_depends_on_the_session() -> None:
    assert b'name="key"' in ask("GET", "/", FakeBrowser()).written
    for browser in (None, FakeBrowser(SIGNED_IN)):
        assert b"static/main.js" in ask("GET", "/", browser).written
    assert outcome(ask("GET", "", None)) == (308, "dashboard/")


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/session", 401), ("GET", "/events", 401), ("GET", "/other", 401), ("POST", "/", 405), ("GET", "/sign-in", 405),
    ("POST", "/sign-out", 403), ("GET", "/static/none.js", 404), ("GET", "/static/dashboard.html", 404),
    ("GET", "/static/../admin.py", 404), ("GET", "/static/__init__.py", 404),
])
def test_without_a_session_there_is_the_sign_in_and_nothing_else(method: str, path: str, status: int) -> None:
    assert outcome(ask(method, path, FakeBrowser()))[0] == status


def test_signed_in_there_are_a_session_and_a_stream() -> None:
    assert SIGNED_IN.csrf_token.encode() in ask("GET", "/session", FakeBrowser(SIGNED_IN)).written
    assert outcome(ask("HEAD", "/events", None))[0] == 200
    assert outcome(ask("GET", "/other", None))[0] == 404


def test_a_form_with_a_right_key_sets_a_cookie_for_this_site_only() -> None:
    browser = FakeBrowser()
    responder = ask("POST", "/sign-in", browser, b"x=1&key=sk%2Da+&y=")
    assert outcome(responder) == (303, "./") and browser.keys == [b"sk-a"]
    assert responder.response is not None
    assert responder.response.get(b"set-cookie") == "relayd_sign_in=token; Max-Age=28800; HttpOnly; SameSite=Strict"
    browser.is_secure = True
    responder = ask("POST", "/sign-in", browser, b"key=a")
    assert responder.response is not None and responder.response.get(b"set-cookie").endswith("; Secure")


@pytest.mark.parametrize(("code", "status"), [
    ("unauthorized", 401), ("forbidden", 403), ("too_many_failed_keys", 429), ("keys_unavailable", 503),
])
def test_a_refused_key_leads_back_to_the_form_with_the_reason(code: str, status: int) -> None:
    refused = ExchangeError(code, headers=(("Retry-After", "7"),))
    responder = ask("POST", "/sign-in", FakeBrowser(result=refused), b"key=<b>wrong")
    assert outcome(responder)[0] == status and b'role="alert"' in responder.written and b"wrong</" not in responder.written
    assert responder.response is not None and not responder.response.get(b"set-cookie")
    assert responder.response.get(b"retry-after") == "7"


def test_a_form_that_is_too_large_or_of_another_site_is_refused() -> None:
    browser = FakeBrowser()
    assert outcome(ask("POST", "/sign-in", browser, bytes(MAX_FORM + 1)))[0] == 413
    assert outcome(ask("POST", "/sign-in", browser, b"key=a", cross=True))[0] == 403
    assert browser.keys == []


def test_signing_out_needs_the_token_and_removes_the_cookie() -> None:
    browser = FakeBrowser(SIGNED_IN)
    assert outcome(ask("POST", "/sign-out", browser))[0] == 403 and not browser.signed_out
    token = {b"x-relayd-token": SIGNED_IN.csrf_token.encode()}
    responder = ask("POST", "/sign-out", browser, fields=token)
    assert outcome(responder) == (303, "./") and browser.signed_out
    assert responder.response is not None and "Max-Age=0" in responder.response.get(b"set-cookie")
    assert outcome(ask("POST", "/sign-out", None)) == (303, "./")


def test_only_browsers_that_have_signed_in_need_a_token() -> None:
    def lacks(browser: FakeBrowser | None, token: bytes = b"") -> bool:
        return lacks_token(LocalRequest("POST", "/reload", True, False, {b"x-relayd-token": token}.get, browser))

    assert not lacks(None) and lacks(FakeBrowser()) and lacks(FakeBrowser(SIGNED_IN)) and lacks(FakeBrowser(SIGNED_IN), b"x")
    assert not lacks(FakeBrowser(SIGNED_IN), SIGNED_IN.csrf_token.encode())


def test_actions_are_those_of_the_admin_application() -> None:
    assert is_dashboard("/dashboard") and is_dashboard("/dashboard/x") and is_dashboard("/dashboard/actions")
    assert not is_dashboard("/dashboard/actions/reload") and not is_dashboard("/dashboards") and not is_dashboard("/status")


def test_a_file_has_a_tag_and_is_not_sent_again() -> None:
    first = ask("GET", "/static/main.js", FakeBrowser())
    assert first.response is not None and first.response.get(b"content-type") == "text/javascript; charset=utf-8"
    tag = first.response.get(b"etag").encode()
    for value, status in ((tag, 304), (b"W/" + tag, 304), (b'"other"', 200)):
        again = ask("GET", "/static/main.js", FakeBrowser(), fields={b"if-none-match": value})
        assert outcome(again)[0] == status and (again.written == b"") is (status == 304)


@pytest.mark.parametrize(("body", "value"), [
    (b"key=a", b"a"), (b"key=a%20b", b"a b"), (b"key=+a+", b"a"), (b"", b""), (b"other=a", b""), (b"key=\xff", b""),
    (b"&".join([b"a=1"] * 20), b""), (b"key=%C3%A9", "é".encode()),
])
def test_a_value_of_a_form(body: bytes, value: bytes) -> None:
    assert form_value(body, "key") == value


def test_pages_have_no_script_or_style_inside_and_nothing_of_other_hosts() -> None:
    assert {"dashboard.html", "sign_in.html", "main.js", "page.css", "icon.svg"} <= pages.names()
    for name in pages.names():
        text = (pages.content(name) or b"").decode()
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", "javascript:"):
            assert sink not in text, (name, sink)
        assert "://" not in text.replace("http://www.w3.org/2000/svg", ""), name
        if name.endswith(".html"):
            assert text.count("<script") == text.count('<script type="module" src="static/') and "<style" not in text
